"""Shows progress: a bar in a terminal, lines at regular times otherwise."""

import sys
import time

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from vae_zoo.config.types import Positive
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.training.attached import RunTrainer


class Progress(L.Callback):
    """Progress bar, refreshed twice a second. every_n_seconds: seconds between lines if the output is not a terminal."""

    def __init__(self, every_n_seconds: Positive = 10.0):
        self.every_n_seconds = every_n_seconds
        self._bar: Bar | None = None

    def on_train_start(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        self._interval = 0.5 if sys.stderr.isatty() else self.every_n_seconds
        self._start = self._shown_at = time.monotonic()
        self._start_step = self._shown_step = trainer.global_step
        if trainer.is_global_zero and sys.stderr.isatty():
            columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[text]}")
            self._bar = Bar(*columns, console=Console(stderr=True), auto_refresh=False)
            self._task = self._bar.add_task("train", total=trainer.max_steps, completed=trainer.global_step, text="")
            self._bar.start()

    def on_train_batch_end(self, trainer: RunTrainer, module: LatentVariableModel, outputs, batch, batch_idx: int) -> None:
        now, step = time.monotonic(), trainer.global_step
        if now - self._shown_at < self._interval and step != trainer.max_steps or not trainer.is_global_zero:
            return
        per_step = len(trainer.datamodule.train_indices(step - 1))
        rate = (step - self._shown_step) / (now - self._shown_at)
        terms = "  ".join(f"{name} {term.value.mean():.2f}" for name, term in list(module.terms.items())[:4])
        text = f"{terms}  {rate * per_step:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text, refresh=True)
        else:
            left = (trainer.max_steps - step) * (now - self._start) / (step - self._start_step)
            print(f"step {step}/{trainer.max_steps}  {text}  {left:.0f} s left", flush=True)
        self._shown_at, self._shown_step = now, step

    def on_train_end(self, trainer: RunTrainer, module: LatentVariableModel) -> None:
        self._stop()

    def on_exception(self, trainer: RunTrainer, module: LatentVariableModel, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
