"""What models, data and evaluation say to each other. No other module of vae_zoo is imported here."""

from dataclasses import dataclass
from typing import Literal, TypedDict

from torch import Tensor


class Batch(TypedDict, total=False):
    """Only `image` is always there; the data module makes the rest where the data know it."""

    image: Tensor  # [B, C, H, W] float32 in [0, 1]
    index: Tensor  # [B] int64, place of the image in its data set
    label: Tensor  # [B] or [B, V] int64, -1 = unknown
    factors: Tensor  # [B, F] float32
    group: Tensor  # [B] int64 in 0..num_groups-1: which images share their content
    num_groups: int
    supervised: "Batch"


@dataclass(frozen=True)
class Block:
    """A named part of the latent space. holds: one sentence for people on what it is meant to hold."""

    size: int
    kind: Literal["gaussian", "categorical", "objects"]
    holds: str


Terms = dict[str, Tensor]
Codes = dict[str, Tensor]
