"""Arrays that are expensive to make, kept on disk and shared between processes."""

import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import atomic

Array = np.ndarray
Shape = tuple[int, ...]
log = logging.getLogger(__name__)


def cached_array(path: Path, build: Callable[[], Array], shape: Shape, dtype: DTypeLike = np.uint8) -> Array:
    """The array of the .npy file at `path`, which `build` makes if it is not there yet.

    It is mapped, not read: processes share its memory, and what one of them writes to it stays its own and off the
    disk. Every call compares the file with its checksum (`<path>.crc32`; 0.1 to 0.3 s for 377 MB); a file that is
    damaged or not of `shape` and `dtype` is built anew with a warning. Where nothing can be written, a warning is
    logged and the built array itself is returned. Any number of processes may build at the same time.

    Raises ValueError if `build` returns another shape or dtype.
    """
    if (array := _kept(path, shape, dtype)) is not None:
        return array
    array = _checked(build(), shape, dtype)
    try:
        return _saved(path, [array], shape, dtype)
    except OSError as error:
        log.warning("the cache file %s cannot be written, so every process computes the data again: %s", path, error)
        return array


def cached_parts(path: Path, build: Callable[[], Iterator[Array]], shape: Shape, dtype: DTypeLike = np.uint8) -> Array:
    """As `cached_array`, of an array that is too large to hold: `build` yields its parts, one after the other.

    Raises UserError where the file cannot be written.
    """
    if (array := _kept(path, shape, dtype)) is not None:
        return array
    try:
        return _saved(path, build(), shape, dtype)
    except OSError as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize / 1e9
        raise UserError(
            f"{path} cannot be written ({error.strerror}); set paths.cache to a folder with {size:.1f} GB of free space"
        ) from error


def _kept(path: Path, shape: Shape, dtype: DTypeLike) -> Array | None:
    """What lies at `path`, if it is whole."""
    if not path.exists():
        return None
    try:
        if _sidecar(path).read_text() != _checksum(path):
            raise ValueError("the file does not match its checksum")
        return _checked(np.load(path, mmap_mode="c"), shape, dtype)
    except (OSError, ValueError) as error:
        log.warning("the cache file %s cannot be used and is computed again: %s", path, error)
        return None


def _checked(array: Array, shape: Shape, dtype: DTypeLike) -> Array:
    if (array.shape, array.dtype) != (shape, dtype):
        raise ValueError(f"the array must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return array


def _saved(path: Path, parts: Iterable[Array], shape: Shape, dtype: DTypeLike) -> Array:
    with atomic(path, sync=True) as file:
        npy.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
        for part in parts:
            file.write(np.ascontiguousarray(part).data)
        file.flush()
        with atomic(_sidecar(path), sync=True) as sidecar:  # first, so that no process finds an array without a checksum
            sidecar.write(_checksum(Path(file.name)).encode())
    return np.load(path, mmap_mode="c")


def _checksum(path: Path) -> str:
    """CRC-32 of a file: finds every accident short of malice, at 2 GB/s."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # reading, not mapping: the file does not count as this process's memory
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".crc32")
