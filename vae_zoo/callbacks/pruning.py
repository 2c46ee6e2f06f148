"""Ends a trial of a search that does worse than the others did at the same step."""

from pathlib import Path

import lightning as L

from vae_zoo.errors import Pruned


class Pruning(L.Callback):
    """Reports `metric` to the study after every validation. study: its file. trial: this run's number in it."""

    def __init__(self, study: str, trial: int, metric: str):
        from vae_zoo.search import open_trial  # optuna

        self.trial, self.metric, self.name = open_trial(Path(study), trial), metric, f"trial {trial}"

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        prune = False
        if trainer.is_global_zero and self.trial is not None and self.metric in module.latest:
            self.trial.report(module.latest[self.metric], step=trainer.global_step)
            prune = self.trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(prune, all=False):  # all ranks stop together
            raise Pruned(f"{self.name} pruned at step {trainer.global_step}: {self.metric} is worse than in most others")
