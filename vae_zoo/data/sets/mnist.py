"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, 10 classes.

torchvision downloads them; the files are read here, so that a damaged one is named.
"""

import gzip
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torchvision

from vae_zoo.config.types import Shape, Side
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.render.colours import coloured
from vae_zoo.data.sets.digits import resize_bytes
from vae_zoo.data.storage.download import arriving_whole, reason
from vae_zoo.utils.errors import UserError


class MNIST(DataModule):
    """root: folder that holds `MNIST/raw/`; download: fetch missing files; size: side of the images, 28 or another.

    colour: `grey`, or `random`: RGB, pale strokes on a deep ground, whose hues say nothing of the digit.
    """

    default_group = "label"
    groupings = ("label",)
    source = torchvision.datasets.MNIST

    def __init__(
        self,
        root: str,
        download: bool = True,
        size: Side = 28,
        colour: Literal["grey", "random"] = "grey",
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (3 if colour == "random" else 1, size, size), **common)
        self.colour = colour
        self.root, self.download = Path(root).expanduser(), download
        self.raw = self.root / self.source.__name__ / "raw"
        self.files = [self.raw / file.removesuffix(".gz") for file, _ in self.source.resources]  # each may be gzipped

    def load(self) -> Arrays:
        self._fetch()
        train_images, train_label, test_images, test_label = (self._read(file) for file in self.files)
        images = np.concatenate([train_images, test_images])[:, None]  # [N, 1, 28, 28]
        images = resize_bytes(images, self.image_shape[1:])
        if self.colour == "random":
            images = coloured(images)
        label = np.concatenate([train_label, test_label])
        if len(label) != len(images):
            raise UserError(f"{self.raw} has {len(images)} images and {len(label)} labels; fetch its four files again")
        split = np.repeat([0, 2], [len(train_images), len(test_images)])
        return Arrays(images, label=label, num_classes=10, split=split)

    def _fetch(self) -> None:
        """Downloads what is missing."""
        missing = [file for file in self.files if not (file.is_file() or _gzipped(file).is_file())]
        names = ", ".join(f"{file.name}.gz" for file in missing)
        if missing and not self.download:
            raise UserError(f"{self.raw} lacks {names} (or unpacked); put them there or set data.download=true")
        if not missing:
            return
        try:
            with arriving_whole(self.root, [file.relative_to(self.root) for file in missing]) as folder:
                self.source(folder, download=True)
        except Exception as error:  # torchvision raises many kinds
            raise UserError(
                f"{self.source.__name__} could not be downloaded ({reason(error)}); put {names} into {self.raw} "
                f"by hand, or use data=digits, the nearest set that needs no download"
            ) from error

    def _read(self, file: Path) -> np.ndarray:
        file = file if file.is_file() else _gzipped(file)
        try:
            return read_idx(file, ndim=3 if "images" in file.name else 1)
        except Exception as error:  # a damaged gzip raises many kinds
            raise UserError(f"{file} is damaged ({reason(error)}); delete it and fetch it again") from error


class FashionMNIST(MNIST):
    source = torchvision.datasets.FashionMNIST


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of an IDX file, gzipped or not: uint8 of `ndim` dimensions.  Raises ValueError when it is not one.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, the sizes (big-endian int32), the data.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        data = file.read()
    magic, start = bytes([0, 0, 8, ndim]), 4 * (ndim + 1)
    if data[:4] != magic or len(data) < start:
        raise ValueError(f"it begins with {data[:4].hex() or 'nothing'}, not with {magic.hex()}")
    shape = np.frombuffer(data, ">u4", count=ndim, offset=4).tolist()
    if len(data) - start != prod(shape):
        raise ValueError(f"it holds {len(data) - start} bytes of data, its header promises {prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _gzipped(file: Path) -> Path:
    return file.with_name(f"{file.name}.gz")
