"""What the models with categorical variables share beside the contract: labels, sampling by class, a watch over collapse."""

import logging
from math import log

import torch
from torch import Tensor, nn

from vae_zoo.config.types import Count, NumClasses, Probabilities, Shape
from vae_zoo.contract import Batch, Block, Codes, Network, TrainingData
from vae_zoo.distributions import Categorical, CategoricalVariables, Likelihood, noise
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.utils.errors import UserError

logger = logging.getLogger(__name__)

LEAK = 0.1  # slope below 0 of the ReLU behind the hidden vector h


class DiscreteLatentModel(LatentVariableModel):
    """num_classes: K of the one categorical variable `c`, or a list for `c1`, `c2`, ...; class_probs: p(c), the variables
    one after the other, null: uniform. A model writes `class_log_probs` and `sample_class` beside the contract.
    """

    free_of_class: tuple[str, ...] = ("z",)  # blocks whose prior knows no class

    def __init__(self, image_shape: Shape, num_classes: NumClasses, class_probs: Probabilities | None = None, **training):
        super().__init__(image_shape, **training)
        self.classes = CategoricalVariables([num_classes] if isinstance(num_classes, int) else num_classes, class_probs)
        self._warned = False

    def class_log_probs(self, x: Tensor) -> Tensor:
        """log q(c | x), [B, S] nats."""
        raise NotImplementedError  # pragma: contract

    def sample_class(self, classes: Tensor) -> Codes:
        """Codes from the prior given the values of all variables, [n, J] int64."""
        raise NotImplementedError  # pragma: contract

    def sample_prior(self, n: int) -> Codes:
        return self.sample_class(torch.multinomial(self.classes.padded(self.classes.probs, 0.0), n, True).T)

    def with_class(self, codes: Codes, classes: Tensor) -> Codes:
        """The same codes, but of other classes [B, J]."""
        return codes | self.classes.split(self.classes.code(classes))

    def codes(self, batch: Batch | Tensor) -> Codes:
        """The means, and of classes the likeliest, as the objective decodes them in evaluation."""
        codes = super().codes(batch)
        log_c = torch.cat([codes[name] for name in self.classes.names()], dim=1)
        return codes | self.classes.split(self.classes.hard(log_c))

    def class_codes(self, log_c: Tensor) -> dict[str, Categorical]:
        """The posteriors of the categorical blocks."""
        return {name: Categorical(probs) for name, probs in self.classes.split(log_c.exp()).items()}

    def labels(self, batch: Batch) -> Tensor:
        """[B, J] int64, -1 = unknown; with one variable, the first label of the data."""
        labels = batch["label"].view(len(batch["image"]), -1)
        return labels[:, : len(self.classes.sizes)]

    def learn_from(self, data: TrainingData) -> None:
        """Raises UserError when the labels do not fit the variables."""
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
        super().validation_step(batch, batch_idx)
        log_c = self.class_log_probs(batch["image"])
        sums = {"probs": log_c.exp().sum(0), "argmax": self.classes.hard(log_c).sum(0)}
        if "label" in batch and batch["label"].view(len(log_c), -1).shape[1] >= len(self.classes.sizes):
            labels = self.labels(batch)
            right = (self.classes.hard(log_c) * self.classes.code(labels)).sum()
            sums |= {"right": right, "known": (labels >= 0).sum().float()}
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value.to(noise.widest_float(self.device))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        sums = {
            name: self.trainer.strategy.reduce(self._sums[name], reduce_op="sum")
            for name in ("count", "probs", "argmax", "right", "known")
            if name in self._sums
        }
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
                "are used; use more labels, a larger weight of the prior of c, or a smaller weight of its entropy",
                max(collapsed),
                values["val/classes_used"],
                self.classes.num_values,
            )
            self._warned = True


class ClassConditionalModel(DiscreteLatentModel):
    """x ~ p(x | z, c): what models share whose decoder sees the classes, joined to z ~ N(0, I).

    z_dim: dimensions of z; feature_dim: of h, the encoder's output; the rest: as in DiscreteLatentModel and VAE.
    """

    class_holds: str  # what the classes mean, for people

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

    def sample_class(self, classes: Tensor) -> Codes:
        z = torch.randn(len(classes), self.blocks["z"].size, device=self.device)
        return {"z": z} | self.classes.split(self.classes.code(classes))
