"""Base classes of models with categorical variables: labels, samples of a class, warning of collapsed classes."""

import logging
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vae_zoo.config.types import Count, NumClasses, Probabilities, Shape
from vae_zoo.contract import Batch, Block, Codes, Network, TrainingData
from vae_zoo.distributions import Categorical, CategoricalVariables, Likelihood, Normal, transport
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.utils.errors import UserError

logger = logging.getLogger(__name__)

LEAK = 0.1  # slope below 0 of the ReLU behind the hidden vector h


class DiscreteLatentModel(LatentVariableModel):
    """Base of models with categorical variables; implements part of `vae_zoo.contract.HasClasses`.

    A model implements the contract and `sample_class`, and sets `c_head`, the layer from the features to the logits. The two
    classes below implement `sample_class` for a decoder that gets the class, and for a prior that depends on it.

    Args:
        image_shape: [C, H, W].
        num_classes: K >= 2 of the variable `c`, or a list for `c1`, `c2`, ...
        class_probs: p(c), the variables one after the other; None: uniform.
        **training: As in LatentVariableModel.

    Attributes:
        free_of_class: Gaussian blocks whose prior does not depend on the class.
    """

    free_of_class: tuple[str, ...] = ("z",)
    c_head: nn.Module

    def __init__(self, image_shape: Shape, num_classes: NumClasses, class_probs: Probabilities | None = None, **training):
        super().__init__(image_shape, **training)
        self.classes = CategoricalVariables([num_classes] if isinstance(num_classes, int) else num_classes, class_probs)
        self._warned = False

    def features(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        """h, the hidden vector from which the posteriors are computed."""
        return F.leaky_relu(self.encoder(x), LEAK)

    def class_log_probs(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B S"]:
        """log q(c | x) of images, nats."""
        return self.classes.log_softmax(self.c_head(self.features(x)))

    def sample_class(self, classes: Int[Tensor, "n J"]) -> Codes:
        """Draws codes from the prior given the values of all variables.

        Args:
            classes: Values, 0..K_j-1.

        Returns:
            {block: [n, D]}.
        """
        raise NotImplementedError  # pragma: contract

    def free_codes(self, n: int) -> Codes:
        """Draws n codes of the blocks `free_of_class` from N(0, I)."""
        return {name: torch.randn(n, self.blocks[name].size, device=self.device) for name in self.free_of_class}

    def sample_prior(self, n: int) -> Codes:
        """Draws n codes of each block: classes from p(c), the other codes given these."""
        return self.sample_class(torch.multinomial(self.classes.padded(self.classes.probs, 0.0), n, True).T)

    def with_class(self, codes: Codes, classes: Int[Tensor, "B J"]) -> Codes:
        """Replaces the classes of codes.

        Args:
            codes: Codes of B images.
            classes: Values, 0..K_j-1.

        Returns:
            The same codes, but of these classes.
        """
        return codes | self.classes.split(self.classes.code(classes))

    def codes(self, batch: Batch | Float[Tensor, "B C H W"]) -> Codes:
        """Infers posterior means and the most probable classes, one-hot, as the objective decodes them in evaluation.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            {block: [B, D]}.
        """
        codes = super().codes(batch)
        log_c = torch.cat([codes[name] for name in self.classes.names()], dim=1)
        return codes | self.classes.split(self.classes.hard(log_c))

    def class_codes(self, log_c: Float[Tensor, "B S"]) -> dict[str, Categorical]:
        """The posteriors of the categorical blocks."""
        return {name: Categorical(probs) for name, probs in self.classes.split(log_c.exp()).items()}

    def labels(self, batch: Batch) -> Int[Tensor, "B _"]:
        """The labels of a batch, -1 = unknown, for as many variables as the data have.

        Args:
            batch: With `label`.
        """
        labels = batch["label"].view(len(batch["image"]), -1)
        return labels[:, : len(self.classes.sizes)]

    def learn_from(self, data: TrainingData) -> None:
        """Takes the training data.

        Args:
            data: Data of the data module.

        Raises:
            UserError: The labels do not fit the variables.
        """
        super().learn_from(data)
        if data.label is None or "supervised" not in self.needs:
            return
        label, sizes = data.label.view(len(data.label), -1), self.classes.sizes
        if label.shape[1] < len(sizes):
            raise UserError(
                f"model.num_classes={[*sizes]} has {len(sizes)} variables, but the data set has {label.shape[1]} label "
                f"variables; give one number for each label variable"
            )
        needed = (label[:, : len(sizes)].amax(0) + 1).tolist()
        if any(need > size for need, size in zip(needed, sizes)):
            got, allowed = ([*sizes], needed) if len(needed) > 1 else (*sizes, *needed)
            raise UserError(f"model.num_classes={got}, but the labels need {allowed}; set model.num_classes={allowed}")

    # ---- watched while training ---------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds q(c | x) and the correct predictions of a validation batch to the sums."""
        super().validation_step(batch, batch_idx)
        log_c = self.class_log_probs(batch["image"])
        sums = {"probs": log_c.exp().sum(0), "argmax": self.classes.hard(log_c).sum(0)}
        if "label" in batch and batch["label"].view(len(log_c), -1).shape[1] >= len(self.classes.sizes):
            labels = self.labels(batch)
            right = (self.classes.hard(log_c) * self.classes.code(labels)).sum()
            sums |= {"right": right, "known": (labels >= 0).sum().float()}
        self._add_up(sums)

    def on_validation_epoch_end(self) -> None:
        """Logs balance, use and accuracy of the classes, and warns once if they collapse."""
        super().on_validation_epoch_end()
        sums = self._sums
        kl = self.classes.kl((sums["probs"] / sums["count"]).log())  # [J]
        values: dict[str, float] = {"val/class_balance": kl.sum().item()}
        values["val/classes_used"] = int((sums["argmax"] >= 0.005 * sums["count"]).sum())
        if "supervised" in self.needs and sums.get("known", 0) > 0:
            values["val/accuracy"] = (sums["right"] / sums["known"]).item()
        self.log_values(values)
        collapsed = [k for k, size in zip(kl.tolist(), self.classes.sizes) if k > 0.5 * log(size)]
        if collapsed and not self._warned:
            logger.warning(
                "the classes collapse: KL(q(c) || p(c)) over the validation images is %.2f nats, and %d of %d values of c "
                "are used; use %sa larger weight of the prior of c, or a smaller weight of its entropy",
                max(collapsed),
                values["val/classes_used"],
                self.classes.num_values,
                "more labels, " if "supervised" in self.needs else "",
            )
            self._warned = True


class ClassConditionalModel(DiscreteLatentModel):
    """Base of models with x ~ p(x | z, c): the decoder gets the classes and z ~ N(0, I).

    Args:
        image_shape: [C, H, W].
        z_dim: Dimensions of z.
        num_classes: As in DiscreteLatentModel.
        network: Family of encoder and decoder (vae_zoo.nets).
        likelihood: p(x | z, c).
        class_probs: As in DiscreteLatentModel.
        feature_dim: Dimensions of h.
        **training: As in LatentVariableModel.

    Attributes:
        class_holds: Meaning of the classes, a phrase for reports.
    """

    class_holds: str
    c_head: nn.Linear

    def __init__(
        self,
        image_shape: Shape,
        z_dim: Count,
        num_classes: NumClasses,
        network: Network,
        likelihood: Likelihood,
        class_probs: Probabilities | None = None,
        feature_dim: Count = 256,
        **training,
    ):
        super().__init__(image_shape, num_classes, class_probs, **training)
        self.blocks = {"z": Block(z_dim, "gaussian", "variation within the classes")}
        self.blocks |= {
            n: Block(k, "categorical", self.class_holds) for n, k in zip(self.classes.names(), self.classes.sizes)
        }
        self.encoder = network.encoder(self.image_shape, feature_dim)
        self.decoder = network.decoder(z_dim + self.classes.num_values, likelihood.param_shape(self.image_shape))
        self.c_head = nn.Linear(feature_dim, self.classes.num_values)
        self.likelihood = likelihood

    def sample_class(self, classes: Int[Tensor, "n J"]) -> Codes:
        """Draws z from N(0, I) and adds the codes of these classes, 0..K_j-1."""
        return self.free_codes(len(classes)) | self.classes.split(self.classes.code(classes))

    def log_likelihoods(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "*k B M D"], codes: Float[Tensor, "B M S"]
    ) -> Float[Tensor, "*k B M"]:
        """log p(x | z, c) of each image under M combinations of classes.

        Args:
            x: Images in [0, 1].
            z: Codes for each image and combination.
            codes: The combinations, one-hot.

        Returns:
            Nats.
        """
        inputs = torch.cat([z, codes.expand(*z.shape[:-1], -1)], dim=-1)
        repeats = inputs.shape[:-1].numel() // (len(x) * codes.shape[1])
        x = x.repeat_interleave(codes.shape[1], 0).repeat(repeats, 1, 1, 1)
        return self.likelihood.log_prob(x, self.decoder(inputs.flatten(0, -2))).view(inputs.shape[:-1])


class MixtureLatentModel(DiscreteLatentModel):
    """Base of models whose prior is a mixture: codes of some blocks are Gaussian given the class, those of others N(0, I).

    A model implements the contract and `components`.

    Args:
        image_shape: [C, H, W].
        num_classes: As in DiscreteLatentModel.
        class_probs: As in DiscreteLatentModel.
        **training: As in LatentVariableModel.
    """

    free_of_class = ()

    def components(self, classes: Int[Tensor, "n J"], free: Codes) -> dict[str, Normal]:
        """The components of the mixture, p(z | c).

        Args:
            classes: Values, 0..K_j-1.
            free: Codes [n, D] of the blocks `free_of_class`, on which components may depend.

        Returns:
            {block: Gaussian of [n, D] or [n, J, D]}, for the blocks whose prior depends on the class.
        """
        raise NotImplementedError  # pragma: contract

    def sample_class(self, classes: Int[Tensor, "n J"]) -> Codes:
        """Draws codes of the components of these classes, 0..K_j-1, and those of the other blocks from N(0, I)."""
        free = self.free_codes(len(classes))
        drawn = {name: p.sample().flatten(1) for name, p in self.components(classes, free).items()}
        return free | drawn | self.classes.split(self.classes.code(classes))

    def with_class(self, codes: Codes, classes: Int[Tensor, "B J"]) -> Codes:
        """Moves codes to other classes; they keep their distance from the component's mean, in standard deviations.

        Args:
            codes: Codes of B images.
            classes: Values, 0..K_j-1.

        Returns:
            The changed codes.
        """
        own = torch.stack([codes[name].argmax(1) for name in self.classes.names()], dim=1)  # [B, J]
        old, new = self.components(own, codes), self.components(classes, codes)
        moved = {name: transport(codes[name].view_as(p.mu), p, new[name]).flatten(1) for name, p in old.items()}
        return super().with_class(codes, classes) | moved

    def class_means(self, classes: Int[Tensor, "n J"]) -> Codes:
        """Means of the components of these classes, {block: [n, D]}; where they depend on other blocks, at 0."""
        free = {name: torch.zeros(len(classes), self.blocks[name].size, device=self.device) for name in self.free_of_class}
        return {name: p.mu.flatten(1) for name, p in self.components(classes, free).items()}
