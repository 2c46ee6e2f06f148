"""Converts columns of a CSV file or arrays of the user to labels, factors, groups and splits."""

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int, Shaped

from vae_zoo.config.check import choose
from vae_zoo.data.arrays import SPLITS, Factor, Kind
from vae_zoo.data.storage.download import blaming
from vae_zoo.utils.errors import UserError

UNKNOWN = {"", "-1"}
EXACT = 2**53  # float64 has all whole numbers below
DISCRETE = 256  # largest number of values of a factor that is not continuous
CODES = {name: code for code, name in enumerate(SPLITS)} | {"validation": 1, "valid": 1}
log = logging.getLogger(__name__)


def read_table(
    path: Path, folder: Path, pictures: Sequence[str], kinds: Mapping[str, Kind]
) -> tuple[list[str], dict[str, Any]]:
    """Reads a CSV file that lists pictures with their labels, factors, group and split.

    Columns: `file`, the path in the folder; optional `label`, `group` and `split` (train, val, test); every other is a
    factor. An empty cell means unknown, which is not allowed for factors.

    Args:
        path: The file.
        folder: The folder of the pictures.
        pictures: The pictures in this folder.
        kinds: {factor: kind}; other kinds are guessed.

    Returns:
        The pictures named, and fields of Arrays for them.

    Raises:
        UserError: A line names no picture, or contradicts another.
    """
    sentence = f"data.table={path} cannot be read (...); give a CSV file with the columns file, label, ..."
    with blaming(sentence), path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        header, *lines = [[cell.strip() for cell in line] for line in csv.reader(file)] or [[]]
    if "file" not in header or "" in header or len({*header}) < len(header):
        raise UserError(
            f"{path} begins with {','.join(header)!r}; its first line must have distinct column names, including file, and "
            f"no column without a name (pandas writes its index as one; use index=False)"
        )
    rows: dict[str, tuple[int, list[str]]] = {}
    there = {*pictures}
    for number, line in enumerate(lines, start=2):
        if not any(line):
            continue
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: must have {len(header)} cells ({','.join(header)}), got {len(line)}")
        name = os.path.normpath(line.pop(header.index("file")))
        if name not in there and not (folder / name).is_file():
            raise UserError(f"{path}, line {number}: there is no {name} in {folder}; correct the name or remove the line")
        if rows.setdefault(name, (number, line))[1] != line:
            raise UserError(
                f"{path}, lines {rows[name][0]} and {number} contradict each other on {name}; remove one of them"
            )
    if len(rows) < len(there):
        log.info("%s: %d pictures are not listed in %s and are not used", folder, len(there - rows.keys()), path)
    cells = np.array([line for _, line in rows.values()], dtype=object).reshape(len(rows), len(header) - 1)
    columns = dict(zip([name for name in header if name != "file"], cells.T))
    return [*rows], with_label(fields_of(columns, f"{path}, column ", kinds))


def fields_of(columns: Mapping[str, Shaped[np.ndarray, "N ..."]], where: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Makes fields of Arrays.

    Args:
        columns: `label` [N] or [N, V], `group`, `split` and factors, numbers or text.
        where: Prefix of the name of a column in errors.
        kinds: {factor: kind}.

    Returns:
        The fields `label`, `num_classes`, `groups`, `split`, `factors` and `factor_info` that the columns define.

    Raises:
        UserError: A column has invalid values, or `kinds` names an unknown factor.
    """
    fields: dict[str, Any] = {}
    factors = {name: values for name, values in columns.items() if name not in ("label", "group", "split")}
    if unknown := kinds.keys() - factors.keys():
        raise UserError(f"data.kinds.{min(unknown)} is not a factor of the data; {choose(min(unknown), factors)}")
    if "label" in columns:
        fields["label"], fields["num_classes"] = labels(columns["label"], f"{where}label")
    if "group" in columns:
        fields["groups"] = {"group": _codes(columns["group"])}
    if "split" in columns:
        fields["split"] = splits(columns["split"], f"{where}split")
    found = [_factor(name, values, where, kinds.get(name)) for name, values in factors.items()]
    found = [(values, factor) for values, factor in found if factor.size != 1]
    if found:
        fields["factors"], fields["factor_info"] = np.stack([values for values, _ in found], 1), [f for _, f in found]
        words = ", ".join(f"{f.name} ({f.kind}{f', {f.size} values' if f.size else ''})" for f in fields["factor_info"])
        log.info("factors: %s", words)
    return fields


def with_label(fields: dict[str, Any]) -> dict[str, Any]:
    """Makes a factor the label if there is none: the first categorical one, else the first that is not continuous.

    Args:
        fields: Fields of Arrays.
    """
    order = sorted((f.kind != "categorical", i) for i, f in enumerate(fields.get("factor_info", ())) if f.size)
    if "label" in fields or not order:
        return fields
    factor = fields["factor_info"][order[0][1]]
    log.info("the label is the factor %s", factor.name)
    return fields | {"label": fields["factors"][:, order[0][1]].astype(np.int64), "num_classes": factor.size}


def labels(values: Shaped[np.ndarray, "N ..."], what: str) -> tuple[Int[np.ndarray, "N ..."], int]:
    """Makes labels 0, 1, ...; text and numbers with gaps are numbered in their order.

    Args:
        values: Numbers or text, [N] or [N, V]; unknown where empty or -1.
        what: Name of the column in errors.

    Returns:
        The labels, -1 = unknown, and the number of classes.

    Raises:
        UserError: There are numbers that are not whole or below -1, or no label is known.
    """
    numbers = _numbers(values)
    if numbers is None:
        texts = values.astype(str)
        classes = sorted({*texts.ravel()} - UNKNOWN)
        return np.where(np.isin(texts, [*UNKNOWN]), -1, np.searchsorted(classes, texts)), len(classes)
    known = np.nan_to_num(numbers, nan=-1)
    if (wrong := (known < -1) | (known % 1 != 0)).any():
        raise UserError(f"{what}: labels must be whole numbers from 0, or -1 if unknown, got {known[wrong][0]:g}")
    found = np.unique(known[known >= 0])
    if not len(found):
        raise UserError(f"{what} has no known label; give one to some images, or remove the labels")
    if values.ndim == 1 and found[-1] + 1 > len(found):
        log.info("%s: the %d labels %g to %g are numbered from 0", what, len(found), found[0], found[-1])
        return np.searchsorted(found, known) - (known < 0), len(found)
    return known.astype(np.int64), int(found[-1]) + 1


def splits(values: Shaped[np.ndarray, " N"], what: str) -> Int[np.ndarray, " N"]:
    """Converts train, val, test to 0, 1, 2.

    Args:
        values: These names, `validation`, `valid`, or the numbers themselves.
        what: Name of the column in errors.

    Raises:
        UserError: There are other values.
    """
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    codes = CODES | {str(code): code for code in CODES.values()}
    if wrong := {*texts} - codes.keys():
        raise UserError(f"{what}: must be train, val or test (0, 1, 2) for every image, got {min(wrong)!r}")
    return np.array([codes[text] for text in texts], dtype=np.int64)


def _factor(
    name: str, values: np.ndarray, where: str, kind: Kind | None
) -> tuple[Int[np.ndarray, " N"] | Float[np.ndarray, " N"], Factor]:
    """A column as indices of its values, or unchanged if there are too many values."""
    numbers = _numbers(values)
    given = values.astype(str) if numbers is None else numbers
    if (unknown := given == "" if numbers is None else np.isnan(numbers)).any():
        raise UserError(f"{where}{name}: image {unknown.argmax()} has no value; factors must be known for every image")
    found, place = np.unique(given, return_inverse=True)
    are_few = len(found) <= DISCRETE and (numbers is None or not (numbers % 1).any() or len(found) <= len(given) // 10)
    if numbers is None or kind in ("categorical", "ordered") or are_few and kind != "continuous":
        if len(found) == 1:
            log.info("factor %s has one value and is left out", name)
        return place, Factor(name, len(found), kind or cast(Kind, "categorical" if numbers is None else "ordered"))
    return numbers, Factor(name, 0, kind or "continuous")


def _codes(values: np.ndarray) -> np.ndarray:
    """Numbers of the different values; empty, NaN or -1 is -1."""
    if values.dtype.kind in "iu":
        given, unknown = values, values == -1
    elif (numbers := _numbers(values)) is None or (np.abs(numbers) >= EXACT).any():
        given = values.astype(str)
        unknown = np.isin(given, [*UNKNOWN])
    else:
        given = np.nan_to_num(numbers, nan=-1)
        unknown = given == -1
    return np.where(unknown, -1, np.unique(given, return_inverse=True)[1])


def _numbers(values: np.ndarray) -> np.ndarray | None:
    """The values as float64, NaN where empty; None: some are not numbers."""
    if values.dtype.kind in "OU" and any("_" in str(value) for value in values.ravel()):
        return None  # Python reads 12_3 as 123
    try:
        return (np.where(values == "", np.nan, values) if values.dtype == object else values).astype(np.float64)
    except ValueError:
        return None
