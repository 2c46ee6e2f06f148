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

log = logging.getLogger(__name__)


def cached_array(path: Path, build: Callable[[], np.ndarray], *, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """The array of the .npy file at `path`, which `build` makes if it is not there yet.

    It is mapped, not read: processes share its memory, and what one of them writes to it stays its own and off the
    disk. Every call compares the file with its checksum (`<path>.crc32`; 0.1 to 0.3 s for 377 MB); a file that is
    damaged or not of `shape` and `dtype` is built anew with a warning. Where nothing can be written, a warning is
    logged and the built array itself is returned. Any number of processes may build at the same time.

    Raises ValueError if `build` returns another shape or dtype.
    """
    if (array := _kept(path, shape, dtype)) is not None:
        return array
    array = build()
    _check(array, shape, dtype)
    try:
        _save(path, [array], shape, dtype)
        return np.load(path, mmap_mode="c")
    except OSError as error:
        log.warning("%s cannot be kept, so every run and every process builds its own: %s", path, error)
        return array


def cached_parts(
    path: Path, build: Callable[[], Iterator[np.ndarray]], *, shape: tuple[int, ...], dtype: DTypeLike
) -> np.ndarray:
    """As `cached_array`, of an array that is too large to hold: `build` yields its parts, one after the other.

    Raises UserError where the file cannot be written.
    """
    if (array := _kept(path, shape, dtype)) is not None:
        return array
    try:
        _save(path, build(), shape, dtype)
    except OSError as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize / 1e9
        raise UserError(
            f"{path} cannot be written ({error.strerror}), {size:.1f} GB; set paths.cache to a folder with as much room"
        ) from error
    return np.load(path, mmap_mode="c")


def _kept(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray | None:
    """What lies at `path`, if it is whole."""
    try:
        return _open(path, shape, dtype) if path.exists() else None
    except (OSError, ValueError) as error:
        log.warning("%s is built anew: %s", path, error)
        return None


def _open(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Raises OSError or ValueError if the file or its checksum is not as it should be."""
    if _sidecar(path).read_text() != _checksum(path):
        raise ValueError("the file does not match its checksum")
    array = np.load(path, mmap_mode="c")
    _check(array, shape, dtype)
    return array


def _check(array: np.ndarray, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    if (array.shape, array.dtype) != (shape, dtype):
        raise ValueError(f"the array must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


def _save(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: DTypeLike) -> None:
    with atomic(path, sync=True) as file:
        header = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).data)
        file.flush()
        with atomic(_sidecar(path), sync=True) as sidecar:  # first, so that no process finds an array without a checksum
            sidecar.write(_checksum(Path(file.name)).encode())


def _checksum(path: Path) -> str:
    """CRC-32 of a file: finds every accident short of malice, at 2 GB/s."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):  # reading, not mapping: the file does not count as this process's memory
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".crc32")
