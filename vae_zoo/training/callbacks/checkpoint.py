"""`last.ckpt` and `best.ckpt`, so written that a run killed at any moment goes on as if nothing had happened."""

import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from vae_zoo.config.types import Count, Positive
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.training.attached import RunTrainer
from vae_zoo.training.callbacks.monitor import Monitor


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM, taken between two steps, the state saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class Checkpoint(LightningCheckpoint):
    """Saves last.ckpt before the first step, every so many steps and seconds, and at the end; best.ckpt at the lowest
    val/loss. Where a validation is due at the same step, the checkpoint follows it, so that no validation is lost or run
    twice by a resumed run.

    run_config: goes into every checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        run_config: dict[str, Any],
        every_n_steps: Count = 500,
        every_n_seconds: Positive = 300.0,
    ):
        self.folder, self.run_config = Path(folder), run_config
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_seconds
        self.best = float("inf")
        self._stop_signal: int | None = None
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._pending = False

    def stop(self, signum: int) -> None:
        """Saves and raises Interrupted after the present step."""
        self._stop_signal = signum

    def on_train_start(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        if trainer.global_step == 0:
            self.save(trainer)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: RunTrainer, module, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        late = trainer.world_size == 1 and time.monotonic() - self._saved_at >= self.every_n_seconds  # ranks must agree
        due = step % self.every_n_steps == 0 or step == trainer.max_steps or late or self._must_stop(trainer)
        self._pending = due and (step % trainer.val_check_interval == 0 and trainer.limit_val_batches > 0)
        if due and not self._pending:
            self.save(trainer)

    def on_validation_end(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        loss = float(trainer.callback_metrics["val/loss"])
        better = loss < self.best
        self.best = min(self.best, loss)
        if self._pending or trainer.should_stop:
            self.save(trainer)
        if better:
            trainer.save_checkpoint(self.folder / "best.ckpt")

    def save(self, trainer: RunTrainer) -> None:
        """Writes last.ckpt, after everything that a resumed run will find already written."""
        for callback in trainer.callbacks:
            if isinstance(callback, Monitor):
                callback.check(trainer)
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self._pending, self._saved_step, self._saved_at = False, trainer.global_step, time.monotonic()
        if self._stop_signal is not None and self._must_stop(trainer):
            raise Interrupted(self._stop_signal)

    def _must_stop(self, trainer: RunTrainer) -> bool:
        return self._stop_signal is not None and trainer.world_size == 1

    def on_save_checkpoint(self, trainer: RunTrainer, module: LatentVariableModel, checkpoint: dict) -> None:
        checkpoint["config"] = self.run_config

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best = state["best"]
