"""Views of images, which keep part of their information and destroy the rest; a local code alone must explain a view.

A view is a function of a batch [B, C, H, W] with separate noise for each image (vae_zoo.distributions.noise): new noise at
each training step, the same if a run is resumed. PatchShuffle keeps colours and texture and destroys the layout;
GaussianBlur does the opposite. Source: 51616/split-vae, augmentation.py.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Real
from torch import Tensor

from vae_zoo.config.types import BlurRadii, BlurWidths, Count, Patches, Positive
from vae_zoo.distributions import noise


@dataclass(frozen=True)
class Identity:
    """The view that does not change the image."""

    def __call__(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The images themselves."""
        return x


@dataclass(frozen=True)
class PatchShuffle:
    """Shuffles the patches of a grid, uniformly over all permutations; nothing changes within a patch.

    Args:
        patch: Side of a patch, pixels >= 1. 1 keeps only the set of colours; with the side of the image nothing changes.
    """

    patch: Count

    def __call__(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Shuffles images. Raises ValueError if patches do not tile them."""
        return _take(x, _shuffled_places(x, self.patch))


@dataclass(frozen=True)
class MixedPatchShuffle:
    """PatchShuffle with a patch of one of several sides, drawn for each image.

    Args:
        patches: Sides of patches, pixels >= 1.
    """

    patches: Patches = (1, 2, 4, 8)

    def __call__(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Shuffles images. Raises ValueError if patches do not tile them."""
        places = torch.stack([_shuffled_places(x, patch) for patch in self.patches])  # [S, B, H W]
        drawn = (noise.uniform(x.new_empty(x.shape[0])) * len(self.patches)).long()  # [B]
        return _take(x, places[drawn, torch.arange(x.shape[0], device=x.device)])


@dataclass(frozen=True)
class GaussianBlur:
    """Blurs each image with a separate Gaussian; the kernel sums to 1, and beyond the border the image is mirrored.

    Args:
        sigma: [min, max] standard deviation of the Gaussian, pixels > 0; uniform.
        radius: [min, max] distance at which it is truncated, pixels >= 1; uniform.
    """

    sigma: BlurWidths = (5.0, 10.0)
    radius: BlurRadii = (3, 6)

    def __call__(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Blurs images."""
        u = noise.uniform(x.new_empty(x.shape[0], 2))
        least, most = self.sigma
        sigma = least + (most - least) * u[:, 0]
        least, most = self.radius
        radius = least + ((most - least + 1) * u[:, 1]).floor()
        return blur(x, sigma, radius, most)


@dataclass(frozen=True)
class HighLowPass:
    """Splits images into high and low frequencies by a Gaussian blur: (x - low + 1) / 2, then low.

    Args:
        sigma: Standard deviation of the Gaussian, pixels > 0.
        radius: Distance at which it is truncated, pixels >= 1.
    """

    sigma: Positive = 1.0
    radius: Count = 4

    def __call__(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2*C H W"]:
        """Splits images, which get twice the channels."""
        one = x.new_ones(x.shape[0])
        low = blur(x, self.sigma * one, self.radius * one, self.radius)
        return torch.cat([(x - low + 1) / 2, low], dim=1)


def blur(
    x: Float[Tensor, "B C H W"], sigma: Float[Tensor, " B"], radius: Real[Tensor, " B"], most: int
) -> Float[Tensor, "B C H W"]:
    """Blurs each image with a separate Gaussian; beyond the border the image is mirrored.

    Args:
        x: Images.
        sigma: Standard deviations, pixels > 0.
        radius: Distance at which each Gaussian is truncated, pixels <= most.
        most: Largest radius.
    """
    # a product with a matrix for each axis, since the kernel is separable; so different kernels in a batch need no loop
    offsets = torch.arange(-most, most + 1, device=x.device)  # [T], T taps
    kernel = (-0.5 * (offsets / sigma[:, None]).square()).exp() * (offsets.abs() <= radius[:, None])  # [B, T]
    kernel = kernel / kernel.sum(1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 has fewer grey levels than the images
        rows, columns = (torch.einsum("bt,tij->bij", kernel, _shifts(offsets, side).to(x)) for side in x.shape[2:])
        return torch.einsum("bih,bchw,bjw->bcij", rows, x, columns)


def _shifts(offsets: Tensor, side: int) -> Tensor:
    """[T, side, side]: 1 if pixel j is at this offset from pixel i on an axis that is mirrored at its ends, else 0."""
    pixels = torch.arange(side, device=offsets.device)
    source = (pixels + offsets[:, None]) % (2 * side)  # [T, side]
    source = torch.minimum(source, 2 * side - 1 - source)
    return source[..., None] == pixels


def _shuffled_places(x: Tensor, patch: int) -> Tensor:
    """For each pixel of the shuffled images the index of its source pixel, row-major [B, H W]."""
    B, _, H, W = x.shape
    if H % patch or W % patch:
        raise ValueError(f"patches of {patch} pixels do not tile images of {H}x{W}; give a divisor of both sides")
    rows, columns = H // patch, W // patch
    order = _permutations(x, rows * columns).view(B, rows, 1, columns, 1)  # the patch that each cell shows
    top, left = patch * (order // columns), patch * (order % columns)
    within = torch.arange(patch, device=x.device)
    return ((top + within[:, None, None]) * W + left + within).flatten(1)  # rows, rows within, columns, columns within


def _permutations(x: Tensor, N: int) -> Tensor:
    """A permutation of 0..N-1 for each image [B, N], uniform except for ties of 24 random bits.

    All are sorted as one row of integers, which torch sorts by their digits, twice as fast as rows of reals.
    """
    # x.shape[0] and not len(x), which would fix the number of images of an exported graph
    row = torch.arange(x.shape[0], device=x.device)[:, None]
    key = (row << 24) + (noise.uniform(x.new_empty(x.shape[0], N)) * 2**24).long()
    return key.flatten().argsort().view(-1, N) - N * row


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Pixels [B, C, H, W] from these places [B, H W]; all channels together."""
    return x.flatten(2).gather(2, places[:, None].expand(-1, x.shape[1], -1)).view_as(x)
