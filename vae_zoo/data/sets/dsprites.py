"""dSprites: 737,280 binary images of 64x64, the full grid of five factors (Matthey et al., 2017).

Drawn by vae_zoo with the published geometry (vae_zoo.data.render.sprites; accuracy: docs/journal/data.md), or read from the
published npz.
"""

import math
from pathlib import Path

import numpy as np

from vae_zoo.config.types import Shape
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.datamodule import DataModule, check_size
from vae_zoo.data.render import sprites
from vae_zoo.data.storage.cache import cached_array

NAMES, SIZES = sprites.FACTOR_NAMES[1:], sprites.FACTOR_SIZES[1:]  # without the colour
FACTORS = tuple(map(Factor, NAMES, SIZES, ("categorical", "ordered", "circular", "ordered", "ordered")))
CACHE_NAME = "dsprites_v1.npy"  # a new number whenever `sprites` draws other pixels


class DSprites(DataModule):
    """Binary images of sprites, the full grid of five factors; the label is the shape.

    Images stay packed, 8 pixels per byte: 377 MB. The factor `colour` has one value and is left out.

    Args:
        path: The published npz; None: images are drawn.
        cache: Folder for the drawn images.
        image_shape: [1, 64, 64].
        **common: As in DataModule.

    Source: github.com/deepmind/dsprites-dataset (Matthey et al., 2017).
    """

    licence = ("apache-2.0", "dSprites (Apache 2.0), or drawn by vae_zoo from its description")
    default_label = "shape"
    default_group = "shape"
    groupings = ("label", *NAMES)

    def __init__(self, path: str | None = None, cache: str = "~/.cache/vae_zoo", image_shape: Shape = (1, 64, 64), **common):
        check_size(image_shape, (64,))
        super().__init__(image_shape, **common)
        self.path, self.cache = path, Path(cache).expanduser()

    def load(self) -> Arrays:
        """Draws the images once, or reads the published file.

        Raises:
            UserError: The file is missing, damaged or of other content.
        """
        if self.path is None:
            images = cached_array(self.cache / CACHE_NAME, sprites.draw_grid, (math.prod(SIZES), 64 * 64 // 8))
            factors = sprites.factor_index(np.arange(len(images)))
        else:
            images, factors = sprites.read_published(Path(self.path).expanduser())
        factors = factors[:, 1:].astype(np.uint8)  # [N, 5]
        return Arrays(images, factors[:, 0], 3, factors, FACTORS, packed=True)
