"""What models, data and evaluation say to each other. No other module of vae_zoo is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import torch
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


class Model(Protocol):
    """What shared code may call of every model; LatentVariableModel has the docstrings. All models are LightningModules."""

    blocks: Mapping[str, Block]
    image_shape: tuple[int, ...]
    device: torch.device

    def encode(self, batch: Batch | Tensor) -> dict[str, Any]: ...

    def decode(self, codes: Codes) -> Tensor: ...

    def sample_prior(self, n: int) -> Codes: ...

    def objective(self, batch: Batch) -> Terms: ...

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Tensor]: ...

    def reconstruct(self, batch: Batch | Tensor) -> Tensor: ...

    def sample(self, n: int) -> Tensor: ...


@runtime_checkable
class HasBound(Protocol):
    """A bound on the likelihood of images; enters test/elbo and test/nll_iw<K>, whose only source it is."""

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        """log p(x, z) - log q(z | x) for k draws, nats: [k, B], or [k, G] where a group shares part of z."""
