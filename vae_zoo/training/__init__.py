"""Trainer, loggers and callbacks, imported when first used."""

from importlib import import_module

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


def __getattr__(name: str):
    """Imports a class on first use: its public name says nothing of files and costs no other import."""
    if name in FILES:
        return getattr(import_module(f"vae_zoo.training.{FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
