"""The metrics of the protocol while the model trains, on validation images."""

from typing import Literal

import lightning as L
import torch

from vae_zoo.config.types import Index


class Metrics(L.Callback):
    """Logs `val/mig`, `val/block/<block>/<factor>` and all else that fits, every so many steps and at the last; 0: never.

    level: of vae_zoo.evaluation.protocol; its time is training time lost, seconds for basic and minutes for full.
    """

    def __init__(self, every_n_steps: Index = 0, level: Literal["basic", "quick", "full"] = "basic"):
        self.every_n_steps, self.level = every_n_steps, level

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        is_due = self.every_n_steps and (step % self.every_n_steps == 0 or step == trainer.max_steps)
        if not is_due or not trainer.is_global_zero:
            return
        from vae_zoo.evaluation.protocol import evaluate, finite

        module.eval()
        with torch.autocast(module.device.type, enabled=False):
            module.log_values(finite(evaluate(module, trainer.datamodule, self.level, split="val").numbers))
        module.train()
