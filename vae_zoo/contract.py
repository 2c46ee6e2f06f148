"""The contract of models, data and evaluation. No other module of vae_zoo is imported here.

Axes of arrays in annotations and docstrings; one letter means one thing everywhere:

    B  images of a batch                      D  dimensions of a latent block
    N  images of a set, rows of a table       K  values of a categorical variable, clusters
    C  channels, H height, W width            S  values of all categorical variables, side by side
    G  groups                                 J  categorical variables, facets
    F  factors                                M  combinations of values, draws, runs: defined in place
    V  label variables                        O  objects, or cells that may hold one
    k, n  draws, samples                      A  dimensions of an object's appearance
    E  features of a hidden layer             P  channels of a decoder's output
    h, w, g  sides of a smaller image         T  frames of an animation

`*batch` is any number of leading axes. Images are float32 in [0, 1], labels int64 with -1 = unknown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, Required, TypedDict, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


class Batch(TypedDict, total=False):
    """A batch of images with optional labels, factors and groups; only `image` is always present.

    Attributes:
        image: float32 in [0, 1].
        index: Indices of the images in their data set.
        label: Classes, [B] or [B, V] for several label variables, -1 = unknown.
        factors: Ground-truth factors, float32.
        group: Which images share their content, 0..num_groups-1.
        num_groups: G.
        mask: Number of the object that each pixel shows, 0 = the background.
        count: Objects of each scene.
        boxes: Boxes of each image x0 y0 x1 y1, pixels.
        supervised: A second, labelled batch for semi-supervised models.
    """

    image: Required[Float[Tensor, "B C H W"]]
    index: Int[Tensor, " B"]
    label: Int[Tensor, " B"] | Int[Tensor, "B V"]
    factors: Float[Tensor, "B F"]
    group: Int[Tensor, " B"]
    num_groups: int
    mask: Int[Tensor, "B H W"]
    count: Int[Tensor, " B"]
    boxes: list[Float[Tensor, "O 4"]]
    supervised: "Batch"


@dataclass(frozen=True)
class Block:
    """A named part of the latent space.

    Attributes:
        size: Dimensions or values.
        kind: Kind of its codes.
        holds: What it is meant to hold, a phrase for reports.
    """

    size: int
    kind: Literal["gaussian", "categorical", "objects"]
    holds: str


class Term(NamedTuple):
    """A summand of an objective.

    Attributes:
        value: [B], [G] or [], in nats, unweighted, summed over dimensions; a positive value is a cost.
        weight: Factor in the loss; None: the term is logged, but is not part of the loss.
    """

    value: Float[Tensor, "*unit"]
    weight: float | None = None


Terms = dict[str, Term]
Codes = dict[str, Float[Tensor, "B _"]]  # of each block, [B, D]
Detections = dict[str, Shaped[Tensor, "_ ..."]]  # of an image: boxes [O, 4], scores [O] and, for torchmetrics, labels [O]


@dataclass(frozen=True)
class TrainingData:
    """Training data as a model sees them; the data module passes them once.

    Attributes:
        num_images: Number of training images.
        num_labelled: Number of training images whose label training may use.
        label: Labels of all images of the data set, -1 = unknown; None: the data set has no labels.
        images: Returns the training images at given positions in 0..num_images-1, as a batch without groups.
        batch: Returns the training batch of a step.
    """

    num_images: int
    num_labelled: int
    label: Int[Tensor, " N"] | Int[Tensor, "N V"] | None
    images: Callable[[Tensor, torch.device], Batch]
    batch: Callable[[int, torch.device], Batch]

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainingData":
        return self  # a copy of a model, such as that of its average weights, must not copy the data set


@runtime_checkable
class Network(Protocol):
    """A family of encoders and decoders, which depend on shapes but not on the objective."""

    def encoder(self, image_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Makes an encoder of images [B, C, H, W] to [B, num_outputs].

        Args:
            image_shape: [C, H, W].
            num_outputs: Outputs per image.
        """
        ...

    def decoder(self, num_inputs: int, image_shape: Sequence[int]) -> nn.Module:
        """Makes a decoder of codes [B, num_inputs] to images [B, C, H, W].

        Args:
            num_inputs: Inputs per image.
            image_shape: [C, H, W] of the output.
        """
        ...


@runtime_checkable
class LadderNetwork(Protocol):
    """A family of encoders and decoders that give and take one code for each facet, the shallowest first."""

    @property
    def num_facets(self) -> int:
        """J."""
        ...

    def encoder(self, image_shape: Sequence[int], num_outputs: Sequence[int]) -> nn.Module:
        """Makes an encoder of images [B, C, H, W] to a list of [B, num_outputs[j]].

        Args:
            image_shape: [C, H, W].
            num_outputs: Outputs per image and facet.
        """
        ...

    def decoder(self, num_inputs: Sequence[int], image_shape: Sequence[int]) -> nn.Module:
        """Makes a decoder of codes and weights of the facets to images [B, C, H, W].

        The codes are a list of [B, num_inputs[j]], None for a facet that is left out.

        Args:
            num_inputs: Inputs per image and facet.
            image_shape: [C, H, W] of the output.
        """
        ...


@runtime_checkable
class Model(Protocol):
    """Interface of every model to shared code; all models are LightningModules.

    Attributes:
        needs: Keys of the batch without which the model cannot train.
        image_shape: (C, H, W).
    """

    needs: frozenset[str]
    image_shape: tuple[int, ...]

    @property
    def blocks(self) -> Mapping[str, Block]:
        """The named blocks, in the order of their codes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def learn_from(self, data: TrainingData) -> None:
        """Receives the training data, once, before training.

        Args:
            data: Those of the data module.

        Raises:
            UserError: The model cannot learn from these data.
        """
        ...

    def check_trainer(self, trainer: Any) -> None:
        """Checks a trainer before anything is written.

        Args:
            trainer: Lightning's trainer.

        Raises:
            UserError: This trainer cannot train the model.
        """
        ...

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Any]:
        """Infers the posterior of each block.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            {block: distribution} with `mean` and `rsample`, of [B, D].
        """
        ...

    def codes(self, batch: Batch | Float[Tensor, "B C H W"]) -> Codes:
        """Infers the codes from which reconstructions, swaps and figures are decoded."""
        ...

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes codes to mean images.

        Args:
            codes: One code for each image and block, [B, D].

        Returns:
            In [0, 1].
        """
        ...

    def sample_prior(self, n: int) -> Codes:
        """Draws n codes of each block from the prior."""
        ...

    def objective(self, batch: Batch) -> Terms:
        """Computes the terms of the loss, with their weights at the current step.

        Args:
            batch: A batch with all keys that the model `needs`.

        Returns:
            {name: term}.
        """
        ...

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension of the Gaussian blocks to their prior.

        Args:
            posterior: Output of `encode`.

        Returns:
            {block: [B, D]}, nats.
        """
        ...

    def reconstruct(self, batch: Batch | Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Decodes the posterior means of images, to [0, 1]."""
        ...

    def sample(self, n: int) -> Float[Tensor, "n C H W"]:
        """Decodes n draws from the prior, to [0, 1]."""
        ...


@runtime_checkable
class HasBound(Protocol):
    """A bound on the likelihood of images, from which test/elbo and test/nll_iw<K> are computed."""

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k _"]:
        """log p(x, z) - log q(z | x) of k draws.

        Args:
            batch: Batch of images.
            k: Draws for each image or group, >= 1.

        Returns:
            Nats, [k, B], or [k, G] if a group shares part of z.
        """
        ...


# ---- capabilities: a model has a capability if it has the names of its Protocol -----------------------------------------


@runtime_checkable
class SharesGroupCode(Protocol):
    """A code that the images of a group share; evaluated by the grouped suite with swaps and held-out images.

    Attributes:
        shared_block: Name of the code that a group shares.
        own_block: Name of the code that each image has for itself.
    """

    shared_block: str
    own_block: str

    def encode_images(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Any]:
        """Infers the posteriors of single images, without pooling.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            {block: distribution} of [B, D].
        """
        ...

    def pool(self, content: Any, group: Int[Tensor, " B"], num_groups: int) -> Any:
        """Pools the posteriors of images into one for each group.

        Args:
            content: Content of each image, [B, D].
            group: Group of each image, 0..num_groups-1.
            num_groups: G.

        Returns:
            The posterior of each group, [G, D].
        """
        ...


@runtime_checkable
class HasClasses(Protocol):
    """Classes that can be chosen; evaluated by the suite of the classes.

    Attributes:
        free_of_class: Blocks whose prior does not depend on the class.
    """

    free_of_class: tuple[str, ...]

    def sample_class(self, classes: Int[Tensor, "n J"]) -> Codes:
        """Draws codes from the prior given the values of all categorical blocks.

        Args:
            classes: Values, 0..K_j-1.

        Returns:
            {block: [n, D]}.
        """
        ...

    def with_class(self, codes: Codes, classes: Int[Tensor, "B J"]) -> Codes:
        """Moves codes to other classes.

        Args:
            codes: Codes of B images.
            classes: Values, 0..K_j-1.

        Returns:
            The codes of the same images, but of these classes.
        """
        ...


@runtime_checkable
class HasClassMeans(Protocol):
    """Classes with a mean in the Gaussian blocks; adds test/conditional_accuracy_mean."""

    def class_means(self, classes: Int[Tensor, "n J"]) -> Codes:
        """Means of the blocks whose prior depends on the class.

        Args:
            classes: Values, 0..K_j-1.

        Returns:
            {block: [n, D]}.
        """
        ...


@runtime_checkable
class WalksInClass(Protocol):
    """Variation within a class; adds the pictures class_traversals_<block>."""

    def walk_in_class(self, j: int, classes: Int[Tensor, " J"]) -> tuple[Codes, list[str]]:
        """Walks within each value of one variable.

        Args:
            j: The variable.
            classes: Values of the other variables.

        Returns:
            Codes [rows * steps, D], row by row, and the labels of the rows.
        """
        ...


@runtime_checkable
class HasFacets(Protocol):
    """Several clusterings of the same images; evaluated by the suite of the facets.

    Attributes:
        facets: Names of the Gaussian blocks that cluster.
        priors: Mixture of each facet, with `log_weights()` [K] and `sample(c, temperature)`.
    """

    facets: Sequence[str]
    priors: Mapping[str, Any]

    def clusters(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """q(c | x) of each facet, [B, K].

        Args:
            posterior: Output of `encode`.
        """
        ...


@runtime_checkable
class FindsObjects(Protocol):
    """Objects with boxes; evaluated by the suite of the objects."""

    def detect(self, batch: Batch | Float[Tensor, "B C H W"]) -> list[Detections]:
        """Finds the objects of images.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            Of each image `boxes` [O, 4], x0 y0 x1 y1 in pixels, and `scores` [O], probabilities of presence.
        """
        ...

    def presence_log_odds(self, batch: Batch | Float[Tensor, "B C H W"]) -> Float[Tensor, "B O"]:
        """Log-odds of presence of each possible object."""
        ...

    def render(self, codes: Codes) -> Any:
        """Renders codes.

        Args:
            codes: Codes of B images.

        Returns:
            The image with the share, box, sprite and presence of each object.
        """
        ...

    def without_object(self, codes: Codes, object_: Int[Tensor, " B"]) -> Codes:
        """Removes one object from each image.

        Args:
            codes: Codes of B images.
            object_: Index of the object, 0..O-1.

        Returns:
            The changed codes.
        """
        ...

    def with_object_moved(self, codes: Codes, object_: Int[Tensor, " B"]) -> Codes:
        """Moves one object of each image to the other side of its cell.

        Args:
            codes: Codes of B images.
            object_: Index of the object, 0..O-1.

        Returns:
            The changed codes.
        """
        ...


@runtime_checkable
class EditsObjects(FindsObjects, Protocol):
    """Objects that can be moved, copied and changed; adds these actions to the explorer's panel of the objects."""

    def with_object_placed(
        self, codes: Codes, object_: Int[Tensor, " B"], centre: Float[Tensor, "B 2"], keep: bool = False
    ) -> Codes:
        """Moves or copies one object of each image, as near to a position as possible; without a free cell there is no copy.

        Args:
            codes: Codes of B images.
            object_: Index of the object, 0..O-1.
            centre: x and y of the centre of its new box, pixels.
            keep: Whether the object also remains at its old position, that is a copy is made.

        Returns:
            The changed codes.
        """
        ...

    def with_look(self, codes: Codes, object_: Int[Tensor, " B"], others: Codes, other: Int[Tensor, " B"]) -> Codes:
        """Gives one object of each image the appearance of an object of another image.

        Args:
            codes: Codes of B images.
            object_: Index of the object, 0..O-1.
            others: Codes of the B other images.
            other: Index of the object there, 0..O-1.

        Returns:
            The changed codes.
        """
        ...


@runtime_checkable
class HasLocalView(Protocol):
    """A global code, and a local code of an auxiliary view; evaluated by the suite of the local and global code.

    Attributes:
        global_block: Name of the global code.
        local_block: Name of the local code.
    """

    global_block: str
    local_block: str

    def local_view(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ h w"]:
        """Makes the auxiliary view of images, which is a function of the image."""
        ...

    def decode_local(self, code: Float[Tensor, "B D"]) -> Float[Tensor, "B _ h w"]:
        """Decodes local codes to the auxiliary view that they explain, in [0, 1]."""
        ...
