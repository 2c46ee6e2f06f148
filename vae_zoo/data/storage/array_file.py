"""Files of arrays, .npy, .npz, .h5 and .zarr, read part by part. The module does not import torch."""

import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.lib import format as npy

from vae_zoo.data.storage.cache import Parts, State, stored
from vae_zoo.data.storage.download import blaming
from vae_zoo.utils.errors import UserError

PART = 1 << 26  # bytes of a file that are read at a time, about
ENDINGS = {".npy": "numpy", ".npz": "numpy", ".h5": "h5py", ".hdf5": "h5py", ".zarr": "zarr"}  # and what reads them
log = logging.getLogger(__name__)


class Member:
    """An array in an .npz file, of which slices of rows are read in order.

    Args:
        file: The .npy file in the archive, opened.

    Attributes:
        shape: Shape of the array.
        dtype: Dtype of the array.

    Raises:
        ValueError: It holds objects or is in Fortran order.
    """

    def __init__(self, file: Any):
        self.file = file
        read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
        self.shape, in_fortran_order, self.dtype = read(file)
        if in_fortran_order or self.dtype.hasobject:
            raise ValueError(f"{file.name} holds objects or is in Fortran order")
        self.start, self.row = file.tell(), int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop = (0, 1) if rows == () else rows.indices(self.shape[0])[:2]
        self.file.seek(self.start + start * self.row)
        data = self.file.read((stop - start) * self.row)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])


class Archive(zipfile.ZipFile):
    """An .npz file as {key: Member}, each opened when it is asked for."""

    def keys(self) -> list[str]:
        """Names of the arrays."""
        return [name[:-4] for name in self.namelist() if name.endswith(".npy")]

    def __contains__(self, key: str) -> bool:
        return key in self.keys()

    def __getitem__(self, key: str) -> Member:
        return Member(self.open(f"{key}.npy"))


@contextmanager
def opened(path: Path, setting: str) -> Iterator[Any]:
    """Opens a file of arrays.

    Args:
        path: The file; a folder is a Zarr store.
        setting: The setting that names it, for error messages.

    Yields:
        A mapping {key: array with shape, dtype and slices}; an .npy file has the key `images`.

    Raises:
        UserError: The file cannot be read.
    """
    ending = path.suffix.lower() if path.suffix or not path.is_dir() else ".zarr"
    where, reader = f"{setting}={path}", ENDINGS.get(ending)
    if reader is None:
        raise UserError(f"{where} has none of the endings {', '.join(ENDINGS)}; give a file of arrays")
    if not path.exists():
        raise UserError(f"{where} does not exist; give a file of arrays")
    with ExitStack() as stack:
        with blaming(f"{where} cannot be read as {ending} (...); write the file again"):
            try:
                if reader == "h5py":
                    import h5py

                    file = stack.enter_context(h5py.File(path))
                elif reader == "zarr":
                    import zarr

                    file = zarr.open(str(path), mode="r")
                elif ending == ".npy":
                    file = {"images": np.load(path, mmap_mode="r")}
                else:
                    file = stack.enter_context(Archive(path))
            except ImportError as error:
                raise UserError(
                    f"{where} needs {reader}, which is not installed; run `pip install 'vae_zoo[data]'`"
                ) from error
        yield file if hasattr(file, "keys") else {"images": file}


def member(file: Any, key: str, where: str, remedy: str) -> Any:
    """Finds an array in a file.

    Args:
        file: Mapping from `opened`.
        key: Key of the array.
        where: Name of the source in errors.
        remedy: What the user should do if the key is missing.

    Returns:
        An array with shape, dtype and slices.

    Raises:
        UserError: There is no such key, or it cannot be read.
    """
    if key not in file:
        raise UserError(f"{where} has no {key!r}, only {', '.join(sorted(file.keys())) or 'nothing'}; {remedy}")
    with blaming(f"{where}: {key} cannot be read (...); write the file again"):
        return file[key]


def values(array: Any) -> Shaped[np.ndarray, "..."]:
    """Reads all of a small array; text as str.

    Args:
        array: Array from `member`.
    """
    found = np.asarray(array[:] if array.shape else array[()])
    if found.dtype.kind == "S" or found.dtype == object and found.size and isinstance(found.flat[0], bytes):
        return np.array([text.decode() for text in found.ravel().tolist()], dtype=object).reshape(found.shape)
    return found


def layout(shape: Sequence[int], where: str) -> tuple[tuple[int, int, int], Callable[[np.ndarray], np.ndarray]]:
    """Finds the axis of the channels.

    Args:
        shape: Shape of the images in the file: [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels.
        where: Name of the source in errors.

    Returns:
        [C, H, W], and a function that moves the channels of images to this order.
    """
    if len(shape) == 3:
        return (1, *shape[1:]), lambda images: images[:, None]  # pyright: ignore[reportReturnType]
    if len(shape) == 4 and shape[1] in (1, 3):
        return tuple(shape[1:]), lambda images: images  # pyright: ignore[reportReturnType]
    if len(shape) == 4 and shape[3] in (1, 3):
        return (shape[3], *shape[1:3]), lambda images: images.transpose(0, 3, 1, 2)  # pyright: ignore[reportReturnType]
    raise UserError(
        f"{where} has images {list(shape)}; they must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels"
    )


def image_shape(path: str, key: str, size: int | None) -> list[int]:
    """[C, H, W] of the images in a file of arrays.

    Args:
        path: The file.
        key: Key of the images.
        size: Side to which they are resized, pixels; None: as in the file.

    Raises:
        UserError: The file cannot be read, or has no images.
    """
    where = f"data.path={path}"
    with opened(Path(path).expanduser(), "data.path") as file:
        (channels, *sides), _ = layout(member(file, key, where, "set data.keys.images to one of them").shape, where)
    return [channels, *([size, size] if size else sides)]


def to_bytes(images: Shaped[np.ndarray, "*all"], limits: Sequence[float] | None, where: str) -> UInt8[np.ndarray, "*all"]:
    """Scales values to 0..255.

    Args:
        images: Numbers, or bool.
        limits: [black, white]; None: for bool, or for uint8, which is not changed.
        where: Name of the source in errors.

    Raises:
        UserError: Values are outside the limits, or limits are needed and missing.
    """
    if limits is None and images.dtype == bool:
        limits = (0, 1)
    if limits is None:
        if images.dtype != np.uint8:
            raise UserError(
                f"{where} has {images.dtype} images with values from {images.min():g} to {images.max():g}; set data.range "
                f"to the values of black and white, such as [0, 1]"
            )
        return images
    low, high = limits
    if images.size and not (low <= images.min() and images.max() <= high):
        raise UserError(
            f"{where} has images with values from {images.min():g} to {images.max():g}, but data.range={list(limits)}; set "
            f"data.range to the values of black and white"
        )
    return np.rint((images.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8)


def converted(path: Path, array: Any, make: Callable[[np.ndarray], np.ndarray]) -> UInt8[np.ndarray, "N ..."]:
    """Converts an array part by part into a file of the cache, and maps it.

    Args:
        path: Path in the cache.
        array: Array from `member`; its chunks are read once each.
        make: Converts a part to uint8.

    Raises:
        UserError: The array cannot be read, or the cache cannot be written.
    """
    chunk = (getattr(array, "chunks", None) or [1])[0]
    row = max(1, int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize)
    step, shape = max(1, PART // row // chunk) * chunk, make(np.asarray(array[:1])).shape[1:]

    def build(state: State) -> Parts:
        for start in range(state.get("rows", 0), array.shape[0], step):
            with blaming("the images cannot be read (...); write data.path again"):
                part = make(np.asarray(array[start : start + step]))
            yield part, {"rows": start + step}

    return stored(path, build, (array.shape[0], *shape), lambda: array.shape[0], unit="images")[0]
