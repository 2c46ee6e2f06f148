"""Atomic file writes, and reading that tolerates damaged files."""

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vae_zoo.utils.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@contextmanager
def atomic(path: Path, sync: bool = False) -> Iterator[IO[bytes]]:
    """Yields a temporary file that replaces the target at the end, so that even after a crash no file is incomplete.

    sync: flush the file to disk before it is renamed, so that this also holds if the machine fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)
    try:
        with temporary as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary.name, 0o644)  # temporary files have mode 0600, which would hide results from the group
        os.replace(temporary.name, path)
    except BaseException as error:
        Path(temporary.name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields a new folder next to `folder`, which it replaces at the end; after an error nothing has changed.

    Raises UserError if `folder` has files that the new one does not have, since they would be lost.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        yield new
        if folder.exists():
            there = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file of that name"]
            if others := sorted({*there} - {path.name for path in new.iterdir()}):
                raise UserError(f"{folder} has {others[0]}, which is not part of this export; give out=<another folder>")
            folder.rename(Path(temporary) / "old")
        new.rename(folder)


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Makes a folder with its parents; after an exception those that were made and are empty are removed again."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]  # the deepest first
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # folders that are not empty remain
                folder.rmdir()
        raise


def check_writable(folder: Path, remedy: str) -> None:
    """Raises UserError, before hours of work, if files cannot be written to a folder, which need not exist.

    remedy: what to give instead.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{folder} cannot be a folder, since {there} is a file; give {remedy}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written, since {there} is read-only; give {remedy}")


def encoded(text: str) -> bytes:
    """UTF-8; bytes of file names that are not UTF-8, which Python stores as surrogates, are restored."""
    return text.encode("utf-8", "surrogateescape")


def write_atomic(path: Path, content: str | bytes) -> Path:
    path = Path(path)
    with atomic(path) as file:
        file.write(encoded(content) if isinstance(content, str) else content)
    return path


def write_json(path: Path, value: Any) -> Path:
    return write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_dict(path: Path) -> tuple[dict[str, Any], str]:
    """The object in a JSON file, and a message if the file is damaged; ({}, "") if it does not exist."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}, ""
    except (OSError, ValueError, RecursionError):
        value = None
    return (value, "") if isinstance(value, dict) else ({}, f"{path.name} is damaged")


def no_space(error: BaseException) -> str | None:
    """Message with the file and the reason if the disk is full or read-only; None if the error has another cause."""
    if not isinstance(error, OSError) or error.errno not in NO_SPACE:
        return None
    return f"{error.filename or 'a file'} cannot be written ({error.strerror})"


def lock(file: IO[Any], kind: int) -> None:
    """Locks an open file (kind: of fcntl.flock). Raises BlockingIOError if another process holds it, UserError if the file
    system has no locks."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}), so two commands could train the same run; set "
            f"paths.outputs=<folder> to a file system with locks (docs/how_to/clusters.md)"
        ) from error
