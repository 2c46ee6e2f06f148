"""Downloads of which a broken one leaves no trace."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def arriving_whole(root: Path, wanted: Iterable[Path | str]) -> Iterator[str]:
    """A folder to download into. At the end what is `wanted` of it moves into `root`, same place, and the rest is deleted.

    After an exception all of it is deleted, and so are the folders that were made for it.
    """
    made = [folder for folder in (root, *root.parents) if not folder.exists()]  # the deepest first
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as folder:
            yield folder
            for file in wanted:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / file).replace(root / file)
    finally:
        for folder in made:
            with suppress(OSError):  # what is not empty stays
                folder.rmdir()


def reason(error: Exception) -> str:
    """A library's message in one line, without the full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
