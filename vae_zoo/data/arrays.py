"""Arrays of a data set: images with labels, factors, groups and splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Integer, Real, UInt8

Kind = Literal["categorical", "ordered", "continuous", "circular"]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Factor:
    """A known ground-truth factor.

    Attributes:
        name: Name, unique in the data set.
        size: Number of values, >= 1; 0: continuous.
        kind: Kind of its values; decides how probes score it.
        period: Period of a circular factor, in its own unit; None: the default of `vae_zoo.metrics.probes.period_of`.
    """

    name: str
    size: int
    kind: Kind
    period: float | None = None


@dataclass
class Arrays:
    """Images with labels, factors, groups and splits, as `load` of a data set returns them.

    Attributes:
        images: [N, C, H, W]; or, with `packed` or `kept_as`, [N, ...].
        label: Classes 0..num_classes-1, [N] or [N, V] for several label variables, -1 = unknown; None: there are none.
        num_classes: Number of classes, the largest if there are several variables; None: unknown or no label.
        factors: Ground-truth factors: indices 0..size-1 of their values, or real numbers; None: unknown.
        factor_info: Describes the columns of `factors`, F of them.
        groups: {name: group of each image} of groupings other than by label or factor, -1 = in a group of its own.
            Groups of `identity` and `group` are never divided between splits.
        split: The official split: 0 train, 1 val, 2 test, 3 and more those of `extra_splits`; if val or test has no image,
            its images are taken from train. None: all images are 0.
        extra_splits: Names of further test sets.
        label_names: Names of the V label variables.
        packed: Images have 8 binary pixels per byte, the first one in the highest bit: [N, C * H * W / 8].
        names: Names of the images in files that a user writes, such as data.labels_from; None: their numbers.
        kept_as: Shape of the stored entry of each image, if `to_float` of the data set draws the image; None: [C, H, W].
    """

    images: UInt8[np.ndarray, "N ..."]
    label: Integer[np.ndarray, " N"] | Integer[np.ndarray, "N V"] | None = None
    num_classes: int | None = None
    factors: Real[np.ndarray, "N F"] | None = None
    factor_info: Sequence[Factor] = ()
    groups: dict[str, Integer[np.ndarray, " N"]] = field(default_factory=dict)
    split: Integer[np.ndarray, " N"] | None = None
    extra_splits: Sequence[str] = ()
    label_names: Sequence[str] = ()
    packed: bool = False
    names: Sequence[str] | None = None
    kept_as: tuple[int, ...] | None = None
