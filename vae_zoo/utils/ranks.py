"""Treats the batches of all ranks of a ddp training as one batch.

ddp averages gradients over ranks. A value that every rank computes from the rows of all ranks, such as a mean over the
batch, then has the same gradient as in one process with the joined batch: gradients flow to the rows of the other ranks and
are summed there. Every rank must call these functions equally often and in the same order: only in training steps.
"""

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor


class Joined(NamedTuple):
    """rows: of all ranks, those of rank 0 first; own: which of them are this rank's."""

    rows: Tensor
    own: slice


def number() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def joined(x: Tensor) -> Joined:
    """The rows of x [B, ...] of all ranks, which may have different numbers of them."""
    if number() == 1:
        return Joined(x, slice(0, len(x)))
    size = torch.full((), len(x), device=x.device)
    sizes = [torch.zeros_like(size) for _ in range(number())]
    dist.all_gather(sizes, size)
    counts = torch.stack(sizes).tolist()
    begin = sum(counts[: dist.get_rank()])
    own = slice(begin, begin + len(x))
    rows = x.new_zeros(sum(counts), *x.shape[1:])
    rows[own] = x
    return Joined(_added(rows), own)


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


def _added(x: Tensor) -> Tensor:
    """The sum of x over ranks; gradients are summed too."""
    return cast(Tensor, _Added.apply(x))


def mean(x: Tensor) -> Tensor:
    """Mean over the rows of all ranks, [B, ...] -> [...]."""
    if number() == 1:
        return x.mean(0)
    return _added(x.sum(0)) / all_rows(x)


def all_rows(x: Tensor) -> Tensor:
    """The number of rows of x on all ranks, []."""
    count = torch.full((), float(len(x)), device=x.device)
    if number() > 1:
        dist.all_reduce(count)
    return count
