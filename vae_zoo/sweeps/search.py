"""Hyperparameter search by Optuna. The study is a file in the folder of the sweep, so a search can always be continued.

Uses Optuna's ask-and-tell interface: `ask` returns trials, which run as jobs of a sweep; `tell` reports their results.
Several commands, on machines that share the folder, may work on one study. A trial is locked by its command, or by its run
if the run outlives the command. A trial without lock and result is returned by `ask` again, and its run resumes from its
checkpoint.

Source: Akiba et al. (2019), arXiv:1907.10902, and https://optuna.readthedocs.io.
"""

import io
import json
import math
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
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
    """Opens or creates the study in the folder of a sweep. A continued study uses new random numbers.

    Raises UserError if the study has another metric or direction, since its values could not be compared.
    """
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
            f"the study in {record} uses {theirs[0]} ({theirs[1]}), not {metric} ({direction}); "
            f"choose another sweep.name for a new search, or use the metric of the study"
        )
    study.set_user_attr("metric", metric)
    study.set_user_attr("pruner", pruner)  # for the jobs
    study.sampler = SAMPLERS[sampler](seed=seed + len(study.get_trials(deepcopy=False)))
    return study


def open_trial(study: Path, number: int) -> Trial | None:
    """The trial, for a job that reports to it; None if the trial has ended and its run was resumed by hand."""
    storage = _storage(study)
    name = storage.get_all_studies()[0].study_name
    loaded = optuna.load_study(study_name=name, storage=storage)
    loaded.pruner = PRUNERS[loaded.user_attrs["pruner"]]()
    frozen = loaded.get_trials(deepcopy=False)[number]
    return None if frozen.state in OVER else Trial(loaded, frozen._trial_id)


class Journal(JournalFileBackend):
    """A journal whose last line may be incomplete, since its writer was killed or the disk was full; that line is removed.

    Raises UserError if another line is damaged.
    """

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.path = path
        self._remove_unfinished()
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                json.loads(line)
            except ValueError:
                raise UserError(
                    f"line {number} of {path} is damaged; remove it, or choose another sweep.name for a new search"
                ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._remove_unfinished()
        super().append_logs(logs)

    def _remove_unfinished(self) -> None:
        if self._is_finished():
            return
        lock = JournalFileSymlinkLock(str(self.path))  # the one that Optuna writes under
        lock.acquire()
        try:
            if not self._is_finished():
                content = self.path.read_bytes()
                os.truncate(self.path, content.rfind(b"\n") + 1)
        finally:
            lock.release()

    def _is_finished(self) -> bool:
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def _storage(path: Path) -> JournalStorage:
    return JournalStorage(Journal(path))


def check_space(study: optuna.Study, record: Path, space: Mapping[str, BaseDistribution]) -> None:
    """Raises UserError if the study searches another space; bounds may change, but neither settings nor choices.

    Called before the first `ask`, in which Optuna would create the trial without its settings.
    """
    theirs: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        theirs |= trial.distributions
    for key in {**theirs, **(space if theirs else {})}:
        try:
            check_distribution_compatibility(theirs[key], space[key])
        except (KeyError, ValueError):
            was, now = (_in_words(part[key]) if key in part else "not searched" for part in (theirs, space))
            raise UserError(
                f"{key} is {was} in the study in {record}, but {now} in this command; choose another sweep.name for a new "
                f"search, or give the search space of the study"
            ) from None


def _in_words(one: BaseDistribution) -> str:
    if isinstance(one, CategoricalDistribution):
        return f"choice({','.join(map(str, one.choices))})"
    assert isinstance(one, FloatDistribution | IntDistribution)
    log, step = "tag(log)" if one.log else "", f" in steps of {one.step}" if one.step not in (None, 1) else ""
    kind = "whole numbers" if isinstance(one, IntDistribution) else "numbers"
    return f"{kind} from {one.low} to {one.high}{step} {log}".strip()


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution of a Hydra override: `interval(1,16)`, `range(4,33)`, `choice(a,b)`, `a,b`, `tag(log, ...)`."""
    sweep, word = override.value(), override.input_line
    try:
        found = _distribution(override, sweep)
    except (ValueError, IndexError):
        found = None
    bounds = (getattr(found, "low", 0), getattr(found, "high", 0))
    if found is None or not all(map(math.isfinite, bounds)):
        raise UserError(
            f"{word} is not a search range; give two finite bounds, the lower first, both above 0 for tag(log,...), such as "
            f"'{override.get_key_element()}=tag(log,interval(0.1,10))'"
        )
    return found


def _distribution(override: Override, sweep: Any) -> BaseDistribution:
    if isinstance(sweep, IntervalSweep):
        kind: Any = IntDistribution if isinstance(sweep.start, int) else FloatDistribution  # int(interval(1,16))
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        kind: Any = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
        return kind(min(values), max(values), step=abs(sweep.step or 1))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def ask(
    study: optuna.Study,
    record: Path,
    space: Mapping[str, BaseDistribution],
    most: int,
    trials: int,
    leave: Collection[int] = (),
) -> list[FrozenTrial]:
    """Up to `most` trials to run now, of `trials` in total: first unlocked trials without result, except the numbers in
    `leave`, then new trials."""
    with sweeps.exclusive(record / ".ask"):
        check_space(study, record, space)
        for trial in study.get_trials(deepcopy=False):  # of a command that was killed while it drew the settings
            if trial.state == TrialState.RUNNING and trial.params.keys() != space.keys():
                study.tell(trial.number, state=TrialState.FAIL)
        known = [t for t in study.get_trials(deepcopy=False) if t.params]
        left = [t.number for t in known if t.state == TrialState.RUNNING and not _is_held(t, record)]
        numbers = [number for number in left if number not in leave][:most]
        for _ in range(min(most - len(numbers), trials - len(known))):
            numbers.append(study.ask(dict(space)).number)
        for number in numbers:
            _hand_over(study, record, number, sweeps.worker(record))
    return [study.get_trials(deepcopy=False)[number] for number in numbers]


def waits_for_runs(study: optuna.Study, record: Path) -> bool:
    """Whether a trial is still running although its command has ended."""
    known = study.get_trials(deepcopy=False)
    return any(t.state == TrialState.RUNNING and not _of_command(t, record) and _is_held(t, record) for t in known)


def _holder(trial: FrozenTrial, record: Path) -> Path:
    """The folder whose lock is held while the trial runs; it is not recorded if the command died before that."""
    return record / sweeps.WORKERS / trial.user_attrs.get("worker", "")


def _is_held(trial: FrozenTrial, record: Path) -> bool:
    return runs.is_held(_holder(trial, record) / ".lock")


def _of_command(trial: FrozenTrial, record: Path) -> bool:
    return _holder(trial, record).parent == record / sweeps.WORKERS


def _hand_over(study: optuna.Study, record: Path, number: int, holder: Path) -> None:
    trial = Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    trial.set_user_attr("worker", os.path.relpath(holder, record / sweeps.WORKERS))


def words(trial: FrozenTrial) -> list[str]:
    """The settings of the trial as overrides."""
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in trial.params.items()]


def tell(study: optuna.Study, record: Path, trial: FrozenTrial, folder: Path, state: str, value: float | None) -> None:
    """Reports a result to the study. state: of the run in `folder`. The trial of a run that was stopped, has died or is
    trained by another process remains open and is locked by its run only."""
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
    """Writes history.png, and importances.png if the finished trials differ."""
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
