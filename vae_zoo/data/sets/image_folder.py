"""The user's own pictures: a folder of images, classes by folder or by a table."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from vae_zoo.config.types import Index, Kinds, Limits, Shape, Side
from vae_zoo.data.arrays import Arrays, Kind
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.splits import check_number
from vae_zoo.data.storage import pictures
from vae_zoo.data.storage.cache import Parts, State, stored
from vae_zoo.data.storage.pictures import Decoding, Picture, decoded, fingerprint, pictures_below, source_of_rows
from vae_zoo.data.storage.table import read_table
from vae_zoo.utils.errors import UserError

log = logging.getLogger(__name__)


class Pictures(DataModule):
    """Base of data sets that are decoded from files of pictures.

    Args:
        size: Side of the square images, pixels >= 8.
        channels: 1 grey, 3 colour.
        crop: `center` fills the square and crops the rest, `pad` shows the whole picture on `background`, `none` changes the
            aspect ratio.
        background: Colour behind transparent pixels and in padding, a name or #rrggbb.
        range: [black, white] of files of 16 bits or more; None: [0, 65535].
        frames: Files with several frames: the `first`, `all`, or `group`: all, which form a group.
        on_error: Damaged files: `refuse` raises UserError, `skip` leaves them out and lists them.
        cache: Folder for the decoded images.
        image_shape: [C, H, W] in place of `channels` and `size`; None: these.
        **common: As in DataModule.

    Attributes:
        where: The source, for error messages.
    """

    groupings = ()  # any; known when the files are read
    where: str

    def __init__(
        self,
        size: Side = 64,
        channels: Literal[1, 3] = 3,
        crop: pictures.Crop = "center",
        background: str = "white",
        range: Limits | None = None,
        frames: pictures.Frames = "first",
        on_error: Literal["refuse", "skip"] = "refuse",
        cache: str = "~/.cache/vae_zoo",
        image_shape: Shape | None = None,
        **common,
    ):
        super().__init__(image_shape or (channels, size, size), **common)
        self.decoding, self.cache = Decoding(crop, background, range, frames, on_error), Path(cache).expanduser()

    def store(
        self, name: str, key: str, build: Callable[[State], Parts], most: Callable[[], int]
    ) -> tuple[UInt8[np.ndarray, "N C H W"], Int[np.ndarray, " N"], State]:
        """Decodes pictures once, or maps the stored images.

        Args:
            name: Name of the source and the settings.
            key: Key of the content of the source; arrays stored for other content are deleted.
            build: As in `vae_zoo.data.storage.cache.stored`.
            most: As in `stored`.

        Returns:
            Images, the index of the source of each, and the last state.

        Raises:
            UserError: There are fewer images than splits, or the cache cannot be written.
        """
        path = self.cache / f"{name}_{key}.npy"
        is_new = not path.exists()

        def enough(state: State) -> Parts:
            number = len(source_of_rows(state))
            for part, state in build(state):  # noqa: B020
                number += len(part)
                yield part, state
            check_number(number, self.where)

        images, state = stored(path, enough, (-1, *self.image_shape), most, unit="pictures")
        if is_new:
            pictures.tell_losses(state, path.with_suffix(""))
            for file in self.cache.glob(f"{name}_*"):
                if key not in file.name and ".part" not in file.name:  # another process may be writing that one
                    file.unlink(missing_ok=True)
        return images, source_of_rows(state), state

    def of_sources(
        self, images: UInt8[np.ndarray, "N ..."], source: Int[np.ndarray, " N"], names: Sequence[str], known: dict[str, Any]
    ) -> Arrays:
        """Makes Arrays of images, with the labels, factors and groups of the files that they are from.

        Args:
            images: Images from `store`, [N, C, H, W].
            source: The index of the file of each image.
            names: Names of the files.
            known: Fields of Arrays, a row for each file.
        """
        fields: dict[str, Any] = {k: value[source] if isinstance(value, np.ndarray) else value for k, value in known.items()}
        fields["groups"] = {key: value[source] for key, value in known.get("groups", {}).items()}
        if self.decoding.frames == "group":
            group = fields["groups"].get("group", np.full(len(source), -1))
            fields["groups"]["group"] = np.where(group < 0, group.max(initial=-1) + 1 + source, group)
        return Arrays(images, names=[names[int(i)] for i in source], **fields)


class ImageFolder(Pictures):
    """A folder of pictures, decoded once into a mapped array that processes share.

    Each picture is turned upright, resized and cropped. Hidden and system files are skipped.

    Args:
        path: The folder.
        class_depth: Level of the folders that are the classes: 1 is that of the folders in `path`; 0: no classes; None: 1 if
            all pictures lie in subfolders, else 0. Deeper folders belong to the class above them.
        table: CSV file that names the pictures, in place of `class_depth`: `vae_zoo.data.storage.table.read_table`. None:
            there is none.
        kinds: {factor: kind} of columns of the table; None: kinds are guessed.
        **common: As in Pictures.
    """

    def __init__(
        self, path: str, class_depth: Index | None = None, table: str | None = None, kinds: Kinds | None = None, **common
    ):
        super().__init__(**common)
        self.path, self.class_depth = Path(path).expanduser(), class_depth
        self.where = f"data.path={self.path}"
        self.kinds: Mapping[str, Kind] = kinds or {}
        self.table = None if table is None else Path(table).expanduser()

    def load(self) -> Arrays:
        """Decodes the pictures, or maps those of the cache.

        Raises:
            UserError: The folder or the table cannot be read, classes are ambiguous, or a picture is damaged.
        """
        names = pictures_below(self.path, "data.path")
        if self.table is not None:
            names, known = read_table(self.table, self.path, names, self.kinds)
        else:
            known = classes_of(self.path, names, self.class_depth, "data.path")
        if self.decoding.frames == "first" or not names:
            check_number(len(names), self.where)
        root, table = self.path.resolve(), None if self.table is None else self.table.resolve()
        name = f"images_{fingerprint(root, [], root, table, self.image_shape, self.decoding)}"

        def build(state: State) -> Parts:
            return decoded(self._read, names[state.get("read", 0) :], state)

        images, source, _ = self.store(name, fingerprint(self.path, names), build, lambda: self._most(names))
        return self.of_sources(images, source, names, known)

    def _read(self, name: str) -> Picture:
        return self.decoding.read(self.path / name, str(self.path / name), self.image_shape)

    def _most(self, names: Sequence[str]) -> int:
        """The largest possible number of images."""
        return len(names) if self.decoding.frames == "first" else sum(map(self._frames_of, names))

    def _frames_of(self, name: str) -> int:
        try:
            with Image.open(self.path / name) as image:
                return pictures.num_frames(image)
        except Exception:  # reported when it is decoded
            return 1


def classes_of(root: Path, names: Sequence[str], depth: int | None, setting: str) -> dict[str, Any]:
    """Labels pictures by the folders that they lie in.

    Args:
        root: The folder of all.
        names: Paths of the pictures below it.
        depth: The argument `class_depth` of ImageFolder.
        setting: The setting that names the folder, for error messages.

    Returns:
        `label` and `num_classes` of Arrays; {} without classes.

    Raises:
        UserError: Some pictures lie in no folder of this depth, or a folder is empty.
    """
    parents = [Path(name).parts[:-1] for name in names]
    shallow = [name for name, folders in zip(names, parents) if len(folders) < (depth or 1)]
    if depth is None and shallow and len(shallow) < len(names):
        folder = next(folders[0] for folders in parents if folders)
        raise UserError(
            f"{setting}={root} has both files ({shallow[0]}) and subfolders ({folder}); give either only images or one "
            f"subfolder of images per class, or set data.class_depth=0 for no classes"
        )
    if depth == 0 or depth is None and shallow or not names:
        return {}
    if shallow:
        raise UserError(
            f"data.class_depth must be at most {len(Path(shallow[0]).parts) - 1}, the number of folders above {shallow[0]}, "
            f"got {depth}"
        )
    folders = [parts[(depth or 1) - 1] for parts in parents]
    classes = sorted({*folders})
    for folder in sorted(root.glob("/".join("*" * (depth or 1)))):
        hidden = any(map(pictures.is_passed_over, folder.relative_to(root).parts))
        if folder.is_dir() and folder.name not in classes and not hidden:
            raise UserError(f"{folder}, a class of {setting}, contains no images; add some or remove it")
    number = {name: i for i, name in enumerate(classes)}
    log.info("%s: %s pictures of %d classes: %s", root, f"{len(names):,}", len(classes), ", ".join(classes[:10]))
    return {"label": np.array([number[name] for name in folders]), "num_classes": len(classes)}


def read_images(path: Path, image_shape: Sequence[int], setting: str, class_depth: int | None = None) -> Arrays:
    """Reads the few pictures of a folder into memory.

    Args:
        path: The folder, classes in its subfolders.
        image_shape: [C, H, W].
        setting: The setting that names the folder, for error messages.
        class_depth: As in `classes_of`; 0: no classes.

    Raises:
        UserError: A picture is damaged, or the folder cannot be read.
    """
    names, state = pictures_below(path, setting), {}
    known = classes_of(path, names, class_depth, setting)
    parts = decoded(lambda name: Decoding().read(path / name, str(path / name), image_shape), names, state)
    images = np.concatenate([np.empty((0, *image_shape), np.uint8), *(part for part, _ in parts)])
    return Arrays(images, names=names, **known)
