"""CelebA: 202,599 aligned photographs of 10,177 people, 178x218 pixels, 40 attributes (Liu et al., 2015).

For research only; redistribution is not allowed. torchvision downloads it (with gdown, often over quota). The files are read
here, so that files downloaded by hand work too, only the needed ones are required, and errors name the file.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torchvision
from PIL import Image

from vae_zoo.config.check import choose
from vae_zoo.config.types import CelebACrop, ClassesOfAttributes, Shape, Side
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.storage.cache import State, stored
from vae_zoo.data.storage.download import blaming, fetch
from vae_zoo.data.storage.pictures import Picture, decoded
from vae_zoo.utils.errors import UserError

PICTURES, ATTRIBUTES, IDENTITIES, SPLIT = FILES = (
    "img_align_celeba",  # a folder
    "list_attr_celeba.txt",  # a line with the number of images, one with the names of the attributes, then -1 or 1 each
    "identity_CelebA.txt",
    "list_eval_partition.txt",  # 0 train, 1 val, 2 test
)


class CelebA(DataModule):
    """Photographs of famous people with attributes and identities.

    The label is the 40 attributes as variables of 0 and 1, or `classes`; `identity` is a grouping.

    Args:
        root: Folder that holds `celeba/`.
        download: Whether missing files are downloaded.
        crop: Side of the square that is cut from the middle, 8 to 178 pixels; None: the whole picture, 178x218.
        size: Side to which this is resized (bilinear, antialiased), pixels >= 8.
        split: The official one, or `identity`: val_size and test_size are people.
        classes: {variable: the attributes of each of its classes, joined by `and`}, such as {hair: [Black_Hair, Bald]} or
            {hat: [not Wearing_Hat, Wearing_Hat]}. If several classes hold, the first one counts; if none holds, the label
            is unknown. None: the attributes.
        cache: Folder for the decoded pictures.
        image_shape: [3, H, W] in place of `size`; None: [3, size, size].
        **common: As in DataModule.

    Source: Liu et al. (2015), Deep learning face attributes in the wild.
    """

    licence = ("other", "CelebA, for non-commercial research only")
    default_label = "attributes"
    default_group = "identity"
    groupings = ("label", "identity")

    def __init__(
        self,
        root: str,
        download: bool = True,
        crop: CelebACrop | None = 148,
        size: Side = 64,
        split: Literal["official", "identity"] = "official",
        classes: ClassesOfAttributes | None = None,
        cache: str = "~/.cache/vae_zoo",
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (3, size, size), **common)
        self.folder, self.download = Path(root).expanduser() / "celeba", download
        self.crop, self.split, self.cache, self.classes = crop, split, Path(cache).expanduser(), classes

    def load(self) -> Arrays:
        """Reads the files; pictures are decoded once for each way of cutting them.

        Raises:
            UserError: A file is missing or damaged, or `classes` names an unknown attribute.
        """
        self._fetch()
        (names, split), tables = self._table(SPLIT), {}
        for file in (IDENTITIES, ATTRIBUTES):
            listed, tables[file] = self._table(file)
            if listed != names:
                raise UserError(f"{self.folder / file} and {SPLIT} do not list the same images; download both again")
        label = (tables[ATTRIBUTES] > 0).astype(np.int64)  # [N, 40]
        label_names = (self.folder / ATTRIBUTES).read_text().splitlines()[1].split()
        num_classes = 2
        if self.classes is not None:
            label, num_classes = _classified(label, label_names, self.classes), max(map(len, self.classes.values()))
            label_names = [*self.classes]
        groups, split = {"identity": tables[IDENTITIES][:, 0]}, split[:, 0] if self.split == "official" else None
        options: dict[str, Any] = {"groups": groups, "split": split, "label_names": label_names, "names": names}
        return Arrays(self._images(names), label, num_classes, **options)

    def _fetch(self) -> None:
        missing = [file for file in FILES if not (self.folder / file).exists()]
        names = ", ".join(missing).replace(PICTURES, f"{PICTURES}/ (the unpacked {PICTURES}.zip)")
        by_hand = f"put {names} into {self.folder} by hand"
        nearest = "use data=faces, a similar data set without download"
        lacks = f"{names} not found in {self.folder}; {by_hand}, set data.download=true, or {nearest}"
        failed = f"CelebA could not be downloaded (...); {by_hand}, or {nearest}"
        get, wanted = partial(torchvision.datasets.CelebA, download=True), [f"celeba/{file}" for file in missing]
        fetch(get, self.folder.parent, wanted, self.download, lacks, failed)

    def _table(self, file: str) -> tuple[list[str], np.ndarray]:
        """Names of the images and their numbers, int64 [N, columns]."""
        first, count = (2, 40) if file == ATTRIBUTES else (0, 1)  # line, columns
        with blaming(f"{self.folder / file} is damaged (...); delete it and download it again"):
            rows = [line for line in (self.folder / file).read_text().splitlines()[first:] if line.strip()]
            if not rows:
                raise ValueError("it lists no images")
            numbers = np.loadtxt(rows, dtype=np.int64, usecols=range(1, count + 1), ndmin=2)
            return [row.split(maxsplit=1)[0] for row in rows], numbers

    def _images(self, names: list[str]) -> np.ndarray:
        """uint8 [N, 3, H, W], decoded once for each way of cutting them."""
        height, width = self.image_shape[1:]
        these = zlib.crc32("\n".join([str(self.folder.resolve()), *names]).encode())
        path = self.cache / f"celeba_v1_{self.crop or 'whole'}_{height}x{width}_{these:08x}.npy"

        def build(state: State):
            return decoded(self._read_image, names[state.get("read", 0) :], state)

        return stored(path, build, (len(names), 3, height, width), lambda: len(names), unit="pictures")[0]

    def _read_image(self, name: str) -> Picture:
        path, (_, height, width) = self.folder / PICTURES / name, self.image_shape
        with blaming(f"{path} cannot be read (...); unpack {PICTURES}.zip again"), Image.open(path) as image:
            image = image.convert("RGB")
            if self.crop is not None:
                left, top = (round((side - self.crop) / 2) for side in image.size)
                image = image.crop((left, top, left + self.crop, top + self.crop))
            return Picture(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None])


def _classified(attributes: np.ndarray, names: Sequence[str], classes: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The class of each image in each variable, int64 [N, V], -1 where no class holds; attributes: [N, 40] of 0 and 1."""
    column, found = {name: i for i, name in enumerate(names)}, []
    for variable, members in classes.items():
        holds = []  # of each class [N]
        for words in members:
            parts = [part.split() for part in words.split(" and ")]  # [name], or [not, name]
            for *negation, name in parts:
                if name not in column or negation not in ([], ["not"]):
                    wanted = "must consist of attributes, each with or without `not`"
                    raise UserError(f"data.classes.{variable}={words} {wanted}; {choose(name, names)}")
            holds.append(np.all([attributes[:, column[name]] != bool(no) for *no, name in parts], axis=0))
        table = np.array(holds)  # [K, N]
        found.append(np.where(table.any(0), table.argmax(0), -1))
    return np.stack(found, axis=1)
