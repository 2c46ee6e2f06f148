"""Arrays of a data set: images with labels, factors, groups and splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["categorical", "ordered", "continuous", "circular"]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Factor:
    """A known ground-truth factor. size: number of values, 0 when continuous. period: of a circular one, in its own unit;
    None: as `vae_zoo.metrics.probes.period_of` says."""

    name: str
    size: int
    kind: Kind
    period: float | None = None


@dataclass
class Arrays:
    """The arrays of a data set. `packed`: images hold 8 binary pixels a byte, big-endian, [N, C * H * W / 8]."""

    images: np.ndarray  # uint8 [N, C, H, W], or packed
    label: np.ndarray | None = None  # int64 [N] or [N, V], -1 = unknown
    num_classes: int | None = None
    factors: np.ndarray | None = None  # [N, F]: indices of the values, or reals
    factor_info: Sequence[Factor] = ()
    groups: dict[str, np.ndarray] = field(default_factory=dict)  # groupings beside label and factors: int [N], -1 alone
    split: np.ndarray | None = None  # official split, [N] of 0 train, 1 val, 2 test; without val it is cut from train
    extra_splits: Sequence[str] = ()  # names of the further test sets 3, 4, ... in `split`
    label_names: Sequence[str] = ()  # of V label variables
    packed: bool = False
    names: Sequence[str] | None = None  # of the images, for files that speak of them
    kept_as: tuple[int, ...] | None = None  # shape of what `images` has of each, if the set's own `to_float` draws it
