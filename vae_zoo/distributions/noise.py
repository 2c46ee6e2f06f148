"""Seeded noise: the source of every random draw of a model.

Training: torch's global generator, seeded before each step with (seed, step, rank), so a resumed run needs no generator
state. Evaluation: the noise of an image is a hash of (seed, image index, draw, position), so results do not depend on the
batch size, on the number of processes or on earlier evaluations, and evaluation does not affect training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vae_zoo.utils.splitmix import mix


def widest_float(device: torch.device) -> torch.dtype:
    """The widest float type of a device: float64, or float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def seed_step(seed: int, step: int, rank: int = 0, device: torch.device | None = None) -> None:
    """Seeds the generators of the CPU and of a device for one training step.

    Args:
        seed: Seed of the run.
        step: Main batches trained on so far, >= 0.
        rank: Rank of the process.
        device: Device whose generator is seeded as well as that of the CPU; None: only the CPU.
    """
    value = (mix(mix(mix(seed) ^ step) ^ rank) >> 1) & (2**63 - 1)
    # not torch.manual_seed: until CUDA is used it formats a stack trace for each call, a millisecond on small networks
    torch.default_generator.manual_seed(value)
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)
    elif device is not None and device.type == "mps":
        torch.mps.manual_seed(value)


class _PerImage:
    def __init__(self, index: Tensor, seed: int):
        self.index, self.seed, self.draws = index, seed, 0


_current: _PerImage | None = None


@contextmanager
def per_image(index: Int[Tensor, " B"], seed: int = 0) -> Iterator[None]:
    """Makes draws of `uniform` and `normal` functions of (seed, index of the row, number of the draw) inside the context.

    Args:
        index: Indices of the images in their data set. Row r of every draw belongs to index[r].
        seed: Seed of the evaluation.
    """
    global _current
    outer, _current = _current, _PerImage(index, seed)
    try:
        yield
    finally:
        _current = outer


def uniform(like: Float[Tensor, "..."], sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Draws from U(0, 1), open at both ends.

    Args:
        like: Gives shape, device and type.
        sample_shape: Axes put before those of `like`.

    Returns:
        [*sample_shape, *like.shape].

    Raises:
        ValueError: Inside `per_image`, `like` has another number of rows than there are images.
    """
    if _current is None:
        noise = torch.rand(*sample_shape, *like.shape, device=like.device, dtype=like.dtype)
    else:
        noise = _hashed_uniform(_current, like, sample_shape).to(like.dtype)
    return noise.clamp_(torch.finfo(noise.dtype).tiny, 1 - torch.finfo(noise.dtype).eps)


def normal(like: Float[Tensor, "..."], sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Draws from N(0, 1).

    Args:
        like: Gives shape, device and type.
        sample_shape: Axes put before those of `like`.

    Returns:
        [*sample_shape, *like.shape].

    Raises:
        ValueError: Inside `per_image`, `like` has another number of rows than there are images.
    """
    if _current is None:
        return torch.randn(*sample_shape, *like.shape, device=like.device, dtype=like.dtype)
    return (_hashed_uniform(_current, like, sample_shape).mul_(2).sub_(1).erfinv_() * 2**0.5).to(like.dtype)


def key_of(x: Float[Tensor, "B ..."]) -> Int[Tensor, " B"]:
    """Hashes each image to a number that depends only on its pixels: for `per_image` without an index.

    Pixels are rounded to 16 bits, since x / 255 differs in its last bit from one device to another.

    Args:
        x: Images in [0, 1].
    """
    bits = (x.flatten(1) * 65535).round().long()
    products = bits * mix(torch.arange(bits.shape[1], device=x.device))
    # the sum of the products wraps; onnxruntime's would saturate, so neither half's sum exceeds 53 bits
    return (products & (2**32 - 1)).sum(1) + (products >> 32).sum(1) * 2**32


def _hashed_uniform(of: _PerImage, like: Tensor, sample_shape: tuple[int, ...]) -> Tensor:
    """float64 in (0, 1), a counter-based generator: splitmix64's finaliser over (row key, position)."""
    rows, row_shape = like.shape[0], like.shape[1:]
    if rows != of.index.shape[0]:
        raise ValueError(f"per-image noise: got {rows} rows for {of.index.shape[0]} images")
    of.draws += 1
    image = mix(of.index.to(like.device) ^ mix(of.seed))  # [B]
    key = mix(image ^ mix(of.draws))  # mixed apart: image i's draw 2 is not image i + 1's draw 1
    position = torch.arange(prod(sample_shape) * prod(row_shape), device=like.device)
    bits = mix(key[:, None] + mix(position)[None])  # [B, samples * row]
    wide = widest_float(like.device)
    digits = 52 if wide == torch.float64 else 23  # one more would round up to 1
    noise = ((bits >> (64 - digits)) & (2**digits - 1)).to(wide).add_(0.5).mul_(2.0**-digits)
    noise = noise.view(rows, prod(sample_shape), *row_shape).movedim(0, 1)
    return noise.reshape(*sample_shape, *like.shape)
