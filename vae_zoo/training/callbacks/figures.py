"""Draws figures during training, to disk and to every logger."""

from collections.abc import Iterable
from pathlib import Path

import lightning as L
import numpy as np
import torch

from vae_zoo.config.types import Count, Index
from vae_zoo.evaluation.context import spread
from vae_zoo.evaluation.pictures import stills
from vae_zoo.figures.encode import to_png
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.training.attached import RunTrainer
from vae_zoo.utils.files import write_atomic


class Figures(L.Callback):
    """Draws figures of the first `num_images` validation images every `every_n_steps` steps; 0: none during training."""

    def __init__(self, folder: Path, every_n_steps: Index = 1000, num_images: Count = 8):
        self.folder = Path(folder)
        self.every_n_steps, self.num_images = every_n_steps, num_images

    def on_train_batch_end(self, trainer: RunTrainer, module: LatentVariableModel, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or step == trainer.max_steps or not trainer.is_global_zero:
            return  # at the last step figures are drawn after training, with the final weights
        module.eval()
        with torch.autocast(module.device.type, enabled=False):
            for name, image in stills(module, self.batch(trainer.datamodule, module.device)):
                log_image(trainer.loggers, self.folder, name, image, step)
        module.train()

    def batch(self, data, device):
        return data.batch(spread(data.indices["val"], self.num_images), device)


def log_image(loggers: Iterable, folder: Path, name: str, image: np.ndarray, step: int) -> None:
    """Writes a figure, uint8 [H, W, 3], to `<folder>/<name>_<step>.png` and to every logger."""
    write_atomic(folder / f"{name}_{step}.png", to_png(image))
    for logger in loggers:
        if hasattr(logger, "log_figure"):
            logger.log_figure(name, image, step)
