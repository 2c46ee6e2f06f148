"""Cache of arrays that are expensive to make: files that are mapped and shared between processes."""

import errno
import fcntl
import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Shaped
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from vae_zoo.utils.console import progress
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import new_folder, read_dict, write_json

Values = Shaped[np.ndarray, "..."]
Shape = tuple[int, ...]
State = dict[str, Any]  # of a build, in JSON
Parts = Iterator[tuple[Values, State]]
log = logging.getLogger(__name__)


class Unwritable(UserError):
    """The array cannot be written to the cache."""


def cached_array(path: Path, build: Callable[[], Values], shape: Shape, dtype: DTypeLike = np.uint8) -> Values:
    """Reads an array from the cache, or makes it.

    As `stored`, for an array that is made in one piece. If the cache cannot be written, a warning is logged and the array is
    returned from memory.

    Args:
        path: As in `stored`.
        build: Makes the array.
        shape: Shape of the array.
        dtype: Dtype of the array.

    Raises:
        ValueError: `build` returns another shape or dtype.
    """
    build = cache(build)  # held until it is returned

    def parts(state: State) -> Parts:
        if not state:  # else a process that was killed has written all of it
            yield _checked(build(), shape, dtype), {"done": True}

    try:
        return stored(path, parts, shape, lambda: shape[0], dtype)[0]
    except Unwritable as error:
        log.warning("%s; until then every process renders the images itself", error)
        return build()


def stored(
    path: Path,
    build: Callable[[State], Parts],
    shape: Shape,
    most: Callable[[], int],
    dtype: DTypeLike = np.uint8,
    unit: str | None = None,
) -> tuple[Values, State]:
    """Reads an array from the cache, or makes it part by part.

    The array is mapped, not read: processes share its memory, and their changes to it are not written to the file. One
    process makes it while the others wait. If that process is killed, the next one continues after the last complete part.
    A checksum is computed while the file is written and compared whenever size or time of the file have changed; a damaged
    file is made anew with a warning.

    Args:
        path: The .npy file; `<path>.json` holds its checksum and the last state.
        build: Yields parts of the array and after each its state, JSON; it gets the state to continue from, at first {}.
        shape: Shape of the array; -1 first: as many rows as `build` makes.
        most: The largest possible number of rows, for the free space that is needed.
        dtype: Dtype of the array.
        unit: Name of the rows, for a progress bar; None: no bar.

    Returns:
        The array and the last state.

    Raises:
        Unwritable: The file cannot be written; it says how many bytes are needed.
    """
    before = _stamp(path)  # before it is read, so that later changes by another process are noticed under the lock
    if (kept := _kept(path, shape, dtype)) is not None:
        return kept
    rows = most()
    needed = rows * int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    try:
        with new_folder(path.parent):
            if (free := shutil.disk_usage(path.parent).free + sum(_stamp(_part(path))[:1])) < needed:
                raise OSError(errno.ENOSPC, f"only {free:,} bytes are free")
            with _alone(path) as file:
                made_meanwhile = _kept(path, shape, dtype) if _stamp(path) != before else None
                return made_meanwhile or _made(path, file, build, shape, rows, dtype, unit)
    except OSError as error:
        raise Unwritable(
            f"{path} cannot be written ({error.strerror}); set paths.cache to a folder with {needed:,} bytes of free space"
        ) from error


def _kept(path: Path, shape: Shape, dtype: DTypeLike) -> tuple[Values, State] | None:
    """The array and the state stored at `path`, if they are intact."""
    if not path.exists():
        return None
    try:
        about, array = json.loads(_about(path).read_text()), _mapped(path)
        if about["stamp"] != _stamp(path):
            if about["crc32"] != _checksum(path, path.stat().st_size):
                raise ValueError("the file does not match its checksum")
            if os.access(path.parent, os.W_OK):
                write_json(_about(path), about | {"stamp": _stamp(path)})
        return _checked(array, (len(array), *shape[1:]) if shape[0] < 0 else shape, dtype), about["state"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        log.warning("the cache file %s cannot be used and is computed again: %s", path, error)
        return None


def _made(
    path: Path, file: IO[bytes], build: Callable[[State], Parts], shape: Shape, most: int, dtype: DTypeLike, unit: str | None
) -> tuple[Values, State]:
    """Writes the parts that `file` lacks, and gives it its name at the end."""
    part = _part(path)
    done = read_dict(_about(part))[0]
    rows, crc, state = done.get("rows", 0), done.get("crc32", 0), done.get("state", {})
    row = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    head = _header((0, *shape[1:]), dtype)
    if not rows or _stamp(part)[0] < len(head) + rows * row or _checksum(part, len(head) + rows * row) != crc:
        rows, crc, state = 0, 0, {}
        file.write(head)
    file.seek(len(head) + rows * row)
    file.truncate()
    with progress(unit, most, rows) as advance:
        for array, state in build(state):  # noqa: B020
            data = np.ascontiguousarray(_checked(array, (len(array), *shape[1:]), dtype)).reshape(-1).view(np.uint8).data
            file.write(data)
            crc, rows = zlib.crc32(data, crc), rows + len(array)
            file.flush()
            os.fsync(file.fileno())
            write_json(_about(part), {"rows": rows, "crc32": crc, "state": state})
            advance(len(array))
    file.seek(0)
    file.write(_header((rows, *shape[1:]), dtype))
    file.flush()
    os.fsync(file.fileno())
    write_json(_about(path), {"crc32": crc, "state": state, "stamp": _stamp(part)})  # first: no array without a checksum
    os.replace(part, path)
    _about(part).unlink()
    return _mapped(path), state


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    """The unfinished file, locked for this process. It is kept if the process is killed, and deleted after an error."""
    part = _part(path)
    while True:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process is writing %s; waiting for it", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _names(part, file):
                continue  # it was finished meanwhile
            try:
                yield file
            except Exception:
                _about(part).unlink(missing_ok=True)
                part.unlink(missing_ok=True)
                raise
            if path.exists() and _names(part, file):
                part.unlink()  # another process made the array before this one had the lock
            return


def _names(path: Path, file: IO[bytes]) -> bool:
    with suppress(FileNotFoundError):  # another process may take the name at any time
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def _checked(array: Values, shape: Shape, dtype: DTypeLike) -> Values:
    if (array.shape, array.dtype) != (shape, dtype):
        raise ValueError(f"the array must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")
    return array


def _mapped(path: Path) -> Values:
    try:
        return np.load(path, mmap_mode="c")
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return np.load(path, mmap_mode="r")  # larger than the memory: Linux refuses to map that for private writing


def _header(shape: Shape, dtype: DTypeLike) -> bytes:
    """Header of the .npy file; its length does not depend on shape[0]."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _checksum(path: Path, end: int) -> int:
    """CRC-32 of the array in a file up to the byte `end`: detects accidental damage, at 2 GB/s."""
    crc = 0
    with path.open("rb") as file:
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        while block := file.read(min(1 << 20, end - file.tell())):  # reading instead of mapping, which would count as memory
            crc = zlib.crc32(block, crc)
    return crc


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; [] if there is none."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else []


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _about(path: Path) -> Path:
    return path.with_name(path.name + ".json")
