"""Base class of all models: named latent blocks, an objective, and training.

Figures, metrics, tables and resume use only the contract, so a new method that implements it gets all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from operator import add
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_zoo.config.types import Shape
from vae_zoo.contract import Batch, Block, Codes, Term, Terms, TrainingData
from vae_zoo.distributions import Likelihood, Normal, kl_standard_per_dim, noise
from vae_zoo.schedules import Schedule
from vae_zoo.utils import ranks
from vae_zoo.utils.errors import UserError


class LatentVariableModel(L.LightningModule):
    """Implementation of `vae_zoo.contract.Model` that all methods share.

    A method sets `blocks` and implements the functions of the first half; the second half is shared.

    Args:
        image_shape: [C, H, W].
        optimizer: Makes the optimiser of the parameters.
        lr_schedule: Factor on the learning rate; None: 1.

    Attributes:
        needs: Keys of the batch without which the model cannot train, such as `group`.
        unit: Term with one value for each unit of the loss, such as the KL of a group; None: the unit is the image.
        blocks: The named blocks, in the order of their codes.
        encoder: From images to the parameters of the posterior.
        decoder: From codes to the parameters of the likelihood.
        likelihood: p(x | z).
    """

    needs: frozenset[str] = frozenset()
    unit: str | None = None
    blocks: dict[str, Block]
    encoder: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def __init__(
        self,
        image_shape: Shape,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        lr_schedule: Schedule | None = None,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.trained_steps = 0  # value of `step` if no trainer is attached
        self.initialised_at = -1  # the step before whose update `initialise` last set values
        self.training_data: TrainingData | None = None  # set by the data module
        self.terms: Terms = {}  # of the latest training step, detached, for the callbacks
        self.latest: dict[str, float] = {}  # the newest value of everything that was logged, for the callbacks
        self.latest_at: dict[str, int] = {}  # and its step

    # ---- implemented by a model ---------------------------------------------------------------------------------

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Any]:
        """Infers the posterior of each block.

        An implementation begins with `self.image(batch)`.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            {block: distribution}, such as a Normal of [B, D].
        """
        raise NotImplementedError  # pragma: contract

    def objective(self, batch: Batch) -> Terms:
        """Computes the terms of the loss, with their weights at the current step, and terms that are only logged.

        Args:
            batch: With all keys that the model `needs`.

        Returns:
            {name: term}.
        """
        raise NotImplementedError  # pragma: contract

    def codes(self, batch: Batch | Float[Tensor, "B C H W"]) -> Codes:
        """Infers the codes from which images are reconstructed and swapped, by default the posterior means.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            {block: [B, D]}.
        """
        return {name: q.mean for name, q in self.encode(batch).items()}

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes codes to mean images, by default from the concatenated codes of all blocks.

        Args:
            codes: One code for each image and block, [B, D].

        Returns:
            In [0, 1].

        Raises:
            ValueError: The code of a block is missing or has another size.
        """
        return self.likelihood.mean(self.decoder(self.join(codes)))

    def sample_prior(self, n: int) -> Codes:
        """Draws n codes of each block from the prior, by default N(0, I)."""
        return {name: torch.randn(n, block.size, device=self.device) for name, block in self.blocks.items()}

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension of the Gaussian blocks to their prior, by default N(0, I).

        Args:
            posterior: Output of `encode`.

        Returns:
            {block: [B, D]}, nats.
        """
        return {name: kl_standard_per_dim(q) for name, q in posterior.items() if isinstance(q, Normal)}

    # ---- called by users ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, batch: Batch | Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Decodes the `codes` of images, to [0, 1]."""
        return self.decode(self.codes(batch))

    @torch.no_grad()
    def sample(self, n: int) -> Float[Tensor, "n C H W"]:
        """Decodes n draws from the prior, to [0, 1]."""
        return self.decode(self.sample_prior(n))

    def image(self, batch: Batch | Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The images of a batch, or a tensor of images; its shape and range are checked.

        Args:
            batch: A batch, or images in [0, 1].

        Raises:
            ValueError: The images are not float32 [B, *image_shape] in [0, 1]. Training does not check the range.
        """
        x = batch if isinstance(batch, Tensor) else batch["image"]
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape or x.dtype != torch.float32:
            raise ValueError(
                f"images must be float32 of shape [B, {', '.join(map(str, self.image_shape))}], "
                f"got {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
            )
        checked = self._trainer is None and not torch.compiler.is_exporting()  # it waits for the device
        if checked and len(x) and not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"images must lie in [0, 1], got [{x.min():.3g}, {x.max():.3g}]; divide bytes by 255")
        return x

    def join(self, codes: Codes) -> Float[Tensor, "B _"]:
        """Concatenates the codes of all blocks in the order of `blocks`.

        Args:
            codes: Codes of all blocks.

        Returns:
            [B, sum of the sizes].

        Raises:
            ValueError: The code of a block is missing or has another size.
        """
        for name, block in self.blocks.items():
            if name not in codes or tuple(codes[name].shape[1:]) != (block.size,):
                got = list(codes[name].shape) if name in codes else f"only {sorted(codes)}"
                raise ValueError(f"decode needs a code [B, {block.size}] for block {name!r}, got {got}")
        return torch.cat([codes[name] for name in self.blocks], dim=-1)

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Main batches trained on so far; every schedule is a function of it."""
        return self.trained_steps if self._trainer is None else self._trainer.global_step

    def configure_optimizers(self) -> Any:
        """Makes the optimisers, for Lightning."""
        return self.optimizer(self.parameters())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the number of steps, for a model without a trainer."""
        self.trained_steps = checkpoint["global_step"]

    def learn_from(self, data: TrainingData) -> None:
        """Receives the training data; the data module calls it before training.

        Args:
            data: Data of the data module.

        Raises:
            UserError: The model cannot learn from these data.
        """
        self.training_data = data

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Checks a trainer before anything is written.

        Args:
            trainer: Trainer of the model.

        Raises:
            UserError: It cannot train the model.
        """

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Sets values that are initialised from images before the update of a fixed step, equal on all processes.

        A checkpoint contains them; a run that resumes before this step sets them itself.

        Args:
            batch: Batch of this process.
            batch_idx: Argument of Lightning, not used.
        """
        if not self.initialise(batch):
            return
        self.initialised_at = self.step
        if self.trainer.world_size > 1:  # each process has other images
            self.load_state_dict(self.trainer.strategy.broadcast(self.state_dict()))

    def initialise(self, batch: Batch) -> bool:
        """Sets the values that are due at the current step from images; by default there are none.

        Args:
            batch: Batch of this process.

        Returns:
            Whether anything was set.
        """
        return False

    def training_images(self, count: int | None = None, batch_size: int = 1000) -> Iterator[Batch]:
        """Reads training images during training, for values that are initialised from data.

        Args:
            count: Number of images, drawn by the seed of the run; None: all.
            batch_size: Images of a batch.

        Yields:
            Batches.
        """
        data, generator = self.training_data, torch.Generator().manual_seed(getattr(self.trainer, "seed", 0))
        assert data is not None
        order = torch.randperm(data.num_images, generator=generator)
        return (data.images(part, self.device) for part in order[:count].split(batch_size))

    def require_images(self, data: TrainingData, count: int | None, key: str, needed: int, remedy: str = "") -> None:
        """Checks that there are enough training images to initialise values from.

        Args:
            data: Data of the data module.
            count: Number of images given to `training_images`.
            key: Setting of the model that says how many are needed.
            needed: Its value.
            remedy: What the message suggests besides fewer of them or more images.

        Raises:
            UserError: There are fewer.
        """
        images = min(data.num_images, count or data.num_images)
        if images < needed:
            more = "raise model.init_images" if images < data.num_images else "use more training images"
            ways = ["lower it", more, *([remedy] if remedy else [])]
            raise UserError(
                f"{key} must be at most {images}, the number of training images from which the model is initialised, got "
                f"{needed}; {', '.join(ways[:-1])}, or {ways[-1]}"
            )

    def joined(self, x: Float[Tensor, "B ..."]) -> ranks.Joined:
        """Gathers the rows of the whole batch of a training step from all ranks; validation batches stay on their rank.

        Args:
            x: Rows of this rank.

        Returns:
            The rows of all ranks, and the slice of this rank's.
        """
        return ranks.joined(x) if self.training else ranks.Joined(x, slice(0, len(x)))

    def batch_mean(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "..."]:
        """Mean over the whole batch of a training step, on all ranks."""
        return ranks.mean(x) if self.training else x.mean(0)

    def total(self, terms: Terms) -> Float[Tensor, ""]:
        """The loss: the sum of the weighted terms, those of images averaged over the batch.

        If `unit` is the name of a term, all terms are sums divided by the length of this term: the loss of a group is a sum
        over its images. The loss of the whole batch is the mean over ranks, so ranks with more images have larger losses.

        Args:
            terms: Output of `objective`.

        Returns:
            Nats per image or unit.
        """
        weighted = [(term.weight, term.value) for term in terms.values() if term.weight is not None]
        if self.unit is not None:
            return reduce(add, [weight * value.sum() for weight, value in weighted]) / len(terms[self.unit].value)
        of_images = [weight * value for weight, value in weighted if value.ndim]
        parts = [self.mean_of_rank(reduce(add, of_images))] if of_images else []
        return reduce(add, parts + [weight * value for weight, value in weighted if not value.ndim])

    def mean_of_rank(self, x: Float[Tensor, " B"]) -> Float[Tensor, ""]:
        """This rank's part of the mean over the whole batch of a training step, which is the mean of these parts."""
        if not self.training or ranks.number() == 1:
            return x.mean()
        return x.sum() * ranks.number() / ranks.all_rows(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch, for Lightning."""
        self.begin_step()
        terms = self.objective(batch)
        loss = self.total(terms)
        self.keep(loss, terms)
        return loss

    def keep(self, loss: Float[Tensor, ""], terms: Terms) -> None:
        """Stores the terms of this step for the callbacks, without waiting for the device.

        Args:
            loss: Loss of the step.
            terms: Output of `objective`.
        """
        self.terms = {name: Term(value.detach(), weight) for name, (value, weight) in ({"loss": Term(loss)} | terms).items()}

    def begin_step(self) -> None:
        """Seeds the noise and sets the learning rate of this step.

        Models with several optimisers call it in their own `training_step`.
        """
        noise.seed_step(getattr(self.trainer, "seed", 0), self.step, self.global_rank, self.device)
        if self.lr_schedule is not None:
            for optimizer in self.trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.lr_schedule(self.step)

    def dormant(self) -> Iterable[nn.Parameter]:
        """Parameters that begin to learn at a later step; by default there are none."""
        return ()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Drops the gradients of dormant parameters, which are 0.

        Adam would count these steps as well, and make the first updates of these parameters too large.

        Args:
            optimizer: Argument of Lightning, not used.
        """
        for parameter in self.dormant():
            parameter.grad = None

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips to the trainer's norm, for one optimiser or several (Lightning's own option supports only one).

        Args:
            optimizer: Optimiser whose gradients are clipped.
            gradient_clip_val: Lightning's argument, not used.
            gradient_clip_algorithm: Lightning's argument, not used.
        """
        if clip_norm := getattr(self.trainer, "clip_norm", None):
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip_norm)

    def named_values(self, terms: Terms) -> dict[str, Float[Tensor, ""]]:
        """The logged values of terms.

        Args:
            terms: Output of `objective`.

        Returns:
            The mean of each term, and weighted/<term> of those in the loss, which add up to it.
        """
        means = {name: term.value.mean() for name, term in terms.items()}
        return means | {
            f"weighted/{name}": weight * (means[name] if self.unit is None else value.sum() / len(terms[self.unit].value))
            for name, (value, weight) in terms.items()
            if weight is not None
        }

    def on_validation_epoch_start(self) -> None:
        """Begins new sums over the validation images."""
        self._sums: dict[str, Tensor] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the terms, posterior means and their squares of a validation batch to the sums."""
        with noise.per_image(batch["index"]):
            terms = self.objective(batch)
            posterior = self.encode(batch)
        terms = {"loss": Term(self.total(terms))} | terms
        size = len(batch["image"])
        units = size if self.unit is None else len(terms[self.unit].value)
        sums = {"count": torch.tensor(float(size), device=self.device)}
        for name, value in self.named_values(terms).items():
            items = len(terms[name].value) if name in terms and terms[name].value.ndim else units
            sums |= {f"term/{name}": value * items, f"items/{name}": torch.tensor(float(items), device=self.device)}
        for name, q in posterior.items():
            if self.blocks[name].kind == "gaussian":
                sums |= {f"mean/{name}": q.mean.sum(0), f"square/{name}": q.mean.square().sum(0)}
        self._add_up(sums)

    def _add_up(self, values: dict[str, Tensor]) -> None:
        """Adds values of a validation batch to the sums."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.to(noise.widest_float(self.device))

    def on_validation_epoch_end(self) -> None:
        """Logs means over the validation images (or groups) of all ranks, and the active units of each Gaussian block.

        Source: Burda et al. (2016), section 5: a unit is active if the variance of its posterior mean is above 0.01.
        """
        sums = {name: self.trainer.strategy.reduce(value, reduce_op="sum") for name, value in self._sums.items()}
        self._sums, count = sums, sums["count"]  # of all ranks
        names = [n.removeprefix("term/") for n in sums if n.startswith("term/")]
        values = {f"val/{name}": sums[f"term/{name}"] / sums[f"items/{name}"] for name in names}
        for name in (n.removeprefix("mean/") for n in sums if n.startswith("mean/")):
            variance = sums[f"square/{name}"] / count - (sums[f"mean/{name}"] / count).square()
            values[f"val/active_units_{name}"] = (variance > 0.01).sum()
        self.log("val/loss", values["val/loss"].float(), logger=False, sync_dist=True)  # for callbacks that wait for it
        self.log_values({name: value.item() for name, value in values.items()})

    def log_values(self, values: dict[str, float]) -> None:
        """Sends numbers to every logger, at the current step."""
        self.latest |= values
        self.latest_at |= dict.fromkeys(values, self.step)
        for logger in self.loggers:
            logger.log_metrics(values, step=self.step)
