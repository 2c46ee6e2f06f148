"""malloc tuning for training on a CPU, and host-to-device copies."""

import ctypes
import sys

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copies a CPU tensor to the device, from pinned memory, since other copies wait for all work of the GPU."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def keep_freed_memory() -> bool:
    """Keeps freed blocks in the process for reuse. Returns whether mallopt succeeded.

    By default glibc maps each block of more than 32 MB separately and returns it to the system when it is freed, so the
    activations of every step are paged in and zeroed again. This costs a quarter of the time of the 64x64 convolutions
    (benchmarks/throughput.py). musl, macOS and Windows have no such call.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
