"""Pruning callback: ends a trial of a search if its metric is worse than that of other trials at the same step."""

from pathlib import Path

import lightning as L

from vae_zoo.config.types import Index
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.utils.errors import Pruned


class Pruning(L.Callback):
    """Reports `metric` to the study after every validation that has a new value.

    study: path of the study file. trial: number of this trial in the study.
    """

    def __init__(self, study: str, trial: Index, metric: str):
        from vae_zoo.sweeps.search import open_trial  # optuna

        self.trial, self.metric, self.name = open_trial(Path(study), trial), metric, f"trial {trial}"
        self.reported = 0  # step of the newest value in the study

    def on_validation_end(self, trainer: L.Trainer, module: LatentVariableModel) -> None:
        prune, step = False, module.latest_at.get(self.metric, 0)
        if trainer.is_global_zero and self.trial is not None and step > self.reported:
            self.trial.report(module.latest[self.metric], step=step)
            self.reported, prune = step, self.trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(prune, all=False):  # all ranks stop together
            raise Pruned(f"{self.name} pruned at step {trainer.global_step}: {self.metric} is behind other trials")
