"""Street digits: real handwritten digits in colour on textured backgrounds, with parts of neighbouring digits. Drawn here.

Similar to SVHN, but without download and with known factors: global ones (digit, stroke_scale) and local ones (digit_colour,
texture, and ground_colour, the hue of the background). The digits are scikit-learn's 1,797, 8x8 pixels; each is drawn many
times.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from sklearn.datasets import load_digits
from torch import Tensor

from vae_zoo.config.types import Count, Shape
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.datamodule import DataModule, check_size
from vae_zoo.data.render.colours import ground_and_ink
from vae_zoo.data.storage.cache import cached_array

SIDE = 32
TEXTURES = ("plain", "stripes", "checks", "dots", "clouds")
SIZES = (19.0, 21.0, 23.0, 25.0)  # pixels a side of the square that a digit fills, by stroke_scale
NAMES = ("digit", "digit_colour", "texture", "ground_colour", "stroke_scale")
FACTORS = (
    *(Factor(name, size, "categorical") for name, size in zip(NAMES, (10, 6, len(TEXTURES), 6))),
    Factor("stroke_scale", len(SIZES), "ordered"),
)
DISTRACTOR = 0.6  # probability of a neighbour on each side
CHUNK = 2000  # images drawn at a time
CACHE_NAME = "street_digits_v1"  # a new number whenever `draw` gives other pixels


class StreetDigits(DataModule):
    """Handwritten digits in colour on textured backgrounds, with parts of neighbouring digits; the label is the digit.

    The grouping `identity` is the handwritten digit that is drawn, so the handwritten digits of val and test do not occur in
    training, except as neighbours, which are only partly visible.

    Args:
        num_images: Number of images, >= 1, about equally many of each handwritten digit.
        cache: Folder for them.
        image_shape: [3, 32, 32].
        **common: As in DataModule.
    """

    licence = ("cc-by-4.0", "handwritten digits of scikit-learn (UCI, CC BY 4.0) on backgrounds drawn by vae_zoo")
    default_label = "digit"
    groupings = ("label", "identity", *NAMES)

    def __init__(
        self, num_images: Count = 20_000, cache: str = "~/.cache/vae_zoo", image_shape: Shape = (3, SIDE, SIDE), **common
    ):
        check_size(image_shape, (SIDE,))
        super().__init__(image_shape, **common)
        self.num_images, self.cache = num_images, Path(cache).expanduser()

    def load(self) -> Arrays:
        """Draws the images, or maps those of the cache."""
        identity, factors = scenes(self.num_images)
        path, shape = self.cache / f"{CACHE_NAME}_{self.num_images}.npy", (self.num_images, 3, SIDE, SIDE)
        images = cached_array(path, lambda: draw(identity, factors), shape)
        return Arrays(images, factors[:, 0], 10, factors.astype(np.uint8), FACTORS, groups={"identity": identity})


def scenes(num_images: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, "N 5"]]:
    """Draws the factors of the images, with a fixed seed.

    Args:
        num_images: Number of images, N.

    Returns:
        Which of the 1,797 handwritten digits is drawn, all equally often, and the factors, columns NAMES.
    """
    digits: Any = load_digits()
    rng, target = np.random.default_rng(0), digits.target
    identity = rng.permutation(np.arange(num_images) % len(target))
    others = rng.integers([factor.size for factor in FACTORS[1:]], size=(num_images, len(FACTORS) - 1))
    return identity, np.column_stack([target[identity], others])


def draw(identity: Int[np.ndarray, " N"], factors: Int[np.ndarray, "N 5"]) -> UInt8[np.ndarray, "N 3 32 32"]:
    """Draws images; place, angle and lighting are random with a fixed seed, which gives the same for the same N.

    Args:
        identity: Handwritten digits, 0..1796.
        factors: Columns NAMES.
    """
    digits: Any = load_digits()
    glyphs = torch.from_numpy(digits.images / 16).float()[:, None]  # [1797, 1, 8, 8]
    glyphs = F.interpolate(glyphs, scale_factor=4, mode="bicubic").clamp(0, 1)
    generator = torch.Generator().manual_seed(0)
    parts = zip(torch.from_numpy(identity).split(CHUNK), torch.from_numpy(factors).split(CHUNK))
    return torch.cat([_draw(glyphs, i, f, generator) for i, f in parts]).numpy()


def _draw(glyphs: Tensor, identity: Tensor, factors: Tensor, generator: torch.Generator) -> Tensor:
    _, digit_colour, texture, ground_colour, scale = factors.unbind(1)
    N = len(identity)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(N, *shape, generator=generator)

    hues = [colour / 6 + uniform(-0.02, 0.02) for colour in (ground_colour, digit_colour)]
    colours = ground_and_ink(*(t.numpy() for t in (*hues, uniform(0, 1), uniform(0, 1))))
    ground, ink = map(torch.from_numpy, colours)  # [N, 3]
    relief = textures(N, generator)[torch.arange(N), texture]  # [N, 32, 32] in [-1, 1]
    image = (ground[:, :, None, None] * (1 + 0.35 * relief[:, None])).clamp(0, 1)
    size = torch.tensor(SIZES)[scale]
    where = uniform(-1.5, 1.5, 2)  # pixels off the middle, x and y
    covered = _place(glyphs[identity], size, uniform(-10, 10), where)
    for side in (-1, 1):
        there = uniform(0, 1) < DISTRACTOR
        neighbour = torch.randint(len(glyphs), (N,), generator=generator)
        beside = where + torch.stack([side * uniform(20, 24), uniform(-3, 3)], dim=1)
        seen = _place(glyphs[neighbour], size, uniform(-10, 10), beside)
        covered = torch.maximum(covered, seen * there[:, None, None, None])
    image = torch.lerp(image, ink[:, :, None, None], covered)
    image = image + 0.015 * torch.randn(image.shape, generator=generator)
    return image.mul(255).round().clamp(0, 255).byte()


def textures(N: int, generator: torch.Generator) -> Float[Tensor, "{N} 5 32 32"]:
    """Draws the relief of each of the TEXTURES for N images, in [-1, 1].

    Args:
        N: Images.
        generator: Source of the random numbers.
    """
    angle, period, *phases = torch.rand(4, N, 1, 1, generator=generator)
    angle, period = math.pi * angle, 5 + 3 * period
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    u, v = (2 * math.pi * (t / period + phase) for t, phase in zip((along, across), phases))
    clouds = F.interpolate(2 * torch.rand(N, 1, 6, 6, generator=generator) - 1, size=(SIDE, SIDE), mode="bicubic")[:, 0]
    plain, stripes, checks = torch.zeros_like(u), u.sin().sign(), (u.sin() * v.sin()).sign()
    dots = 2 * ((u.cos() + v.cos()) > 0.9).float() - 1
    return torch.stack([plain, stripes, checks, dots, clouds.clamp(-1, 1)], dim=1)  # in the order of TEXTURES


def _place(glyphs: Tensor, size: Tensor, degrees: Tensor, where: Tensor) -> Tensor:
    """Coverage of each pixel by scaled, rotated and shifted glyphs [N, 1, h, w]: [N, 1, 32, 32] in [0, 1]."""
    angle, zoom = degrees * math.pi / 180, SIDE / size
    cos, sin, (x, y) = zoom * angle.cos(), zoom * angle.sin(), (2 * where / SIDE).unbind(1)
    theta = torch.stack([cos, -sin, sin * y - cos * x, sin, cos, -sin * x - cos * y], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(glyphs), 1, SIDE, SIDE], align_corners=False)
    seen = F.grid_sample(glyphs, grid, align_corners=False)
    return (2.5 * seen - 0.6).clamp(0, 1)  # edges of strokes as sharp as the pixels
