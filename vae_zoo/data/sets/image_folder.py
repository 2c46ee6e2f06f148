"""The user's own pictures: a folder of images, or of one folder of images a class."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from vae_zoo.config.types import Shape, Side
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.storage.download import blaming
from vae_zoo.utils.errors import UserError


class ImageFolder(DataModule):
    """path: the folder; size: side of the square images; channels: 1 grey, 3 colour.

    Each picture is turned upright, shrunk so that its shorter side fits and cut to the centre square; transparency is
    dropped. Sub-folders are classes (`label`, in the order of their names). Whatever else lies there is refused, so
    that nothing is left out unseen; names that begin with a dot are passed over.
    """

    def __init__(self, path: str, size: Side = 64, channels: Literal[1, 3] = 3, image_shape: Shape | None = None, **common):
        super().__init__(image_shape or (channels, size, size), **common)
        self.path = Path(path).expanduser()

    def load(self) -> Arrays:
        arrays = read_images(self.path, self.image_shape, "data.path")
        if len(arrays.images) < 3:
            raise UserError(f"data.path={self.path} has {len(arrays.images)} images; give at least 3, one per split")
        return arrays


def read_images(path: Path, image_shape: Sequence[int], setting: str) -> Arrays:
    """The pictures of a folder as ImageFolder has them. setting: the setting that names the folder, for error messages."""
    if not path.is_dir():
        raise UserError(f"{setting}={path} is not a folder; give a folder of images, or one with a subfolder per class")
    folders, files = _entries(path)
    if folders and files:
        raise UserError(
            f"{setting}={path} has both files ({files[0].name}) and subfolders ({folders[0].name}); "
            f"give either only images or one subfolder of images per class"
        )
    classes = [_images_of_class(folder, setting) for folder in folders]
    paths = sum(classes, files)
    images = decoded(lambda file: read_image(file, image_shape), paths, image_shape)
    names = [str(file.relative_to(path)) for file in paths]
    if not classes:
        return Arrays(images, names=names)
    label = np.repeat(np.arange(len(classes)), [len(files) for files in classes])
    return Arrays(images, label=label, num_classes=len(classes), names=names)


def decoded(read: Callable[[Any], np.ndarray], pictures: Sequence, image_shape: Sequence[int]) -> np.ndarray:
    """uint8 [N, C, H, W] of what `read` makes of each picture, many at a time."""
    images = np.empty((len(pictures), *image_shape), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:
        for place, image in enumerate(pool.map(read, pictures)):
            images[place] = image
    return images


def read_image(path: Path, image_shape: Sequence[int]) -> np.ndarray:
    """[C, H, W] uint8. Raises UserError for a file that is no picture."""
    channels, height, width = image_shape
    sentence = f"{path} cannot be read as an image of 8 or 16 bits (...); remove it or save it as PNG or JPEG"
    with blaming(sentence), Image.open(path) as image:
        image = _eight_bits(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Its folders and everything else, by name."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return [p for p in entries if p.is_dir()], [p for p in entries if not p.is_dir()]


def _images_of_class(folder: Path, setting: str) -> list[Path]:
    folders, files = _entries(folder)
    if folders or not files:
        inside = f"a folder ({folders[0].name})" if folders else "no images"
        raise UserError(f"{folder}, a class of {setting}, contains {inside}; give each class one subfolder of images")
    return files


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit grey off at 255 when it converts; here white stays white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"the range of its values is unknown: mode {image.mode}")
    return image
