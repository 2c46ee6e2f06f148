"""Reads labels of the user, for any data set, from a CSV file."""

import codecs
import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vae_zoo.data.storage.download import blaming
from vae_zoo.utils.errors import UserError


def read_labels(path: str | Path, num_images: int, names: Sequence[str] | None) -> tuple[Int[np.ndarray, "N V"], list[str]]:
    """Reads a CSV file of labels.

    The first line names the columns: `image`, then one for each label variable. A line is an image: its number in the
    order of the data set, from 0 (training images come first), or its name if there are `names`; then its labels, 0, 1,
    ..., empty if unknown. Numbers may be written as floats, columns separated by ; or tabs, and the text may begin
    with a byte-order mark, as spreadsheets and pandas write them.

    Args:
        path: The file.
        num_images: Number of images, N.
        names: Names of the images; None: they have only numbers.

    Returns:
        The labels, -1 = unknown, and the names of the V variables.

    Raises:
        UserError: The file has another format, names an unknown image, or contradicts itself.
    """
    path = Path(path).expanduser()
    with blaming(f"data.labels_from={path} cannot be read (...); give a CSV file"):
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16") if wide else content.decode("utf-8-sig", "surrogateescape")
        first = text.partition("\n")[0]
        separator = next((sign for sign in ",;\t" if sign in first), ",")
        header, *lines = list(csv.reader(text.splitlines(keepends=True), delimiter=separator)) or [[]]
    if len(header) < 2 or header[0].strip() != "image":
        found = f"begins with {separator.join(header)!r}" if text.strip() else "is empty"
        raise UserError(f"{path} {found}; its first line must be image,<label>,<label>,...")
    places = _places(names or ())
    has_numbers = not any(_whole(name) is not None for name in places)  # else a number is a name
    line_of: dict[int, int] = {}
    label = np.full((num_images, len(header) - 1), -1, dtype=np.int64)
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        image, *values = (value.strip() for value in line)
        index = _whole(image) if has_numbers else None
        found = places.get(image) or ([] if index is None or index >= num_images else [index])
        if not found:
            known = f"a number from 0 to {num_images - 1}" + (f", or a name such as {names[0]}" if names else "")
            raise UserError(f"{path}, line {number}: there is no image {image!r}; give {known}")
        numbers = [-1 if value == "" else _whole(value) for value in values]
        if len(numbers) != label.shape[1] or None in numbers:
            raise UserError(
                f"{path}, line {number}: must be the image and {label.shape[1]} labels (0, 1, ..., or empty if unknown), "
                f"got {line}"
            )
        for index in found:
            if index in line_of and label[index].tolist() != numbers:
                raise UserError(
                    f"{path}, lines {line_of[index]} and {number}: image {image!r} has two different labels; remove one of "
                    f"them"
                )
            line_of.setdefault(index, number)
            label[index] = [number for number in numbers if number is not None]
    if not (label >= 0).any():
        raise UserError(f"{path} has no labels; write one line for each labelled image")
    return label, [name.strip() for name in header[1:]]


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    """The images of each name; the frames of a file have one name."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    return places


def _whole(text: str) -> int | None:
    found = re.fullmatch(r"(\d+)(\.0*)?", text, re.ASCII)
    return int(found[1]) if found else None
