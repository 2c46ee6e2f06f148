"""Faces grouped by identity: cartoon faces with known factors, images of the user, and three sets of photographs.

Splits are by identity, so nobody in val or test is seen in training (this also holds for the official split of celeba).
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.datasets import fetch_lfw_people, fetch_olivetti_faces

from vae_zoo.config.types import Count, Probability, Shape, Side
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.render import cartoon
from vae_zoo.data.sets.celeba import CelebA
from vae_zoo.data.sets.digits import resize_bytes
from vae_zoo.data.sets.image_folder import ImageFolder
from vae_zoo.data.storage.cache import cached_array
from vae_zoo.data.storage.download import blaming, fetch
from vae_zoo.data.storage.pictures import is_passed_over
from vae_zoo.utils.errors import UserError

log = logging.getLogger(__name__)

FILES = {  # below `root`, as scikit-learn names them
    "olivetti": ("olivetti_py3.pkz",),
    "lfw": tuple(f"lfw_home/{name}" for name in ("lfw_funneled", "pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt")),
}
LFW_CROP = slice(61, 189)  # rows and columns of 250 that hold the face: 128 pixels


class Faces(DataModule):
    """Images grouped by the person that they show, which is also the label.

    Cartoons have a further split, `test_comb`: identities with a pair of factor values, curly hair and a beard, that no
    identity of the other splits has.

    Args:
        source: `cartoon`: drawn, 36 known factors (vae_zoo.data.render.cartoon). `folder`: images of the user, in `path`.
            `olivetti`: 400 grey photographs of 40 people, and `lfw`: 13,233 of 5,749 people (Labeled Faces in the Wild),
            both by scikit-learn. `celeba`: CelebA with a crop of 148 pixels and its own split.
        path: Folder with one subfolder of images per person, for `folder` only.
        root: Folder of downloaded files.
        download: Whether missing files are downloaded.
        size: Side of the images, pixels >= 8.
        channels: 1 grey, 3 colour.
        min_images: Photographs only: people with fewer images are left out, >= 1.
        num_identities: Cartoons only: number of people, >= 1.
        images_per_identity: Cartoons only: number of images of each, >= 1.
        style_strength: Cartoons only: share of the range of each style factor that is used, 0 to 1.
        confound: Cartoons only: probability that the background has the hue of the identity, 0 to 1.
        cache: Folder for drawn and decoded images.
        image_shape: [C, H, W] in place of `channels` and `size`; None: these.
        **common: As in DataModule.
    """

    licence = ("other", "cartoons are drawn by vae_zoo; photographs have the terms of their source and require consent")
    default_label = "identity"
    default_group = "identity"
    groupings = ("label", "identity", "id_hair_style", "id_beard", "style_background_texture")

    def __init__(
        self,
        source: Literal["cartoon", "folder", "olivetti", "lfw", "celeba"] = "cartoon",
        path: str | None = None,
        root: str = "data",
        download: bool = True,
        size: Side = 64,
        channels: Literal[1, 3] = 3,
        min_images: Count = 2,
        num_identities: Count = 3000,
        images_per_identity: Count = 10,
        style_strength: Probability = 1.0,
        confound: Probability = 0.0,
        cache: str = "~/.cache/vae_zoo",
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (channels, size, size), **common)
        self.source, self.path, self.root, self.download = source, path, Path(root).expanduser(), download
        self.min_images, self.cache = min_images, Path(cache).expanduser()
        self.num_identities, self.images_per_identity = num_identities, images_per_identity
        self.style_strength, self.confound = style_strength, confound
        if source == "cartoon":
            self.identity_factors, self.style_factors = cartoon.IDENTITY_FACTORS, cartoon.STYLE_FACTORS

    def load(self) -> Arrays:
        """Draws the cartoons once, or reads the photographs.

        Raises:
            UserError: Files are missing or damaged, or no person has `min_images`.
        """
        arrays = getattr(self, f"_{self.source}")()
        if self.source != "cartoon":
            arrays = self._without_rare(arrays)
        arrays.images = _fitted(arrays.images, self.image_shape)
        arrays.label = np.unique(arrays.groups["identity"], return_inverse=True)[1]
        arrays.num_classes = int(arrays.label.max()) + 1
        return arrays

    def _cartoon(self) -> Arrays:
        identity = np.arange(self.num_identities).repeat(self.images_per_identity)
        image = np.tile(np.arange(self.images_per_identity), self.num_identities)
        factors = cartoon.factors(identity, image, strength=self.style_strength, confound=self.confound)
        size, shape = f"{self.num_identities}x{self.images_per_identity}", (len(factors), 3, cartoon.SIDE, cartoon.SIDE)
        path = self.cache / f"cartoon_v{cartoon.VERSION}_{size}_{self.style_strength}_{self.confound}.npy"
        images = cached_array(path, lambda: cartoon.render(factors, cartoon.noise_key(identity, image)), shape)
        known = {"factors": factors, "factor_info": cartoon.FACTORS, "groups": {"identity": identity}}
        split = np.where(cartoon.is_held_out(factors), 3, 0)
        return Arrays(images, split=split, extra_splits=("test_comb",), **known)

    def _folder(self) -> Arrays:
        if self.path is None:
            raise UserError("data.source=folder needs data.path, a folder with one subfolder of images per person; set it")
        folder = ImageFolder(self.path, image_shape=self.image_shape, cache=str(self.cache))
        people = [path for path in folder.path.glob("*") if path.is_dir() and not is_passed_over(path.name)]
        arrays = folder.load() if people or not folder.path.is_dir() else None  # nothing is decoded in vain
        if arrays is None or arrays.label is None:
            raise UserError(f"data.path={self.path} has images but no subfolders; make one subfolder of images per person")
        return Arrays(arrays.images, groups={"identity": arrays.label})

    def _celeba(self) -> Arrays:
        arrays = CelebA(str(self.root), self.download, size=self.image_shape[1], cache=str(self.cache)).load()
        return Arrays(arrays.images, groups=arrays.groups, split=arrays.split)

    def _olivetti(self) -> Arrays:
        bunch = self._fetched(fetch_olivetti_faces)
        return Arrays(_bytes(bunch.images[:, None]), groups={"identity": bunch.target})

    def _lfw(self) -> Arrays:
        resized = {"slice_": (LFW_CROP, LFW_CROP), "resize": self.image_shape[1] / 128, "color": True}
        bunch = self._fetched(fetch_lfw_people, min_faces_per_person=self.min_images, **resized)
        return Arrays(_bytes(bunch.images.transpose(0, 3, 1, 2)), groups={"identity": bunch.target})

    def _fetched(self, reader: Callable, **settings):
        """Data of a fetcher of scikit-learn, downloaded first if necessary."""
        missing = [file for file in FILES[self.source] if not (self.root / file).exists()]
        names = ", ".join(missing)
        by_hand = f"put {names}, in the format of scikit-learn's {reader.__name__}, into {self.root}"
        nearest = "use data.source=cartoon, which needs no download"
        lacks = f"{names} not found in {self.root}; {by_hand}, set data.download=true, or {nearest}"
        failed = f"{self.source} could not be downloaded (...); {by_hand} by hand, or {nearest}"
        with warnings.catch_warnings(action="ignore"):  # of the second try
            fetch(lambda folder: reader(folder, n_retries=1, **settings), self.root, missing, self.download, lacks, failed)
        with blaming(f"{self.root / FILES[self.source][0]} cannot be read (...); delete it and download it again"):
            return reader(data_home=self.root, download_if_missing=False, **settings)

    def _without_rare(self, arrays: Arrays) -> Arrays:
        """Removes the identities that have fewer than `min_images` images."""
        identity, least = arrays.groups["identity"], self.min_images
        _, place, count = np.unique(identity, return_inverse=True, return_counts=True)
        kept = count[place] >= least
        if not kept.any():
            raise UserError(f"data.min_images must be at most {count.max()}, the most images of one person, got {least}")
        if not kept.all():
            log.info("%d people with fewer than data.min_images=%d images are not used", (count < least).sum(), least)
        split = None if arrays.split is None else arrays.split[kept]
        images = arrays.images if kept.all() else arrays.images[kept]
        return Arrays(images, groups={"identity": identity[kept]}, split=split)


def _bytes(images: np.ndarray) -> np.ndarray:
    """uint8 of reals in 0..1 or 0..255; releases of scikit-learn differ."""
    return np.rint(images * (255 if images.max() <= 1 else 1)).clip(0, 255).astype(np.uint8)


def _fitted(images: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """uint8 [N, C, H, W] in these channels and this size: grey ones repeated, coloured ones weighted as in ITU-R 601."""
    channels, *size = image_shape
    if images.shape[1] > channels:
        weights, parts = np.array([0.299, 0.587, 0.114], np.float32), np.array_split(images, len(images) // 2000 + 1)
        grey = [np.rint(np.einsum("c,nchw->nhw", weights, part)).astype(np.uint8) for part in parts]
        images = np.concatenate(grey)[:, None]
    images = resize_bytes(images, size)
    return images if images.shape[1] == channels else images.repeat(channels, axis=1)
