"""Atomic downloads, and one-sentence errors for damaged files."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import new_folder


@contextmanager
def blaming(sentence: str) -> Iterator[None]:
    """Converts all exceptions inside to one-sentence errors.

    For libraries, which raise many kinds of exceptions for a damaged file.

    Args:
        sentence: The message, in which (...) stands for the reason.

    Raises:
        UserError: There was an exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split()).rstrip("."))
        reason = message or ("it ends too early" if isinstance(error, EOFError) else type(error).__name__)
        raise UserError(sentence.replace("(...)", f"({reason})")) from error


def fetch(
    get: Callable[[str], object], root: Path, missing: Sequence[Path | str], download: bool, lacks: str, failed: str
) -> None:
    """Downloads files; after an exception neither they nor the folders that were made for them are left.

    Args:
        get: Downloads at least these files into the folder that it gets.
        root: Folder that they are moved to.
        missing: Their paths below it; [] does nothing.
        download: Whether a download is allowed.
        lacks: The message if it is not.
        failed: The message if it fails, as in `blaming`.

    Raises:
        UserError: Files are missing and cannot be downloaded.
    """
    if not missing:
        return
    if not download:
        raise UserError(lacks)
    with blaming(failed), new_folder(root), tempfile.TemporaryDirectory(dir=root) as folder:
        get(folder)
        for file in missing:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / file).replace(root / file)
