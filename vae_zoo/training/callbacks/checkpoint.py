"""Writes `last.ckpt` and `best.ckpt` such that a run killed at any time can be resumed exactly."""

import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from vae_zoo.config.types import Count, Positive
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.training.attached import RunTrainer
from vae_zoo.training.callbacks.monitor import Monitor
from vae_zoo.utils.signals import Interrupted, Signals


class Checkpoint(LightningCheckpoint):
    """Saves last.ckpt before the first step, at regular steps and times, and at the end; best.ckpt at the lowest val/loss.

    If a validation is due at the same step, the checkpoint is written after it, so that a resumed run neither skips nor
    repeats a validation. run_config: stored in every checkpoint.
    """

    def __init__(
        self, folder: Path, run_config: dict[str, Any], every_n_steps: Count = 500, every_n_seconds: Positive = 300.0
    ):
        self.folder, self.run_config = Path(folder), run_config
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_seconds
        self.best = float("inf")
        self.signals: Signals | None = None  # of a command; after a signal to stop, the run saves and raises Interrupted
        self._stopping = False
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._pending = False

    def on_train_start(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        if self.signals is not None:
            self.signals.take_back()
        if trainer.global_step == 0:
            self.save(trainer)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: RunTrainer, module, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        late = trainer.world_size == 1 and time.monotonic() - self._saved_at >= self.every_n_seconds  # ranks must agree
        self._stopping = self._is_to_stop(trainer)
        due = step % self.every_n_steps == 0 or step == trainer.max_steps or late or self._stopping or trainer.should_stop
        is_validated = step % trainer.val_check_interval == 0
        if trainer.should_stop and not is_validated:
            trainer.limit_val_batches = 0  # otherwise Lightning validates, unlike in an uninterrupted run
        self._pending = due and is_validated and trainer.limit_val_batches > 0
        if due and not self._pending:
            self.save(trainer)

    def on_validation_end(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        better = loss < self.best
        self.best = min(self.best, loss)
        if better:  # before last.ckpt, which records its loss
            trainer.save_checkpoint(self.folder / "best.ckpt")
        if self._pending or trainer.should_stop:
            self.save(trainer)

    def save(self, trainer: RunTrainer) -> None:
        """Writes last.ckpt, after everything that a resumed run expects on disk."""
        for callback in trainer.callbacks:
            if isinstance(callback, Monitor):
                callback.check(trainer)
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self._pending, self._saved_step, self._saved_at = False, trainer.global_step, time.monotonic()
        if self._stopping or (trainer.world_size == 1 and self._received() is not None):
            raise Interrupted(self._received() or signal.SIGTERM)

    def _received(self) -> int | None:
        return None if self.signals is None else self.signals.received

    def _is_to_stop(self, trainer: RunTrainer) -> bool:
        """Ranks, each of which may or may not have got a signal, agree whenever they write a row, not at every step."""
        stop = self._received() is not None
        if trainer.world_size == 1:
            return stop
        is_row = trainer.global_step % trainer.log_every_n_steps == 0
        return is_row and trainer.strategy.reduce_boolean_decision(stop, all=False)

    def on_save_checkpoint(self, trainer: RunTrainer, module: LatentVariableModel, checkpoint: dict) -> None:
        checkpoint["config"] = self.run_config

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best = state["best"]
