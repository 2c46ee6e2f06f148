"""Image data sets of the Hugging Face hub, or local ones in the same formats, read by the library `datasets`."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from vae_zoo.config.types import PathOrName
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.sets.image_folder import Pictures
from vae_zoo.data.storage.cache import Parts, State
from vae_zoo.data.storage.download import blaming
from vae_zoo.data.storage.pictures import decoded, fingerprint
from vae_zoo.data.storage.table import CODES, labels
from vae_zoo.utils.errors import UserError

PART = 4096  # rows between two states of a build, which hold the labels


class HuggingFace(Pictures):
    """A data set that `datasets.load_dataset` reads, streamed once into the cache.

    Its splits train, validation and test are used; missing ones are taken from train.

    Args:
        path: Name on the hub, or a local folder or file: parquet, arrow, images, webdataset.
        image: Column of the images.
        label: Column of the classes; None: no labels.
        config: Name of the configuration, where there are several; None: the default one.
        revision: Version of a data set of the hub; None: the newest.
        **pictures: As in vae_zoo.data.sets.image_folder.Pictures.
    """

    def __init__(
        self,
        path: PathOrName,
        image: str = "image",
        label: str | None = "label",
        config: str | None = None,
        revision: str | None = None,
        **pictures,
    ):
        super().__init__(**pictures)
        self.path = path
        self.image, self.label_column, self.config, self.revision = image, label, config, revision
        self.where = f"data.path={path}"

    def load(self) -> Arrays:
        """Decodes the images, or maps those of the cache.

        Raises:
            UserError: `datasets` is not installed, the data set cannot be read, or it has no such column.
        """
        local, chosen = Path(self.path).expanduser(), (self.image, self.label_column, self.config, self.revision)
        source = str(local.resolve()) if local.exists() else self.path
        name = f"huggingface_{fingerprint(local, [], source, chosen, self.image_shape, self.decoding)}"
        sets: dict[str, Any] = {}  # opened if they are needed

        def build(state: State) -> Parts:
            state.update({"label": [], "split": []} | state)
            rows = islice(self._rows(sets), state.get("read", 0), None)
            return decoded(self._read, self._noted(rows, state), state, PART)

        images, place, state = self.store(name, fingerprint(local, None), build, lambda: self._count(sets))
        known: dict[str, Any] = {}
        if self.label_column is not None:
            known["label"], known["num_classes"] = labels(np.array(state["label"], dtype=object), f"{self.where}, label")
        split = np.array(state["split"], dtype=np.int64)
        known["split"] = split if (split > 0).any() else None
        return self.of_sources(images, place, [str(i) for i in range(state["read"])], known)

    def _opened(self) -> dict[str, Any]:
        """Streams of the splits, without decoding of images."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                "data=huggingface needs datasets, which is not installed; run `pip install 'vae_zoo[hf]'`"
            ) from error
        local = Path(self.path).expanduser()
        options = {"name": self.config, "revision": self.revision, "streaming": True}
        with blaming(
            f"{self.where} cannot be opened (...); give a local folder, or the name of a data set on huggingface.co"
        ):
            found: Any
            if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
                found = datasets.load_from_disk(str(local))
            elif local.is_file():
                found = datasets.load_dataset(local.suffix[1:], data_files=str(local), streaming=True)
            else:
                found = datasets.load_dataset(str(local) if local.exists() else self.path, **options)
            found = {**found} if isinstance(found, dict) else {"train": found}
            columns = next(iter(found.values())).column_names or []
        for setting, column in (("image", self.image), ("label", self.label_column)):
            if columns and column is not None and column not in columns:
                known = ", ".join(name for name in columns if setting == "image" or name != self.image)
                none = ", or data.label=null for no labels" if setting == "label" else ""
                allowed = f"set data.{setting} to one of {known}{none}" if known else "set data.label=null for no labels"
                raise UserError(f"{self.where} has no column {column}; {allowed}")
        if found.keys() & CODES.keys():
            found = {name: found[name] for name in sorted(found.keys() & CODES.keys(), key=lambda name: CODES[name])}
        return {name: part.cast_column(self.image, datasets.Image(decode=False)) for name, part in found.items()}

    def _rows(self, sets: dict[str, Any]) -> Iterator[tuple[int, str, Any]]:
        """The code of the split, the name and the row of each image."""
        with blaming(f"{self.where} cannot be read (...); check its files, data.image and the connection"):
            for name, part in (sets or self._opened()).items():
                for number, row in enumerate(part):
                    yield CODES.get(name, 0), f"row {number} of {name}", row

    def _noted(self, rows: Iterator[tuple[int, str, Any]], state: State) -> Iterator[tuple[str, Any]]:
        """The images, after their labels and splits are noted."""
        for code, name, row in rows:
            if self.label_column is not None:
                value = row[self.label_column]
                state["label"].append("" if value is None else value)
            state["split"].append(code)
            yield name, row[self.image]

    def _read(self, named: tuple[str, Any]) -> Any:
        name, image = named
        with blaming(f"{self.where}, {name}, has no image in column {self.image} (...); set data.image"):
            source = image["bytes"] if image["bytes"] is not None else Path(image["path"])
        return self.decoding.read(source, f"{self.where}, {name},", self.image_shape)

    def _count(self, sets: dict[str, Any]) -> int:
        """The number of images, where the data set states it."""
        sets.update(self._opened())
        numbers = [(part.info.splits or {}).get(name) for name, part in sets.items()]
        return sum(part.num_examples or 0 for part in numbers if part is not None)
