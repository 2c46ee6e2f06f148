"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, 10 classes.

torchvision downloads them; the files are read here, so that errors name the damaged file.
"""

import gzip
from functools import partial
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
from vae_zoo.data.storage.download import blaming, fetch
from vae_zoo.utils.errors import UserError


class MNIST(DataModule):
    """Handwritten digits with the official test split; the label is the digit.

    Args:
        root: Folder that holds `MNIST/raw/`.
        download: Whether missing files are downloaded.
        size: Side of the images, pixels >= 8; others than 28 by resizing.
        colour: `grey`, or `random`: RGB, light strokes on a dark background, with hues independent of the digit.
        image_shape: [C, H, W] in place of `size`; None: [1, size, size], or 3 channels with colour=random.
        **common: As in DataModule.

    Attributes:
        source: torchvision's class.
    """

    licence = ("cc-by-sa-3.0", "MNIST (CC BY-SA 3.0)")
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
        self.files = [self.raw / file.removesuffix(".gz") for file, _ in self.source.resources]  # or gzipped

    def load(self) -> Arrays:
        """Reads the four files, gzipped or not.

        Raises:
            UserError: One is missing or damaged.
        """
        self._fetch()
        train_images, train_label, test_images, test_label = (self._read(file) for file in self.files)
        images = resize_bytes(np.concatenate([train_images, test_images])[:, None], self.image_shape[1:])  # [N, 1, H, W]
        if self.colour == "random":
            images = coloured(images)
        label = np.concatenate([train_label, test_label])
        if len(label) != len(images):
            raise UserError(f"{self.raw} has {len(images)} images but {len(label)} labels; download its four files again")
        split = np.repeat([0, 2], [len(train_images), len(test_images)])
        return Arrays(images, label=label, num_classes=10, split=split)

    def _fetch(self) -> None:
        """Downloads missing files."""
        missing = [file for file in self.files if not _place(file).is_file()]
        names = ", ".join(_place(file).name for file in missing)
        by_hand = f"put {names} into {self.raw} by hand, or use data=digits, a similar data set without download"
        lacks = f"{names} (gzipped or unpacked) not found in {self.raw}; put them there or set data.download=true"
        failed = f"{self.source.__name__} could not be downloaded (...); {by_hand}"
        wanted = [file.relative_to(self.root) for file in missing]
        fetch(partial(self.source, download=True), self.root, wanted, self.download, lacks, failed)

    def _read(self, file: Path) -> np.ndarray:
        with blaming(f"{_place(file)} is damaged (...); delete it and download it again"):
            return _read_idx(_place(file), ndim=3 if "images" in file.name else 1)


class FashionMNIST(MNIST):
    """Pictures of clothes in the form of MNIST; the label is the kind.

    Args:
        root: Folder that holds `FashionMNIST/raw/`.
        **common: As in MNIST.
    """

    licence = ("mit", "Fashion-MNIST (MIT)")
    source = torchvision.datasets.FashionMNIST


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """The bytes of an IDX file, gzipped or not: uint8 of `ndim` dimensions. Raises ValueError when it is not one.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions, the sizes (big-endian int32), the data.
    """
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        data = file.read()
    magic, start = bytes([0, 0, 8, ndim]), 4 * (ndim + 1)
    if data[:4] != magic or len(data) < start:
        raise ValueError(f"it begins with {data[:4].hex() or 'nothing'}, not with {magic.hex()}")
    shape = np.frombuffer(data, ">u4", count=ndim, offset=4).tolist()
    if len(data) - start != prod(shape):
        raise ValueError(f"it has {len(data) - start} bytes of data, but its header says {prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _place(file: Path) -> Path:
    """The file, or its gzipped form."""
    return file if file.is_file() else file.with_name(f"{file.name}.gz")
