"""3DShapes: 480,000 images of 64x64 RGB, the full grid of six factors (Burgess and Kim, 2018), or a part of that grid.

Drawn by vae_zoo (vae_zoo.data.render.rooms; differences: docs/journal/data.md), or read from the published h5. Drawn images
are stored as their factors, 6 bytes each, and rendered for each batch: the whole grid needs only the memory of its 480
scenes, 39 MB.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from vae_zoo.config.types import Rooms, Shape
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.datamodule import DataModule, check_size
from vae_zoo.data.render import rooms
from vae_zoo.data.render.colours import hues
from vae_zoo.data.storage.cache import Parts, State, cached_array, stored
from vae_zoo.data.storage.download import blaming
from vae_zoo.utils.errors import UserError

KINDS = ("categorical", "categorical", "categorical", "ordered", "categorical", "ordered")
SHAPE = rooms.FACTOR_NAMES.index("shape")
CACHE_NAME = "rooms_v1.npy"  # a new number whenever `rooms` draws other pixels
ROWS = 4000  # images of the published file that are read at a time, about: 49 MB


class Shapes3D(DataModule):
    """Images of an object in a room, the full grid of six factors or a part of it; the label is the shape.

    Classes are numbered within the values in use: with `floor_hue: [0, 5]` hue 5 is class 1. A factor with one value is left
    out.

    Args:
        path: The published h5; None: images are drawn, whose pixels differ.
        factors: {factor: indices of its values in use}: floor_hue, wall_hue and object_hue 0 to 9, scale 0 to 7, shape 0
            cube, 1 cylinder, 2 sphere, 3 capsule, orientation 0 to 14. None, for all or for one factor: all values.
        size: Side of the images, 64 pixels, or 32: means of 2x2 pixels.
        cache: Folder for the drawn scenes, or for the images that are read.
        image_shape: [3, size, size], also if None.
        **common: As in DataModule.

    Raises:
        UserError: There is no such factor or size.

    Source: github.com/deepmind/3d-shapes (Burgess and Kim, 2018).
    """

    licence = ("apache-2.0", "3D Shapes (Apache 2.0), or drawn by vae_zoo from its description")
    default_label = "shape"
    default_group = "shape"
    groupings = ("label", *rooms.FACTOR_NAMES)

    def __init__(
        self,
        path: str | None = None,
        factors: Rooms | None = None,
        size: Literal[32, 64] = 64,
        cache: str = "~/.cache/vae_zoo",
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (3, size, size), **common)
        check_size(self.image_shape, (32, 64))
        if self.image_shape[0] != 3:
            raise UserError(f"data.image_shape={list(self.image_shape)}, but 3DShapes has 3 channels; give 3 first")
        self.path, self.cache = path, Path(cache).expanduser()
        given, sizes = factors or {}, zip(rooms.FACTOR_NAMES, rooms.FACTOR_SIZES)
        if unknown := given.keys() - {*rooms.FACTOR_NAMES}:
            raise UserError(
                f"data.factors.{min(unknown)} is not a factor of 3DShapes; choose from {', '.join(rooms.FACTOR_NAMES)}"
            )
        self.values = [sorted(range(size) if given.get(name) is None else given[name]) for name, size in sizes]
        self.layers: Tensor | None = None  # of all scenes [480, L, H W], where images are drawn

    def load(self) -> Arrays:
        """Draws the scenes once, or reads the chosen images of the published file once.

        Raises:
            UserError: The file cannot be read, or has no image with these factors.
        """
        if self.path is None:
            classes = np.stack(np.meshgrid(*self.values, indexing="ij"), axis=-1).reshape(-1, 6)
            images, kept_as = classes.astype(np.uint8), (6,)
            self.layers = torch.from_numpy(self._scenes())
        else:
            (images, classes), kept_as = self._read(Path(self.path).expanduser()), None
        places = np.stack([np.searchsorted(*pair) for pair in zip(self.values, classes.T)], axis=-1)  # among those in use
        varied = [k for k, values in enumerate(self.values) if len(values) > 1]
        info = [Factor(rooms.FACTOR_NAMES[k], len(self.values[k]), KINDS[k]) for k in varied]
        factors, num_classes = places[:, varied].astype(np.uint8), len(self.values[SHAPE])
        return Arrays(images, places[:, SHAPE], num_classes, factors, info, kept_as=kept_as)

    def to_float(self, images: UInt8[Tensor, "B ..."]) -> Float[Tensor, "B C H W"]:
        """Converts images to floats in [0, 1], on their device; drawn images are rendered here.

        Args:
            images: Bytes; for drawn images the indices of the factor values, [B, 6].
        """
        if self.layers is None:
            return super().to_float(images)
        self.layers = self.layers.to(images.device)  # once
        return compose(self.layers, images)

    def _scenes(self) -> np.ndarray:
        """The layers of all scenes at the size of the images: float32 [480, L, H, W]."""
        shape = (*rooms.FACTOR_SIZES[3:], len(rooms.LAYERS), rooms.SIDE, rooms.SIDE)
        layers = cached_array(self.cache / CACHE_NAME, rooms.draw_layers, shape, np.float32)
        return rooms.shrink(layers, self.image_shape[1]).reshape(-1, len(rooms.LAYERS), *self.image_shape[1:])

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """The chosen images of the published file, uint8 [N, 3, H, W], and the places of their factors' values [N, 6]."""
        with _opened(path) as file:
            classes = _classes(file["labels"][:])
            if file["images"].shape != (len(classes), 64, 64, 3) or file["images"].dtype != np.uint8:
                raise ValueError(f"images is {file['images'].dtype} {file['images'].shape} for {len(classes)} labels")
            state = path.stat()
        rows = np.flatnonzero(np.all([np.isin(*pair) for pair in zip(classes.T, self.values)], axis=0))
        if not len(rows):
            raise UserError(f"{path} has no image with these data.factors; choose other values, or use the published file")
        side, chosen = self.image_shape[1], f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {self.values}"
        file = self.cache / f"shapes3d_v1_{side}_{zlib.crc32(chosen.encode()):08x}.npy"
        build = partial(_images, path, rows, side)
        return stored(file, build, (len(rows), 3, side, side), lambda: len(rows), unit="images")[0], classes[rows]


def compose(layers: Float[Tensor, "480 5 H W"], factors: Integer[Tensor, "B 6"]) -> Float[Tensor, "B 3 H W"]:
    """Draws images in [0, 1], of 256 levels.

    Args:
        layers: Layers of all scenes: light of the LAYERS of vae_zoo.data.render.rooms.
        factors: Indices of the factor values, columns FACTOR_NAMES.
    """
    floor, wall, hue, scale, shape, orientation = factors.long().unbind(1)
    palette = torch.from_numpy(hues(rooms.FACTOR_VALUES[0])).to(layers)  # [10, 3]
    fixed = torch.tensor([rooms.SKY.tolist(), [1.0, 1.0, 1.0]]).to(layers).expand(len(factors), 2, 3)
    colours = torch.cat([palette[torch.stack([floor, wall, hue], 1)], fixed], dim=1)  # [B, L, 3]
    scene = (scale * rooms.FACTOR_SIZES[4] + shape) * rooms.FACTOR_SIZES[5] + orientation
    light = colours.transpose(1, 2) @ layers.index_select(0, scene).flatten(2)  # [B, 3, H W]
    return light.mul_(255).round_().clamp_(0, 255).div_(255).unflatten(2, layers.shape[2:])


# ---- the published file ---------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens the file. Raises UserError for any error in it, also while it is read."""
    drawn = "or remove data.path to use drawn images"
    try:
        import h5py  # only here: an extra of the package
    except ImportError as error:
        raise UserError(f"data.path={path} needs h5py, which is not installed; run `pip install h5py`, {drawn}") from error
    form = "images, uint8 [N, 64, 64, 3], and labels, float [N, 6], as published; download 3dshapes.h5 again"
    with blaming(f"{path} cannot be read as 3DShapes (...); it must contain {form}, {drawn}"), h5py.File(path) as file:
        yield file


def _classes(labels: np.ndarray) -> np.ndarray:
    """Places in `rooms.FACTOR_VALUES` of published factor values [N, 6]."""
    first, step = np.array([(values[0], values[1] - values[0]) for values in rooms.FACTOR_VALUES]).T
    classes = np.rint((labels - first) / step).astype(np.int64)
    wrong = (abs(first + step * classes - labels) > 1e-3) | (classes < 0) | (classes >= rooms.FACTOR_SIZES)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(f"labels[{row}, {column}] = {labels[row, column]:g} is not a value of {rooms.FACTOR_NAMES[column]}")
    return classes


def _images(path: Path, rows: np.ndarray, side: int, state: State) -> Parts:
    """These rows, increasing, in parts uint8 [n, 3, side, side]. Read in order by whole chunks, each unpacked once."""
    with _opened(path) as file:
        images = file["images"]
        chunk = images.chunks[0] if images.chunks else 1
        step = -(-ROWS // chunk) * chunk
        for start in range(state.get("end", 0), len(images), step):
            wanted = rows[(rows >= start) & (rows < start + step)] - start
            if len(wanted):
                part = images[start : start + step][wanted].transpose(0, 3, 1, 2)
                yield part if side == 64 else _halved(part), {"end": start + step}


def _halved(images: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels, as MFCVAE has them (OpenCV's bilinear at this factor)."""
    blocks = images.reshape(*images.shape[:2], 32, 2, 32, 2)
    return ((blocks.sum((3, 5), dtype=np.uint16) + 2) // 4).astype(np.uint8)
