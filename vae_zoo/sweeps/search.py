"""A search over settings by Optuna: its study is a file in the sweep's folder, so it goes on after whatever ended it.

Optuna's ask-and-tell interface, used thinly: `ask` gives trials, which are jobs of a sweep as any others; `tell` says what
came of them. Several commands, on machines that share the folder, may work on one study. A trial is held by its command, or
by its run where that has outlived its command; once nobody holds it, it is given out again, and its run goes on from its
checkpoint.

Source: Akiba et al. (2019), arXiv:1907.10902, and https://optuna.readthedocs.io.
"""

import io
import math
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import write_atomic

optuna.logging.set_verbosity(optuna.logging.WARNING)
STUDY = "study.log"
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
PRUNERS = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5),
    "hyperband": optuna.pruners.HyperbandPruner,
    None: optuna.pruners.NopPruner,
}


def open_study(
    record: Path, sampler: str, pruner: str | None, metric: str, direction: Literal["minimize", "maximize"], seed: int
) -> optuna.Study:
    """The study of a sweep's folder. A study that goes on draws other random numbers than it began with.

    Raises UserError when it searches by another metric or direction: its values would be taken for those of this one.
    """
    for name, got, allowed in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if got not in allowed:
            names = ", ".join("null" if key is None else key for key in allowed)
            raise UserError(f"hydra.sweeper.{name}={got} is not known; choose one of {names}")
    record.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=record.name,
        storage=_storage(record / STUDY),
        direction=direction,
        pruner=PRUNERS[pruner](),
        load_if_exists=True,
    )
    asked, theirs = (metric, direction), (study.user_attrs.get("metric", metric), study.direction.name.lower())
    if asked != theirs:
        raise UserError(
            f"the study in {record} searches by {theirs[0]} ({theirs[1]}), not by {metric} ({direction}); "
            f"add sweep.name=<another> for a new search, or ask for the old one"
        )
    study.set_user_attr("metric", metric)
    study.set_user_attr("pruner", pruner)  # for the jobs
    study.sampler = SAMPLERS[sampler](seed=seed + len(study.get_trials(deepcopy=False)))
    return study


def open_trial(study: Path, number: int) -> Trial | None:
    """For a job that reports to it; None when the trial is over, its run continued by hand."""
    storage = _storage(study)
    name = storage.get_all_studies()[0].study_name
    loaded = optuna.load_study(study_name=name, storage=storage)
    loaded.pruner = PRUNERS[loaded.user_attrs["pruner"]]()
    frozen = loaded.get_trials(deepcopy=False)[number]
    return None if frozen.state in OVER else Trial(loaded, frozen._trial_id)


def _storage(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def distribution(override: Override) -> BaseDistribution:
    """What Hydra's words mean to Optuna: `interval(1,16)`, `range(4,33,4)`, `choice(a,b)` or `a,b`, and `tag(log, ...)`."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        kind: Any = IntDistribution if isinstance(sweep.start, int) else FloatDistribution  # int(interval(1,16))
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        kind: Any = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
        return kind(values[0], values[-1], step=sweep.step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def ask(
    study: optuna.Study,
    record: Path,
    space: Mapping[str, BaseDistribution],
    most: int,
    trials: int,
    leave: Collection[int] = (),
) -> list[FrozenTrial]:
    """Up to `most` trials to run now, of `trials` in all: first those that nobody holds any more, but for the numbers in
    `leave`, then new ones."""
    with sweeps.exclusive(record / ".ask"):
        known = study.get_trials(deepcopy=False)
        left = [t.number for t in known if t.state == TrialState.RUNNING and not _is_held(t, record)]
        numbers = [number for number in left if number not in leave][:most]
        for _ in range(min(most - len(numbers), trials - len(known))):
            numbers.append(study.ask(dict(space)).number)
        for number in numbers:
            _hand_over(study, record, number, sweeps.worker(record))
    return [study.get_trials(deepcopy=False)[number] for number in numbers]


def waits_for_runs(study: optuna.Study, record: Path) -> bool:
    """Whether a trial is held by its run, which no command waits for."""
    known = study.get_trials(deepcopy=False)
    return any(t.state == TrialState.RUNNING and not _of_command(t, record) and _is_held(t, record) for t in known)


def _holder(trial: FrozenTrial, record: Path) -> Path:
    """The folder whose lock is held while somebody sees to the trial; none was noted where its command died first."""
    return record / sweeps.WORKERS / trial.user_attrs.get("worker", "")


def _is_held(trial: FrozenTrial, record: Path) -> bool:
    return runs.is_held(_holder(trial, record) / ".lock")


def _of_command(trial: FrozenTrial, record: Path) -> bool:
    return _holder(trial, record).parent == record / sweeps.WORKERS


def _hand_over(study: optuna.Study, record: Path, number: int, holder: Path) -> None:
    trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    trial.set_user_attr("worker", os.path.relpath(holder, record / sweeps.WORKERS))


def words(trial: FrozenTrial) -> list[str]:
    """The trial's settings as overrides."""
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in trial.params.items()]


def tell(study: optuna.Study, record: Path, trial: FrozenTrial, folder: Path, state: str, value: float | None) -> None:
    """state: of the run in `folder`, as that tells. The trial of one that was stopped or has died, or that another process
    has, stays open, and is held by the run alone."""
    if state == "pruned":
        study.tell(trial.number, state=TrialState.PRUNED)
    elif runs.is_over(state) and value is not None and math.isfinite(value):
        study.tell(trial.number, value)
    elif runs.is_over(state) or state in ("failed", "damaged", "unfinished"):
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        _hand_over(study, record, trial.number, folder)


def best(study: optuna.Study) -> FrozenTrial | None:
    return study.best_trial if any(t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)) else None


def write_figures(study: optuna.Study, folder: Path, metric: str) -> list[Path]:
    """history.png, and importances.png where two finished trials differ."""
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as charts

    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    drawn: dict[str, Any] = {}
    if finished:
        drawn["history"] = charts.plot_optimization_history
    if len({t.value for t in finished}) > 1 and any(len(set(map(repr, column))) > 1 for column in _columns(finished)):
        drawn["importances"] = charts.plot_param_importances
    paths = []
    for name, draw in drawn.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            axes = draw(study, target_name=metric)
        buffer = io.BytesIO()
        axes.figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        pyplot.close(axes.figure)
        paths.append(write_atomic(folder / f"{name}.png", buffer.getvalue()))
    return paths


def _columns(trials: Sequence[FrozenTrial]) -> list[list[Any]]:
    return [[trial.params.get(key) for trial in trials] for key in trials[0].params]
