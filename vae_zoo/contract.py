"""What models, data and evaluation say to each other. No other module of vae_zoo is imported here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Required, TypedDict, runtime_checkable

import torch
from torch import Tensor, nn


class Batch(TypedDict, total=False):
    """Only `image` is always there; the data module makes the rest where the data know it."""

    image: Required[Tensor]  # [B, C, H, W] float32 in [0, 1]
    index: Tensor  # [B] int64, place of the image in its data set
    label: Tensor  # [B] or [B, V] int64, -1 = unknown
    factors: Tensor  # [B, F] float32
    group: Tensor  # [B] int64 in 0..num_groups-1: which images share their content
    num_groups: int
    mask: Tensor  # [B, H, W] int64, the number of the object that each pixel shows, 0 = the ground
    count: Tensor  # [B] int64, objects of each scene
    boxes: list[Tensor]  # of each image [N, 4] float32, x0 y0 x1 y1 in pixels
    supervised: "Batch"


@dataclass(frozen=True)
class Block:
    """A named part of the latent space. holds: one sentence for people on what it is meant to hold."""

    size: int
    kind: Literal["gaussian", "categorical", "objects"]
    holds: str


class Term(NamedTuple):
    """What an objective adds up. value: [B], [G] or [], nats, positive is cost, summed over dimensions, unweighted.

    weight: in the loss; None: the term is shown, not trained on.
    """

    value: Tensor
    weight: float | None = None


Terms = dict[str, Term]
Codes = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingData:
    """What a model knows of its training data; the data module passes it once.

    num_images: training images. label: [N] or [N, V] int64 of all images of the set, -1 = unknown, None: it has none.
    images: the training images at these of their places 0..num_images-1, as a batch without groups. batch: that of a step.
    """

    num_images: int
    label: Tensor | None
    images: Callable[[Tensor, torch.device], Batch]
    batch: Callable[[int, torch.device], Batch]

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainingData":
        return self  # a copy of a model, such as that of its average weights, must not copy the data set


class Network(Protocol):
    """A family of encoders and decoders, which know shapes and no objective."""

    def encoder(self, image_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Images [B, C, H, W] -> [B, num_outputs]."""
        ...

    def decoder(self, num_inputs: int, image_shape: Sequence[int]) -> nn.Module:
        """Codes [B, num_inputs] -> images [B, C, H, W]."""
        ...


class LadderNetwork(Protocol):
    """A family of encoders and decoders that give and take one code for each facet, the shallowest first."""

    @property
    def num_facets(self) -> int: ...

    def encoder(self, image_shape: Sequence[int], num_outputs: Sequence[int]) -> nn.Module:
        """Images [B, C, H, W] -> a list of [B, num_outputs[j]]."""
        ...

    def decoder(self, num_inputs: Sequence[int], image_shape: Sequence[int]) -> nn.Module:
        """A list of [B, num_inputs[j]], None for a facet that is left out, and weights of the facets -> [B, C, H, W]."""
        ...


class Model(Protocol):
    """What shared code may call of every model; LatentVariableModel has the docstrings. All models are LightningModules."""

    needs: frozenset[str]
    image_shape: tuple[int, ...]

    @property
    def blocks(self) -> Mapping[str, Block]: ...

    @property
    def device(self) -> torch.device: ...

    def learn_from(self, data: TrainingData) -> None: ...

    def check_trainer(self, trainer: Any) -> None: ...

    def encode(self, batch: Batch | Tensor) -> dict[str, Any]: ...

    def codes(self, batch: Batch | Tensor) -> Codes: ...

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
        ...


# ---- capabilities: a model that can do more says so by having these names ---------------------------------------------


@runtime_checkable
class SharesGroupCode(Protocol):
    """Images of a group share one code; enters the grouped suite with swaps and held-out images.

    shared_block, own_block: names of the code that a group shares and of that which each image has for itself.
    """

    shared_block: str
    own_block: str

    def encode_images(self, batch: Batch | Tensor) -> dict[str, Any]:
        """The posteriors of each image by itself, not pooled, [B, D] each."""
        ...

    def pool(self, content: Any, group: Tensor, num_groups: int) -> Any:
        """The posterior of each group [G, D] from those of its images [B, D]."""
        ...


@runtime_checkable
class HasClasses(Protocol):
    """Classes that can be chosen; enters the suite of the classes.

    free_of_class: blocks whose prior knows no class.
    """

    free_of_class: tuple[str, ...]

    def sample_class(self, classes: Tensor) -> Codes:
        """Codes from the prior given the values of all categorical blocks, [n, J] int64."""
        ...

    def with_class(self, codes: Codes, classes: Tensor) -> Codes:
        """The same codes, but of other classes [B, J]."""
        ...


@runtime_checkable
class HasClassMeans(Protocol):
    """Classes with a mean in the Gaussian blocks; adds test/conditional_accuracy_mean."""

    def class_means(self, classes: Tensor) -> Codes:
        """The means of the blocks whose prior depends on the class, of the classes [n, J]."""
        ...


@runtime_checkable
class WalksInClass(Protocol):
    """Variation within a class; adds the pictures class_traversals_<block>."""

    def walk_in_class(self, j: int, classes: Tensor) -> tuple[Codes, list[str]]:
        """Codes [rows * steps] of walks within each value of variable j, and the labels of the rows."""
        ...


@runtime_checkable
class HasFacets(Protocol):
    """Several clusterings of the same images; enters the suite of the facets.

    facets: names of the Gaussian blocks that cluster; priors: of each facet the mixture, with `log_weights()` [K] and
    `sample(c, temperature)`.
    """

    facets: Sequence[str]
    priors: Mapping[str, Any]

    def clusters(self, posterior: dict[str, Any]) -> dict[str, Tensor]:
        """q(c | x) of each facet, [B, K]."""
        ...


@runtime_checkable
class FindsObjects(Protocol):
    """Objects with boxes; enters the suite of the objects."""

    def detect(self, batch: Batch | Tensor) -> list[dict[str, Tensor]]:
        """Of each image `boxes` [N, 4] xyxy pixels and `scores` [N], probabilities of presence."""
        ...

    def presence_log_odds(self, batch: Batch | Tensor) -> Tensor:
        """Log-odds that there is an object, for each place where one may be, [B, N]."""
        ...

    def render(self, codes: Codes) -> Any:
        """The image with the share, box, sprite and presence of each object."""
        ...

    def without_object(self, codes: Codes, object_: Tensor) -> Codes:
        """The codes without one object of each image, [B] int64."""
        ...

    def with_object_moved(self, codes: Codes, object_: Tensor) -> Codes:
        """The codes with one object of each image, [B] int64, on the other side of its cell."""
        ...


@runtime_checkable
class HasLocalView(Protocol):
    """A global and a local code, the latter of an auxiliary view; enters the suite of the local and global code."""

    global_block: str
    local_block: str

    def local_view(self, x: Tensor) -> Tensor:
        """The auxiliary view of images, [B, C, h, w]; the same for the same image."""
        ...

    def decode_local(self, code: Tensor) -> Tensor:
        """The auxiliary view that the local code [B, D] explains, [B, C, h, w] in [0, 1]."""
        ...
