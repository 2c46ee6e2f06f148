"""Cartoon faces with known factors: who it is (identity factors) and how the picture was taken (style factors).

Image (i, j), the j-th of identity i, is a function of (root, i, j) alone, since every factor is a hash of these numbers. So
adding identities or images changes no image, and a batch equals its images drawn one by one.
vae_zoo.data.render.cartoon_drawing draws the factors.

    u[k]      = hash(root, stream, i, j, k) in [0, 1);  identity factors have a stream of their own, and j = 0
    factor[k] = neutral + strength * (low + (high - low) * u[k] - neutral);  strength = 1 for identity factors,
                                                                             turns modulo 1, classes rounded down
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8, UInt64

from vae_zoo.data.arrays import Factor
from vae_zoo.data.render import hashed
from vae_zoo.data.render.cartoon_drawing import HAIR_STYLES, SIDE, TEXTURES, draw

Array = np.ndarray
Numbers = Integer[Array, " N"]
Factors = Float[Array, "N 36"]
VERSION = 2  # a new number whenever other pixels are drawn
IDENTITY, STYLE, CONFOUND, NOISE = range(4)  # streams of the hash
CHUNK = 16  # images drawn at a time, so that arrays stay in the processor's cache


@dataclass(frozen=True)
class Range(Factor):
    """A factor and the distribution of its values.

    Attributes:
        low: Least value; values are uniform.
        high: Bound above, not reached.
        neutral: Value at style strength 0.
    """

    low: float = 0.0
    high: float = 1.0
    neutral: float = 0.0


def _reals(prefix: str, **ranges: tuple[float, ...]) -> tuple[Range, ...]:
    """name=(low, high), or (low, high, neutral)."""
    return tuple(Range(f"{prefix}_{name}", 0, "continuous", None, *values) for name, values in ranges.items())


def _classes(name: str, size: int) -> tuple[Range]:
    return (Range(name, size, "categorical", None, 0, size),)


def _turns(name: str, neutral: float = 0.0) -> tuple[Range]:
    """An angle, or a hue, in turns of its circle: all of it, on both sides of the neutral value."""
    return (Range(name, 0, "circular", 1.0, neutral - 0.5, neutral + 0.5, neutral),)


# Lengths are shares of the head's height, or pixels (px) of a head of scale 1, 42 px high.
IDENTITY_RANGES = (
    *_reals("id", head_aspect=(0.72, 1.1), jaw=(1.4, 4.0), skin_tone=(0, 1)),  # width / height, exponent, light to dark
    *_turns("id_hair_hue"),
    *_reals("id", hair_saturation=(0.25, 0.9), hair_value=(0.25, 0.95)),
    *_classes("id_hair_style", len(HAIR_STYLES)),
    *_reals("id", eye_spacing=(0.38, 0.58), eye_size=(0.07, 0.15), eye_aspect=(0.5, 1.2)),  # of head width; height / width
    *_turns("id_iris_hue"),
    *_reals("id", brow_thickness=(1, 6), brow_slant=(-30, 30)),  # px; degrees, positive: outer end up
    *_reals("id", nose_length=(0.1, 0.26), nose_width=(0.05, 0.16)),
    *_reals("id", mouth_width=(0.2, 0.6), lip_thickness=(1, 7), lip_hue=(-0.3, 0.15)),  # ..., px, turns from red
    *_classes("id_beard", 2),
)
STYLE_RANGES = (
    *_reals("style", yaw=(-35, 35), roll=(-20, 20), pitch=(-15, 15)),  # degrees; positive: right, clockwise, up
    *_reals("style", dx=(-6, 6), dy=(-6, 6), scale=(0.85, 1.15, 1)),  # px, positive: right, down
    *_reals("style", light_azimuth=(-80, 80), light_intensity=(0.5, 1.1, 0.8), ambient=(0.35, 0.6, 0.5)),
    *_reals("style", smile=(-1, 1), mouth_open=(0, 1), eye_open=(0.15, 1, 0.9), brow_raise=(-1, 1)),
    *_turns("style_background_hue", neutral=0.55),
    *_turns("style_background_angle"),
    *_classes("style_background_texture", len(TEXTURES)),
    *_reals("style", noise=(0, 0.02)),  # standard deviation of the pixels, white = 1
)
FACTORS = IDENTITY_RANGES + STYLE_RANGES
NAMES = tuple(f.name for f in FACTORS)
IDENTITY_FACTORS, STYLE_FACTORS = NAMES[: len(IDENTITY_RANGES)], NAMES[len(IDENTITY_RANGES) :]
HELD_OUT = {"id_hair_style": HAIR_STYLES.index("curly"), "id_beard": 1}  # never together in training


def factors(identity: Numbers, image: Numbers, *, strength: float = 1.0, confound: float = 0.0, root: int = 0) -> Factors:
    """Draws the factors of images, columns NAMES, float32.

    Args:
        identity: Number of the person that each image shows, >= 0.
        image: Number of each image among those of its identity, >= 0.
        strength: Share of the range of each style factor that is used, around its neutral value, 0 to 1.
        confound: Probability that the hue of the background is that of the identity instead of the image, 0 to 1.
        root: Seed >= 0; each gives other people in other styles.
    """
    first = np.zeros_like(identity)
    who = hashed.uniform(hashed.address(root, IDENTITY, identity, first), len(IDENTITY_RANGES))
    how = hashed.uniform(hashed.address(root, STYLE, identity, image), len(STYLE_RANGES) + 1)
    hue = STYLE_FACTORS.index("style_background_hue")
    own_hue = hashed.uniform(hashed.address(root, CONFOUND, identity, first), 1)[:, 0]
    how[:, hue] = np.where(how[:, -1] < confound, own_hue, how[:, hue])
    return np.concatenate([_values(who, IDENTITY_RANGES, 1.0), _values(how[:, :-1], STYLE_RANGES, strength)], axis=1)


def noise_key(identity: Numbers, image: Numbers, *, root: int = 0) -> hashed.Keys:
    """The keys of the pixel noise of images.

    Args:
        identity: As in `factors`.
        image: As in `factors`.
        root: As in `factors`.
    """
    return hashed.address(root, NOISE, identity, image)


def is_held_out(factors: Factors) -> Bool[Array, " N"]:
    """Whether faces have the combination HELD_OUT.

    Args:
        factors: Columns NAMES.
    """
    return np.all([factors[:, NAMES.index(name)] == value for name, value in HELD_OUT.items()], axis=0)


def render(factors: Factors, noise_key: UInt64[Array, " N"] | None = None) -> UInt8[Array, "N 3 64 64"]:
    """Draws images of any factors.

    Args:
        factors: Columns NAMES, units as in IDENTITY_RANGES and STYLE_RANGES.
        noise_key: Keys from the function `noise_key`; None: no noise.
    """
    images = np.empty((len(factors), 3, SIDE, SIDE), dtype=np.uint8)
    deviation = np.array(factors[:, NAMES.index("style_noise"), None, None, None], np.float32)
    for start in range(0, len(factors), CHUNK):
        part = slice(start, start + CHUNK)
        canvas = draw(dict(zip(NAMES, factors[part].T)))
        if noise_key is not None:
            canvas += deviation[part] * _normal(noise_key[part], canvas[0].size).reshape(canvas.shape)
        canvas *= 255
        images[part] = np.rint(canvas.clip(0, 255, out=canvas), out=canvas)
    return images


def _values(u: Array, ranges: tuple[Range, ...], strength: float) -> Array:
    low, high, neutral = (np.array([getattr(r, name) for r in ranges]) for name in ("low", "high", "neutral"))
    values = neutral + strength * (low + (high - low) * u - neutral)
    whole, turns = ([r.kind == kind for r in ranges] for kind in ("categorical", "circular"))
    values[:, whole] = np.floor(values[:, whole])
    values[:, turns] %= 1
    return values.astype(np.float32)


def _normal(key: Array, count: int) -> Array:
    """Nearly N(0, 1), float32 [N, count]: the sum of four bytes of the hash, whose 1021 levels suffice for pixel noise."""
    bits = hashed.bits(key, count // 2)
    every_other, ones = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001)  # whose product adds up in its top bits
    pairs = [((bits >> np.uint64(s)) & every_other) * ones >> np.uint64(48) for s in (0, 8)]
    total = np.array(pairs, np.float32).swapaxes(0, 1)
    return ((total - 510) / np.float32((65535 / 3) ** 0.5)).reshape(len(key), count)
