"""SVHN: photographs of house numbers, cut to 32x32 RGB about one digit (Netzer et al., 2011). For non-commercial use only.

73,257 images for training, 26,032 for test, and 531,131 easier ones for training too (`extra`).

Addresses and checksums are those of torchvision; the files are read here, so that errors name the damaged file.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torchvision
from scipy.io import loadmat
from torchvision.datasets.utils import download_url

from vae_zoo.config.types import Shape, Side
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.sets.digits import resize_bytes
from vae_zoo.data.storage.download import blaming, fetch
from vae_zoo.utils.errors import UserError


class SVHN(DataModule):
    """Photographs of house numbers with the official test split; the label is the digit in the middle.

    Args:
        root: Folder that holds `train_32x32.mat` and `test_32x32.mat`.
        download: Whether missing files are downloaded.
        extra: Whether training has `extra_32x32.mat` too; 1.9 GB of memory in all, and twice as much while it is read.
        size: Side of the images, pixels >= 8; others than 32 by resizing.
        image_shape: [3, H, W] in place of `size`; None: [3, size, size].
        **common: As in DataModule.

    Source: Netzer et al. (2011), Reading digits in natural images with unsupervised feature learning.
    """

    licence = ("other", "SVHN, for non-commercial use only")

    def __init__(
        self,
        root: str,
        download: bool = True,
        extra: bool = False,
        size: Side = 32,
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (3, size, size), **common)
        self.root, self.download = Path(root).expanduser(), download
        parts = ("train", "extra", "test") if extra else ("train", "test")
        self.sources = {part: torchvision.datasets.SVHN.split_list[part] for part in parts}  # address, file, md5

    def load(self) -> Arrays:
        """Reads the files.

        Raises:
            UserError: One is missing or damaged.
        """
        self._fetch()
        images, labels = zip(*(self._read(self.root / file) for _, file, _ in self.sources.values()))
        split = np.concatenate([np.full(len(label), 2 * (part == "test")) for part, label in zip(self.sources, labels)])
        images = resize_bytes(np.concatenate(images), self.image_shape[1:])
        return Arrays(images, label=np.concatenate(labels), num_classes=10, split=split)

    def _fetch(self) -> None:
        """Downloads missing files."""
        missing = [source for source in self.sources.values() if not (self.root / source[1]).is_file()]
        if not missing:
            return
        files = [file for _, file, _ in missing]
        names = ", ".join(files)

        def get(folder):
            for url, file, md5 in missing:
                download_url(url, folder, file, md5)

        lacks = f"{names} not found in {self.root}; put them there or set data.download=true"
        by_hand = f"put {names} into {self.root} by hand, or use data=street_digits, a similar data set without download"
        failed = f"SVHN could not be downloaded from {missing[0][0]} (...); {by_hand}"
        fetch(get, self.root, files, self.download, lacks, failed)

    @staticmethod
    def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, 3, 32, 32] and digits int64 [N]."""
        with blaming(f"{file} is damaged (...); delete it and download it again"):
            mat = _read_hdf5(file) if _is_hdf5(file) else loadmat(file, variable_names=("X", "y"))
            images, label = mat["X"], mat["y"].astype(np.int64).ravel()
            if images.shape != (32, 32, 3, len(label)) or images.dtype != np.uint8:
                raise ValueError(f"X is {images.dtype} {images.shape} for {len(label)} labels")
            if not ((label >= 1) & (label <= 10)).all():
                raise ValueError(f"y must be in 1..10, got {label.min()}..{label.max()}")
        return images.transpose(3, 2, 0, 1), label % 10  # the files call the digit 0 class 10


def _is_hdf5(file: Path) -> bool:
    """Whether the file has MATLAB's format 7.3 (HDF5). Raises UserError if h5py is not installed."""
    with file.open("rb") as begin:
        if not begin.read(10).startswith((b"MATLAB 7.3", b"\x89HDF")):
            return False
    if find_spec("h5py") is None:
        raise UserError(
            f"{file} is a MATLAB 7.3 file, which needs h5py; run `pip install h5py`, save it with -v7 in MATLAB, or "
            f"delete it and set data.download=true for the published one"
        )
    return True


def _read_hdf5(file: Path) -> dict[str, np.ndarray]:
    import h5py  # only here: an extra of the package

    with h5py.File(file) as mat:
        return {name: np.asarray(mat[name]).T for name in ("X", "y")}  # MATLAB counts the first axis fastest
