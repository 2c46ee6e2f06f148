"""What every model is to the rest of the project: named latent blocks, an objective, and little else.

Figures, metrics, tables and resume use only this contract, so a new method gets all of them by being written.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vae_zoo.config.types import Shape
from vae_zoo.contract import Batch, Block, Codes, Term, Terms, TrainingData
from vae_zoo.distributions import Likelihood, Normal, kl_standard_per_dim, noise
from vae_zoo.schedules import Schedule
from vae_zoo.utils import ranks


class LatentVariableModel(L.LightningModule):
    """The contract. A model sets `blocks` and writes the methods of the first half; the second half is shared.

    optimizer: makes the optimiser from the parameters. lr_schedule: factor on the learning rate, by step.
    """

    needs: frozenset[str] = frozenset()  # keys of the batch without which the model cannot train, such as "group"
    unit: str | None = None  # of the loss, if not the image: a term with one value for each, such as a group's KL
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
        self.trained_steps = 0  # what `step` is when no trainer is attached
        self.training_data: TrainingData | None = None  # known once a data module has met the model
        self.terms: Terms = {}  # of the latest training step, detached, for the callbacks
        self.latest: dict[str, float] = {}  # the newest value of everything that was logged, for the callbacks
        self.latest_at: dict[str, int] = {}  # and the step it is of

    # ---- what a model writes ------------------------------------------------------------------------------------

    def encode(self, batch: Batch | Tensor) -> dict[str, Any]:
        """The posterior of each block, e.g. {"z": Normal with mu, logvar [B, D]}. Begin with `self.image(batch)`."""
        raise NotImplementedError  # pragma: contract

    def objective(self, batch: Batch) -> Terms:
        """The terms of the loss with their weights at the present step, and what else is shown."""
        raise NotImplementedError  # pragma: contract

    def codes(self, batch: Batch | Tensor) -> Codes:
        """The codes that stand for images where these are decoded again, one a block and image; here posterior means."""
        return {name: q.mean for name, q in self.encode(batch).items()}

    def decode(self, codes: Codes) -> Tensor:
        """Mean image [B, C, H, W] in [0, 1] of one code per image and block [B, D], here of the codes side by side."""
        return self.likelihood.mean(self.decoder(self.join(codes)))

    def sample_prior(self, n: int) -> Codes:
        """n codes of each block from the prior, here N(0, I)."""
        return {name: torch.randn(n, block.size, device=self.device) for name, block in self.blocks.items()}

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Tensor]:
        """KL of each dimension of the Gaussian blocks to their prior, here N(0, I), nats: {block: [B, D]}."""
        return {name: kl_standard_per_dim(q) for name, q in posterior.items() if isinstance(q, Normal)}

    # ---- what a person calls --------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, batch: Batch | Tensor) -> Tensor:
        """Decoded `codes`, [B, C, H, W] in [0, 1]."""
        return self.decode(self.codes(batch))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n images decoded from the prior, [n, C, H, W] in [0, 1]."""
        return self.decode(self.sample_prior(n))

    def image(self, batch: Batch | Tensor) -> Tensor:
        """The images of a batch or a bare tensor of images; a user's own are checked for shape and range.

        Raises: ValueError for anything but float32 images [B, *image_shape] in [0, 1].
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

    def join(self, codes: Codes) -> Tensor:
        """The codes of all blocks side by side, in the order of `blocks`: [B, sum of sizes]."""
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

    def configure_optimizers(self):
        return self.optimizer(self.parameters())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_steps = checkpoint["global_step"]

    def learn_from(self, data: TrainingData) -> None:
        """Called by the data module before training. Raises UserError where the model cannot learn from these data."""
        self.training_data = data

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raises UserError where this trainer cannot train the model; called before anything is written."""

    def training_images(self, count: int | None = None, batch_size: int = 1000) -> Iterator[Batch]:
        """So many of the training images, drawn by the run's seed, or all: for what is set from data within training."""
        data, generator = self.training_data, torch.Generator().manual_seed(getattr(self.trainer, "seed", 0))
        assert data is not None
        order = torch.randperm(data.num_images, generator=generator)
        return (data.images(part, self.device) for part in order[:count].split(batch_size))

    def joined(self, x: Tensor) -> ranks.Joined:
        """The rows [B, ...] of the whole batch of a training step, on whatever ranks they are, and which are this rank's.

        Validation batches of ranks are batches of their own.
        """
        return ranks.joined(x) if self.training else ranks.Joined(x, slice(0, len(x)))

    def batch_mean(self, x: Tensor) -> Tensor:
        """Mean over the whole batch of a training step, on whatever ranks it is, [B, ...] -> [...]."""
        return ranks.mean(x) if self.training else x.mean(0)

    def total(self, terms: Terms) -> Tensor:
        """The loss: the weighted terms added up, those of images averaged over the batch.

        Where `unit` names a term, all are sums divided by its length: the loss of a group is a sum over its images. The mean
        of the ranks' losses is the loss of the whole batch, so ranks with more images have larger ones.
        """
        weighted = [(term.weight, term.value) for term in terms.values() if term.weight is not None]
        if self.unit is not None:
            return reduce(add, [weight * value.sum() for weight, value in weighted]) / len(terms[self.unit].value)
        of_images = [weight * value for weight, value in weighted if value.ndim]
        parts = [self.mean_of_rank(reduce(add, of_images))] if of_images else []
        return reduce(add, parts + [weight * value for weight, value in weighted if not value.ndim])

    def mean_of_rank(self, x: Tensor) -> Tensor:
        """This rank's part [] of the mean over the whole batch of a training step, which is the mean of these parts."""
        if not self.training or ranks.number() == 1:
            return x.mean()
        return x.sum() * ranks.number() / ranks.all_rows(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.begin_step()
        terms = self.objective(batch)
        loss = self.total(terms)
        self.keep(loss, terms)
        return loss

    def keep(self, loss: Tensor, terms: Terms) -> None:
        """What the callbacks read of this step, without waiting for the device."""
        self.terms = {name: Term(value.detach(), weight) for name, (value, weight) in ({"loss": Term(loss)} | terms).items()}

    def begin_step(self) -> None:
        """Noise and learning rate of this step. Models with several optimisers call it in their own `training_step`."""
        noise.seed_step(getattr(self.trainer, "seed", 0), self.step, self.global_rank, self.device)
        if self.lr_schedule is not None:
            for optimizer in self.trainer.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.lr_schedule(self.step)

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clips to the trainer's norm, for one optimiser or several alike (Lightning's own option knows only one)."""
        if clip_norm := getattr(self.trainer, "clip_norm", None):
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip_norm)

    def named_values(self, terms: Terms) -> dict[str, Tensor]:
        """What is logged of the terms: each mean, and weighted/<term>, which add up to the loss, of those that are in it."""
        means = {name: term.value.mean() for name, term in terms.items()}
        return means | {
            f"weighted/{name}": weight * (means[name] if self.unit is None else value.sum() / len(terms[self.unit].value))
            for name, (value, weight) in terms.items()
            if weight is not None
        }

    def on_validation_epoch_start(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
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
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value.to(noise.widest_float(self.device))

    def on_validation_epoch_end(self) -> None:
        """Averages over the validation images (or groups) of all ranks; active units: dimensions whose mean moves.

        Source of the threshold, variance of the mean > 0.01: Burda et al. (2016), section 5.
        """
        sums = {name: self.trainer.strategy.reduce(value, reduce_op="sum") for name, value in self._sums.items()}
        count = sums["count"]
        names = [n.removeprefix("term/") for n in sums if n.startswith("term/")]
        values = {f"val/{name}": sums[f"term/{name}"] / sums[f"items/{name}"] for name in names}
        for name in (n.removeprefix("mean/") for n in sums if n.startswith("mean/")):
            variance = sums[f"square/{name}"] / count - (sums[f"mean/{name}"] / count).square()
            values[f"val/active_units_{name}"] = (variance > 0.01).sum()
        self.log("val/loss", values["val/loss"].float(), logger=False, sync_dist=True)  # for callbacks that wait for it
        self.log_values({name: value.item() for name, value in values.items()})

    def log_values(self, values: dict[str, float]) -> None:
        """Sends plain numbers to every logger, at the number of main batches trained on."""
        self.latest |= values
        self.latest_at |= dict.fromkeys(values, self.step)
        for logger in self.loggers:
            logger.log_metrics(values, step=self.step)
