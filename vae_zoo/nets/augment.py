"""Augmentation: random affine transforms of images."""

from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import Momentum, NonNegative
from vae_zoo.distributions import noise


@dataclass(frozen=True)
class RandomAffine:
    """Rotates, scales, shears and shifts each image independently; pixels from outside the image are 0.

    All four are uniform.

    Args:
        rotate: Largest rotation in both directions, degrees.
        scale: Largest change of size, as a share, in [0, 1).
        shear: Largest shear, as a share.
        shift: Largest shift, as a share of the image's side.
    """

    rotate: NonNegative = 15.0
    scale: Momentum = 0.1
    shear: NonNegative = 0.2
    shift: NonNegative = 0.1

    def __call__(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Distorts images."""
        u = 2 * noise.uniform(x.new_empty(len(x), 6)) - 1  # [B, 6] in (-1, 1)
        angle, shear = self.rotate * pi / 180 * u[:, 0], self.shear * u[:, 1]
        cos, sin = angle.cos(), angle.sin()
        stretch = 1 / (1 + self.scale * u[:, 2:4])  # the grid has the source of each pixel
        aspect = x.shape[2] / x.shape[3]  # coordinates of the grid are relative to each side
        turned = torch.stack([cos, (shear * cos - sin) * aspect, sin / aspect, shear * sin + cos], 1).view(-1, 2, 2)
        theta = torch.cat([turned * stretch[:, None], 2 * self.shift * u[:, 4:, None]], dim=2)  # [B, 2, 3]
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
