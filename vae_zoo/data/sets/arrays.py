"""Arrays of the user: one file of images with labels, factors, groups and splits."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_zoo.config.types import Grid, Keys, Kinds, Limits, Shape, Side
from vae_zoo.data.arrays import Arrays, Kind
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.sets.digits import resize_bytes
from vae_zoo.data.splits import check_number
from vae_zoo.data.storage.array_file import converted, layout, member, opened, to_bytes, values
from vae_zoo.data.storage.array_file import image_shape as shape_in_file
from vae_zoo.data.storage.pictures import fingerprint
from vae_zoo.data.storage.table import fields_of, with_label
from vae_zoo.utils.errors import UserError

log = logging.getLogger(__name__)


class ArrayFile(DataModule):
    """Images of an .npy, .npz, .h5 or .zarr file, with labels, factors, groups and splits if it has them.

    An .npy file of uint8 [N, C, H, W] is mapped where it is; other images are converted once into the cache.

    Args:
        path: The file; a folder is a Zarr store.
        keys: Keys in the file that replace `images`, `label`, `factors`, `factor_names`, `group` and `split`; None: these.
        range: [black, white] of images that are not uint8 from 0 to 255; None: they are, or they are bool.
        size: Side to which the images are resized, pixels >= 8; None: as in the file.
        kinds: {factor: kind}; also gives the names of the factors, in order, if the file has none. None: kinds are guessed.
        grid: {factor: number of values}, if the images are the full grid of these factors, the last one fastest; None: as in
            the file.
        cache: Folder for the converted images.
        image_shape: [C, H, W]; None: that of the file.
        **common: As in DataModule.
    """

    groupings = ()  # any; known when the file is read

    def __init__(
        self,
        path: str,
        keys: Keys | None = None,
        range: Limits | None = None,
        size: Side | None = None,
        kinds: Kinds | None = None,
        grid: Grid | None = None,
        cache: str = "~/.cache/vae_zoo",
        image_shape: Shape | None = None,
        **common,
    ):
        self.path, self.range = Path(path).expanduser(), range
        self.keys: dict[str, str] = {**(keys or {})}  # pyright: ignore[reportAttributeAccessIssue]
        self.kinds: Mapping[str, Kind] = kinds or {}
        self.grid, self.cache = grid or {}, Path(cache).expanduser()
        self.where = f"data.path={self.path}"
        super().__init__(image_shape or shape_in_file(path, self.keys.get("images", "images"), size), **common)

    def load(self) -> Arrays:
        """Reads the file.

        Raises:
            UserError: It cannot be read, or its arrays do not fit each other or the settings.
        """
        with opened(self.path, "data.path") as file:
            images = self._get(file, "images")
            assert images is not None
            number = images.shape[0]
            check_number(number, self.where)
            columns = {name: self._get(file, name) for name in ("label", "group", "split")}
            columns = {name: _flat(values(array)) for name, array in columns.items() if array is not None}
            columns |= self._factors(file, number)
            for name, column in columns.items():
                if len(column) != number:
                    raise UserError(f"{self.where}: {name} has {len(column)} entries for {number} images; correct the file")
            fields = with_label(fields_of(columns, f"{self.where}, ", self.kinds))
            return Arrays(self._images(images), **fields)

    def _get(self, file: Any, name: str) -> Any:
        """The array of this name; None if the file has none and the setting does not require it."""
        key = self.keys.get(name, name)
        if name != "images" and key == name and key not in file:
            return None
        return member(file, key, self.where, f"set data.keys.{name} to one of them")

    def _factors(self, file: Any, number: int) -> dict[str, np.ndarray]:
        factors, names = self._get(file, "factors"), self._get(file, "factor_names")
        if self.grid:
            if (count := math.prod(self.grid.values())) != number:
                raise UserError(f"data.grid={self.grid} has {count} images, but {self.where} has {number}")
            return dict(zip(self.grid, np.indices([*self.grid.values()]).reshape(len(self.grid), -1)))
        if factors is None:
            return {}
        factors = values(factors)
        factors = factors.reshape(len(factors), -1)
        count = factors.shape[1]
        words = list(map(str, values(names))) if names is not None else [*self.kinds] if len(self.kinds) == count else []
        words = words or [f"factor{i}" for i in range(count)]
        if len({*words}) != count or {*words} & {"label", "group", "split"}:
            raise UserError(f"{self.where} has {count} factors, but their names are {words}; give each a name of its own")
        return dict(zip(words, factors.T))

    def _images(self, images: Any) -> np.ndarray:
        (channels, *sides), moved = layout(images.shape, self.where)
        log.info("%s: %s %s, channels x height x width: %s", self.where, images.dtype, images.shape, [channels, *sides])
        is_ready = images.dtype == np.uint8 and self.range is None and tuple(sides) == self.image_shape[1:]
        if is_ready and isinstance(images, np.ndarray) and moved(images).flags.c_contiguous:
            return moved(images)  # of a mapped .npy file

        def made(part: np.ndarray) -> np.ndarray:
            return resize_bytes(to_bytes(moved(part), self.range, self.where), self.image_shape[1:])

        key = fingerprint(self.path, None, self.path.resolve(), self.keys.get("images"), self.range, self.image_shape)
        return converted(self.cache / f"arrays_{key}.npy", images, made)


def _flat(column: np.ndarray) -> np.ndarray:
    """[N, 1], as many programs write a column, as [N]."""
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
