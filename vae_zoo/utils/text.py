"""Order and form of words that come from elsewhere."""

import re
from typing import Any


def natural(text: str) -> list[str | int]:
    """Sorting key by which `beta=4` comes before `beta=16`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def clean(value: Any) -> str:
    """One line without control characters, which a terminal would obey."""
    text = "".join(c for c in " ".join(str(value).split()) if c.isprintable())
    return text if len(text) <= 400 else f"{text[:397]}..."
