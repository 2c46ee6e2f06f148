"""MNIST and Fashion-MNIST through torchvision: 60,000 training and 10,000 test images of 28x28 grey pixels, 10 classes."""

from pathlib import Path

import numpy as np
import torchvision

from vae_zoo.data.datamodule import Arrays, DataModule
from vae_zoo.data.digits import resize
from vae_zoo.errors import UserError


class MNIST(DataModule):
    """root: folder that holds `MNIST/raw/`; download: fetch what is missing; size: side of the images, 28 or another."""

    default_group = "label"
    source = torchvision.datasets.MNIST

    def __init__(self, root: str, download: bool = True, size: int = 28, image_shape=None, **common):
        super().__init__(image_shape or (1, size, size), **common)
        self.root, self.download = Path(root).expanduser(), download

    def load(self) -> Arrays:
        train, test = self._part(True), self._part(False)
        images = np.concatenate([train.data.numpy(), test.data.numpy()])[:, None]  # [N, 1, 28, 28]
        if images.shape[2:] != self.image_shape[1:]:
            images = np.concatenate([resize(part / 255, self.image_shape[1:]) for part in np.array_split(images, 10)])
        label = np.concatenate([train.targets.numpy(), test.targets.numpy()])
        split = np.repeat([0, 2], [len(train), len(test)])
        return Arrays(images, label=label, num_classes=10, split=split)

    def _part(self, train: bool):
        name = self.source.__name__
        raw = self.root / name / "raw"
        files = [file for file, _ in self.source.resources]
        wanted = ", ".join(files)
        try:
            return self.source(str(self.root), train=train, download=self.download)
        except Exception as error:  # torchvision raises many kinds: no network, no file, a file cut short
            missing = [file for file in files if not any((raw / n).is_file() for n in (file, file.removesuffix(".gz")))]
            if missing and not self.download:
                problem = f"data.root={self.root} lacks {', '.join(f'{name}/raw/{f}' for f in missing)}"
                remedy = f"put {wanted} (or unpacked) into {raw}, or set data.download=true"
            elif missing:
                problem = f"{name} could not be downloaded to {raw} ({_first_line(error)})"
                remedy = f"put {wanted} there by hand, or use data=digits, the nearest set that needs no download"
            else:
                problem = f"a file in {raw} is damaged ({_first_line(error)})"
                remedy = f"delete it and fetch {wanted} again"
            raise UserError(f"{problem}; {remedy}") from error


class FashionMNIST(MNIST):
    source = torchvision.datasets.FashionMNIST


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
