"""Logs the terms of the objective at regular steps, and stops the run if a term is not finite."""

import time

import lightning as L
import torch

from vae_zoo.contract import Terms
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.training.attached import RunTrainer


class NotFinite(RuntimeError):
    """A term of the objective became NaN or infinite."""


class Monitor(L.Callback):
    """Keeps terms on the device until the next row or checkpoint, so that no step synchronises the device; the first step
    and term that failed are still found."""

    def __init__(self) -> None:
        self.seconds = 0.0  # training time over all sessions of the run
        self._waiting: list[tuple[int, Terms]] = []

    def on_train_start(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        self._tick = self._row_tick = time.perf_counter()
        self._row_step = trainer.global_step

    def on_train_batch_end(self, trainer: RunTrainer, module: LatentVariableModel, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        self._waiting.append((step, module.terms))
        if step % trainer.log_every_n_steps and step != trainer.max_steps:
            return
        self.check(trainer)
        now = time.perf_counter()
        named = module.named_values(module.terms)
        means = trainer.strategy.reduce(torch.stack(list(named.values())), reduce_op="mean")  # mean over the ranks
        values = {f"train/{name}": value for name, value in zip(named, means.tolist())}
        values["train/images_per_second"] = self._images(trainer, step) / (now - self._row_tick)
        module.log_values(values)
        self._row_tick, self._row_step = now, step

    def check(self, trainer: RunTrainer) -> None:
        """Raises NotFinite for the first step since the last check with a term that is not finite."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        losses = torch.stack([terms["loss"].value for _, terms in waiting])
        sums = torch.stack([torch.stack([term.value.sum() for term in terms.values()]).sum() for _, terms in waiting])
        bad = ~(losses.isfinite() & sums.isfinite())
        bad = trainer.strategy.reduce(bad.float(), reduce_op="sum") > 0  # all ranks stop together
        if bad.any():
            raise NotFinite(_describe(*waiting[int(bad.nonzero()[0])], trainer.datamodule))

    def add_time(self) -> float:
        """Seconds of training so far."""
        now = time.perf_counter()
        self.seconds, self._tick = self.seconds + now - self._tick, now
        return self.seconds

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.add_time() if hasattr(self, "_tick") else self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]

    def _images(self, trainer: RunTrainer, step: int) -> int:
        return (step - self._row_step) * len(trainer.datamodule.train_indices(step - 1))


def _describe(step: int, terms: Terms, data) -> str:
    """Names the terms that failed at this step, and the images if a term has one value per image."""
    names = [name for name, term in terms.items() if name != "loss" and not term.value.isfinite().all()] or ["loss"]
    images, items = data.train_indices(step - 1), terms[names[0]].value
    if items.ndim == 1 and len(items) == len(images):
        images = images[(~items.isfinite()).cpu()]
    return (
        f"{', '.join(names)} not finite at step {step}, in the batch with image indices {images[:10].tolist()}"
        f"{' and others' if len(images) > 10 else ''}; the last good checkpoint is kept; lower the learning rate, set "
        f"trainer.gradient_clip_val or inspect these images"
    )
