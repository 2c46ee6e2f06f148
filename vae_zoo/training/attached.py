"""What Lightning's trainer and its connectors set while they run, which the class itself does not declare."""

import lightning as L

from vae_zoo.data.datamodule import DataModule


class RunTrainer(L.Trainer):
    """Declares these attributes, for type checkers; callbacks are given a trainer that has them."""

    callbacks: list[L.Callback]
    datamodule: DataModule
    log_every_n_steps: int
    seed: int
    clip_norm: float | None
