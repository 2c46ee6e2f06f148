"""dSprites: 737,280 binary images of 64x64, the full grid of five factors (Matthey et al., 2017).

Drawn by ourselves to the published geometry (vae_zoo.data.render.sprites; docs/journal/data.md says how close), or read
from the published npz.
"""

from pathlib import Path

import numpy as np

from vae_zoo.config.types import Shape
from vae_zoo.data.arrays import Arrays, Factor
from vae_zoo.data.datamodule import DataModule, check_size
from vae_zoo.data.render import sprites
from vae_zoo.data.storage.cache import cached_array

FACTORS = (
    Factor("shape", 3, "categorical"),
    Factor("scale", 6, "ordered"),
    Factor("orientation", 40, "circular"),
    Factor("pos_x", 32, "ordered"),
    Factor("pos_y", 32, "ordered"),
)
CACHE_NAME = "dsprites_v1.npy"  # a new number whenever `sprites` draws other pixels


class DSprites(DataModule):
    """path: the published npz, or None to draw; cache: folder for the drawn images.

    Images stay packed, 8 pixels a byte: 377 MB. The factor `colour` has one value and is left out. Label: the shape.
    """

    default_label = "shape"
    default_group = "shape"
    groupings = ("label", "shape", "scale", "orientation", "pos_x", "pos_y")

    def __init__(self, path: str | None = None, cache: str = "~/.cache/vae_zoo", image_shape: Shape = (1, 64, 64), **common):
        check_size(image_shape, (64,))
        super().__init__(image_shape, **common)
        self.path, self.cache = path, Path(cache).expanduser()

    def load(self) -> Arrays:
        if self.path is None:
            shape = (int(np.prod(sprites.FACTOR_SIZES)), 64 * 64 // 8)
            images = cached_array(self.cache / CACHE_NAME, sprites.draw_grid, shape=shape, dtype=np.uint8)
            factors = sprites.factor_index(np.arange(len(images)))
        else:
            images, factors = sprites.read_published(Path(self.path).expanduser())
        factors = factors[:, 1:].astype(np.uint8)  # [N, 5]
        return Arrays(images, label=factors[:, 0], num_classes=3, factors=factors, factor_info=FACTORS, packed=True)
