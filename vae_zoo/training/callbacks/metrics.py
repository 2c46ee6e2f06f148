"""Computes the metrics of the protocol during training, on validation images."""

from collections.abc import Sequence

import lightning as L
import torch

from vae_zoo.config.types import Index
from vae_zoo.evaluation.suite import Level, Suite
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.training.attached import RunTrainer


class Metrics(L.Callback):
    """Logs the metrics that apply, such as `val/mig`, every `every_n_steps` steps and at the last step; 0: never.

    level, suites: from the run's `evaluation`. Training waits for the metrics, seconds for basic and minutes for full. A
    suite that fails is logged, and training continues.
    """

    def __init__(self, every_n_steps: Index = 0, level: Level = "basic", suites: Sequence[Suite] = ()):
        self.every_n_steps, self.suites = every_n_steps, suites
        self.level: Level = level
        self._judges: dict = {}  # classifiers of real images, which stay the same

    def on_train_batch_end(self, trainer: RunTrainer, module: LatentVariableModel, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        is_due = self.every_n_steps and (step % self.every_n_steps == 0 or step == trainer.max_steps)
        if not is_due or not trainer.is_global_zero:
            return
        from vae_zoo.evaluation.protocol import evaluate

        module.eval()
        with torch.autocast(module.device.type, enabled=False):
            options = {"split": "val", "judges": self._judges}
            module.log_values(evaluate(module, trainer.datamodule, self.level, self.suites, **options).numbers)
        module.train()
