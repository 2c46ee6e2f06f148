"""Splits into train, validation and test: disjoint, the same for every seed, each identity in one split."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vae_zoo.data.arrays import SPLITS, Arrays
from vae_zoo.data.grouping import alone_where_unknown
from vae_zoo.utils.errors import UserError

Places = Int[np.ndarray, " _"]


def cut(
    arrays: Arrays, sizes: Mapping[str, float], seed: int, folds: int | None, fold: int, subset: int | None, kept: Places
) -> dict[str, Places]:
    """Divides a data set into disjoint splits, which depend only on `seed`; official splits are kept.

    Args:
        arrays: The data set.
        sizes: {`test` and `val`: number of images or identities, or a share of those without an official split}.
        seed: Seed of the draw.
        folds: As in DataModule.
        fold: As in DataModule.
        subset: As in DataModule.
        kept: Indices of images that stay in training unless they are in another official split or in the tested fold.

    Returns:
        {split: increasing indices of its images}.

    Raises:
        UserError: There are too few images, there are folds and an official test split, or an identity is in two splits.
    """
    official = np.zeros(len(arrays.images), dtype=np.int64) if arrays.split is None else arrays.split
    rng = np.random.default_rng(seed)
    names = (*SPLITS, *arrays.extra_splits)
    parts = {name: np.flatnonzero(official == code) for code, name in enumerate(names)}
    unit, kind = np.arange(len(official)), "images"  # units that are divided into splits
    for whole, kind_of in (("group", "groups"), ("identity", "identities")):
        if whole in arrays.groups:
            unit, kind = alone_where_unknown(arrays.groups[whole]), kind_of
            _check_unseen(unit, official, names, whole)
    distinct = np.asarray if kind == "images" else np.unique  # places are distinct and in order; np.unique takes minutes
    if not len(parts["train"]):
        raise UserError("no image of the data set is in its split train; add training images, or remove the column split")
    total = len(distinct(unit[parts["train"]]))
    if folds is not None and len(parts["test"]):
        raise UserError(f"data.folds={folds}, but the data set has an official test split; remove data.folds")
    for name, size in sizes.items():
        if len(parts[name]) == 0:
            units = distinct(unit[parts["train"]])
            if name != "test" or folds is None:
                units = units[~np.isin(units, unit[kept])]
            left = len(units)
            first, end = 0, round(size * total) if size < 1 else int(size)
            if name == "test" and folds is not None:
                _check_folds(folds, fold, left, kind)
                first, end = (part * left // folds for part in (fold, fold + 1))
            if not 1 <= end - first < left:
                raise UserError(
                    f"data.{name}_size must be a number of {kind} from 1 to {left - 1}, or a share such as 0.1, got {size} "
                    f"({end - first} of {left} {kind})"
                )
            taken = np.isin(unit[parts["train"]], rng.permutation(units)[first:end])
            parts[name], parts["train"] = parts["train"][taken], parts["train"][~taken]
    if subset is not None:
        if subset > len(parts["train"]):
            number = len(parts["train"])
            raise UserError(f"data.subset must be at most {number}, the number of training images, got {subset}")
        order = rng.permutation(parts["train"])
        parts["train"] = np.sort(order[np.argsort(~np.isin(order, kept), kind="stable")][:subset])
    return parts


def _check_folds(folds: int, fold: int, most: int, kind: str) -> None:
    if not fold < folds <= most:
        raise UserError(f"data.folds must be above data.fold={fold} and at most {most}, the number of {kind}, got {folds}")


def check_number(number: int, where: str) -> None:
    """Refuses data sets with fewer images than splits.

    Args:
        number: Number of images.
        where: Name of the data set in the error.

    Raises:
        UserError: There are fewer than 3.
    """
    if number < 3:
        raise UserError(f"{where} has {number} images; give at least 3, one per split")


def _check_unseen(identity: np.ndarray, split: np.ndarray, names: Sequence[str], what: str) -> None:
    """Raises UserError if an identity or group lies in two of the set's own splits, [N] of places in `names`."""
    pairs = np.unique(np.stack([identity, split]), axis=1)  # [2, pairs], identities in order
    twice = np.flatnonzero(pairs[0, 1:] == pairs[0, :-1])
    if len(twice):
        who, first, second = pairs[0, twice[0]], pairs[1, twice[0]], pairs[1, twice[0] + 1]
        raise UserError(
            f"the official split has {what} {who} in both {names[first]} and {names[second]}; correct the files, or set "
            f"data.split=identity if the data set has this setting"
        )
