"""Natural sorting and cleaning of text."""

import re
import shlex
from typing import Any


def natural(text: str) -> list[str | int]:
    """Sorting key that puts `beta=4` before `beta=16`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def clean(value: Any) -> str:
    """The text in one line, without control characters, which a terminal would execute."""
    text = " ".join(str(value).split())
    if not text.isprintable():
        text = "".join(filter(str.isprintable, text))
    return text if len(text) <= 400 else f"{text[:397]}..."


def quoted(text: object) -> str:
    """The text quoted for Hydra's grammar, with any characters."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(text))  # no interpolation
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', escaped)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def override(key: str, value: object) -> str:
    """The override of a command line with this value, quoted for Hydra and the shell if necessary."""
    text = str(value)
    is_plain = re.fullmatch(r"[A-Za-z0-9_/.%@+:-]*[A-Za-z_/][A-Za-z0-9_/.%@+:-]*", text)
    is_word = text.lower() in ("null", "true", "false", "nan", "inf")  # which Hydra would not read as text
    return shlex.quote(f"{key}={text if is_plain and not is_word else quoted(text)}")


def readable(node: Any) -> Any:
    """A config for dashboards, which accept only UTF-8: other bytes of file names become question marks."""
    if isinstance(node, dict):
        return {readable(key): readable(value) for key, value in node.items()}
    if isinstance(node, list):
        return [readable(value) for value in node]
    return node.encode("utf-8", "replace").decode() if isinstance(node, str) else node


def without_paths(command: str) -> str:
    """A command with `<path>` in place of the paths on the machine of its author."""
    words = (word.partition("=") for word in shlex.split(command))
    return " ".join(
        f"{key}=<path>" if value.startswith(("/", "~", "./", "../")) else shlex.quote(f"{key}{sign}{value}")
        for key, sign, value in words
    )
