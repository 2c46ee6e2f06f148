"""Types of settings: constructors annotate their arguments with them, and configs are checked against them.

The module imports neither torch nor lightning. A `description` gives the allowed values in error messages if the type alone
does not. `tools/settings.py` writes the type of each argument into settings.json by name: a constructor uses a type of this
file, a plain type, a Literal, or a union of these; any other class is a component, an object with its own `_target_`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12


def _ordered(pair: Sequence[int]) -> Sequence[int]:
    if pair[0] > pair[1]:
        raise ValueError  # the message is the field's description
    return pair


def _increasing(pair: Sequence[float]) -> Sequence[float]:
    if pair[0] >= pair[1]:
        raise ValueError
    return pair


def _different(values: Sequence[int]) -> Sequence[int]:
    if len({*values}) < len(values):
        raise ValueError
    return values


def _values_below(size: int) -> Any:
    """Indices of some of the `size` values of a factor, or null for all."""
    words = f"a list of different whole numbers from 0 to {size - 1}, such as [0] or [0, {size - 1}], or null for all"
    values = Annotated[Sequence[Annotated[int, Field(ge=0, lt=size)]], Field(min_length=1), AfterValidator(_different)]
    return Annotated[values | None, Field(description=words)]


Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Folds = Annotated[int, Field(ge=2)]
Side = Annotated[int, Field(ge=8)]
Stride = Annotated[int, Field(ge=1, le=4)]
SpriteSide = Annotated[int, Field(ge=3)]
CelebACrop = Annotated[int, Field(ge=8, le=178)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Variance = Annotated[float, Field(gt=1e-6, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Rise = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Probabilities = Annotated[
    Sequence[Positive], Field(min_length=2, description="a list of numbers > 0, one for each value, such as [0.3, 0.7]")
]
Size = Annotated[
    float, Field(gt=0, allow_inf_nan=False, description="a number of images, or a share of them between 0 and 1")
]
Shape = Annotated[Sequence[Count], Field(min_length=3, max_length=3, description="[channels, height, width]")]

Limits = Annotated[
    Sequence[Finite],
    Field(min_length=2, max_length=2, description="[black, white], two increasing numbers such as [0, 4095]"),
    AfterValidator(_increasing),
]
Kinds = Annotated[
    dict[str, Literal["categorical", "ordered", "continuous", "circular"]],
    Field(description="{factor: categorical, ordered, continuous or circular}"),
]
Grid = Annotated[dict[str, Count], Field(description="the number of values of each factor, such as {shape: 3, x: 32}")]
PathOrName = Annotated[str, Field(min_length=1, description="a path, or the name of a data set on huggingface.co")]

Widths = Annotated[Sequence[Count], Field(min_length=1, description="a list of whole numbers >= 1, such as [32, 64]")]
Hidden = Annotated[Sequence[Count], Field(description="a list of whole numbers >= 1, such as [256], or [] for none")]
Strides = Annotated[
    Sequence[Stride], Field(min_length=1, description="a list of whole numbers from 1 to 4, such as [2, 2, 3]")
]
Padding = Annotated[Sequence[Index], Field(min_length=2, max_length=2)]
Paddings = Annotated[Sequence[Padding], Field(description="[height, width] for each convolution, such as [[0, 2], [1, 1]]")]
FacetWidths = Annotated[
    Sequence[Widths],
    Field(min_length=1, description="a list of layers for each facet, the shallowest first, such as [[500], [2000]]"),
]
FacetCounts = Annotated[
    Sequence[Count],
    Field(min_length=1, description="a whole number >= 1 for each facet, the shallowest first, such as [5, 5]"),
]
Stages = Annotated[
    Sequence[Positive],
    Field(min_length=1, description="the length of each stage, in updates or as a share below 1, such as [0.4, 0.6]"),
]
Pretrain = Annotated[
    Sequence[NonNegative],
    Field(min_length=1, description="a number of updates for each stage, or a share of the stage below 1, such as [0.5, 0]"),
]
Classes = Annotated[int, Field(ge=2)]
NumClasses = Annotated[
    Classes | Annotated[Sequence[Classes], Field(min_length=1)],
    Field(description="a whole number >= 2, or a list of them for several variables; by default data.num_classes"),
]
WeightsOfClusters = Literal["fixed", "learned"] | Annotated[Sequence[Literal["fixed", "learned"]], Field(min_length=1)]
Estimators = Literal["sample", "analytic"] | Annotated[Sequence[Literal["sample", "analytic"]], Field(min_length=1)]

ClassesOfAttributes = Annotated[
    dict[str, Annotated[list[str], Field(min_length=2)]],
    Field(min_length=1, description="the attributes of each variable's classes, such as {gender: [not Male, Male]}"),
]
Range = Annotated[Sequence[Count], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
GroupSize = Annotated[Count | Range, Field(description="a whole number >= 1, or a range of them such as [1, 8]")]
NumObjects = Annotated[
    Sequence[Annotated[int, Field(ge=0, le=254)]],  # their numbers are bytes
    Field(min_length=2, max_length=2, description="[min, max] number of objects in a scene, at most 254, such as [0, 5]"),
    AfterValidator(_ordered),
]
Patches = Annotated[Sequence[Count], Field(min_length=1, description="sides of patches, pixels, such as [1, 2, 4, 8]")]
BlurWidths = Annotated[
    Sequence[Positive], Field(min_length=2, max_length=2, description="[min, max] in pixels, such as [5, 10]")
]
BlurRadii = Annotated[Range, Field(description="[min, max] in pixels, such as [3, 6]")]
Betas = Annotated[
    Sequence[Momentum], Field(min_length=2, max_length=2, description="two numbers >= 0 and < 1, such as [0.9, 0.999]")
]


# Values of each factor of 3DShapes that are used; None: all. Type checkers do not support types computed by a function.
_SIZES = {"floor_hue": 10, "wall_hue": 10, "object_hue": 10, "scale": 8, "shape": 4, "orientation": 15}
RoomFactors: Any = TypedDict("RoomFactors", {name: _values_below(size) for name, size in _SIZES.items()}, total=False)  # pyright: ignore
RoomFactors.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)

Rooms = Annotated[RoomFactors, Field(description="lists of values of some factors, such as {floor_hue: [0]}")]


ARRAYS = ("images", "label", "factors", "factor_names", "group", "split")
ArrayKeys = TypedDict("ArrayKeys", dict.fromkeys(ARRAYS, str), total=False)  # pyright: ignore
ArrayKeys.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore
Keys = Annotated[ArrayKeys, Field(description=f"a string for each of {', '.join(ARRAYS)}")]


def _component(kind: str, example: str) -> Any:
    return Annotated[
        dict[str, Any], Field(description=f"a{'n' * (kind[0] in 'aeiou')} {kind} such as {{_target_: {example}}}")
    ]


# In a config, an argument whose type is another class is one of these; its target's settings are checked by themselves.
Component = Annotated[dict[str, Any], Field(description="an object with a _target_")]
Network = _component("network", "vae_zoo.nets.MLP, hidden: [256]")
Likelihood = _component("likelihood", "vae_zoo.distributions.Bernoulli")
Optimizer = _component("optimizer", "torch.optim.Adam, _partial_: true, lr: 0.001")
View = _component("view", "vae_zoo.nets.PatchShuffle, patch: 4")
Schedule = _component("schedule", "vae_zoo.schedules.Linear, start: 0, end: 4, steps: 1000")
Plateau = _component("plateau", "vae_zoo.schedules.Plateau, factor: 0.5")
Progressive = _component("progressive schedule", "vae_zoo.schedules.Progressive, total: 1000")
COMPONENTS = {"Component", "Network", "Likelihood", "Optimizer", "View", "Schedule", "Plateau", "Progressive"}
