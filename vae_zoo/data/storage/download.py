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
    """Whatever goes wrong inside is a UserError with this sentence, in which (...) stands for the reason.

    For code of others, which raises a dozen kinds of exceptions for a damaged file.
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
    """Brings what is `missing` below `root`: `get` downloads it into the folder it is given, same place, and more with it.

    After an exception nothing of it is left, nor of the folders that were made for it. Raises UserError: `lacks` where
    `download` is off, `failed`, as in `blaming`, where it fails.
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
