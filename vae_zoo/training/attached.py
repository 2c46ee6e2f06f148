"""Declares trainer attributes that Lightning sets at run time."""

import lightning as L

from vae_zoo.data.datamodule import DataModule


class RunTrainer(L.Trainer):
    """Lightning's trainer with the attributes that callbacks use, for type checkers."""

    callbacks: list[L.Callback]
    datamodule: DataModule
    log_every_n_steps: int
    seed: int
    clip_norm: float | None
