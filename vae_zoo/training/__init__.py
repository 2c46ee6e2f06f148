"""Trainer, loggers and callbacks, imported when first used."""

from vae_zoo.utils.lazy import importer

FILES = {  # public name: the file that defines it
    "Trainer": "trainer",
    "TensorBoard": "loggers",
    "WandB": "loggers",
    "Checkpoint": "callbacks.checkpoint",
    "Figures": "callbacks.figures",
    "Metrics": "callbacks.metrics",
    "Monitor": "callbacks.monitor",
    "Progress": "callbacks.progress",
}
__all__ = [*FILES]
__getattr__ = importer(__name__, FILES)
