"""scikit-learn's 1,797 real handwritten digits (UCI optical recognition set), 8x8, enlarged. Nothing to download."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Real, UInt8
from sklearn.datasets import load_digits

from vae_zoo.config.types import Shape, Side
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule


class Digits(DataModule):
    """Handwritten digits of scikit-learn, grey; the label is the digit.

    Args:
        size: Side of the images, pixels >= 8.
        image_shape: [1, H, W] in place of `size`; None: [1, size, size].
        **common: As in DataModule.
    """

    licence = ("cc-by-4.0", "handwritten digits of scikit-learn (UCI, CC BY 4.0)")

    def __init__(self, size: Side = 32, image_shape: Shape | None = None, **common):
        super().__init__(image_shape or (1, size, size), **common)

    def load(self) -> Arrays:
        """Resizes the images of scikit-learn."""
        digits: Any = load_digits()
        return Arrays(resize(digits.images[:, None] / 16, self.image_shape[1:]), label=digits.target, num_classes=10)


def resize(images: Real[np.ndarray, "N C _ _"], size: Sequence[int]) -> UInt8[np.ndarray, "N C H W"]:
    """Resizes images to bytes: bilinear, antialiased when shrinking.

    Args:
        images: Images in [0, 1].
        size: (H, W), pixels.
    """
    resized = torch.as_tensor(images, dtype=torch.float32)
    if tuple(resized.shape[-2:]) != tuple(size):
        resized = F.interpolate(resized, size=tuple(size), mode="bilinear", antialias=True)
    return resized.mul(255).round().clamp(0, 255).byte().numpy()


def resize_bytes(images: UInt8[np.ndarray, "N C _ _"], size: Sequence[int]) -> UInt8[np.ndarray, "N C H W"]:
    """Resizes bytes as `resize`, in chunks, so that the floats need little memory.

    Args:
        images: Bytes.
        size: (H, W), pixels.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return np.concatenate([resize(part / 255, size) for part in np.array_split(images, len(images) // 2000 + 1)])
