"""The user's own pictures: a folder of images, or of one folder of images a class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from vae_zoo.data.datamodule import Arrays, DataModule
from vae_zoo.errors import UserError


class ImageFolder(DataModule):
    """path: the folder; size: side of the square images; channels: 1 grey, 3 colour.

    Each picture is shrunk so that its shorter side fits and cut to the centre square. Sub-folders are classes (`label`, in
    the order of their names); pictures beside them are refused, so that none is left out unseen.
    """

    default_group = "label"

    def __init__(self, path: str, size: int = 64, channels: int = 3, image_shape=None, **common):
        super().__init__(image_shape or (channels, size, size), **common)
        self.path = Path(path).expanduser()

    def load(self) -> Arrays:
        if not self.path.is_dir():
            raise UserError(f"data.path={self.path} is not a folder; name a folder of images or of one folder a class")
        entries = sorted(p for p in self.path.iterdir() if not p.name.startswith("."))
        classes, loose = [p for p in entries if p.is_dir()], [p for p in entries if p.is_file()]
        if classes and loose:
            raise UserError(
                f"data.path={self.path} holds files ({loose[0].name}) beside folders ({classes[0].name}); "
                f"give either images alone or one folder of images a class"
            )
        folders = classes or [self.path]
        files = [sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")) for folder in folders]
        paths = [path for group in files for path in group]
        if len(paths) < 3:
            raise UserError(f"data.path={self.path} holds {len(paths)} images; three splits need at least 3")
        images = np.empty((len(paths), *self.image_shape), dtype=np.uint8)
        with ThreadPoolExecutor() as pool:
            for place, image in enumerate(pool.map(self._read_image, paths)):
                images[place] = image
        if not classes:
            return Arrays(images)
        return Arrays(images, label=np.repeat(np.arange(len(files)), [len(f) for f in files]), num_classes=len(files))

    def _read_image(self, path: Path) -> np.ndarray:
        """[C, H, W] uint8. Raises UserError for a file that is no picture."""
        channels, *size = self.image_shape
        try:
            with Image.open(path) as image:
                image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
                pixels = np.asarray(ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            kinds = ", ".join(sorted(IMG_EXTENSIONS))
            raise UserError(f"{path} cannot be read as an image; remove or repair it (readable: {kinds})") from error
        return pixels.reshape(*size, channels).transpose(2, 0, 1)
