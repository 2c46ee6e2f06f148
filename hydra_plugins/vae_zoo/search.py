"""Hydra sweeper whose jobs are trials of an Optuna study; vae_zoo.sweeps.search has the interface to Optuna.

Hydra's own Optuna plugin (hydra-optuna-sweeper 1.2.0) needs Optuna < 3, which does not support current Python and numpy.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from hydra_plugins.vae_zoo.grid import Grid
from vae_zoo.metrics.catalogue import direction
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.sweeps.jobs import Job
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.text import quoted

TRIES = 2  # attempts per trial and command, if its job does not end
TEST = ("test/", "test_")  # how the names of numbers of test images begin
NO_VALUE = "no value"


class Search(Grid):
    """Search sweeper. params: the search space in Hydra's sweep syntax; the command line has priority.

    sampler: tpe or random; pruner: median, hyperband or null; trials: of the whole study, over all commands; direction:
    minimize or maximize, null: derived from the name of the metric; max_batch_size: trials launched at once, null:
    array_parallelism of SLURM, or else sweep.jobs.
    """

    def __init__(self, sampler, pruner, trials, direction=None, max_batch_size=None, params=None):
        super().__init__(max_batch_size, params)
        self.sampler, self.pruner, self.trials, self.direction = sampler, pruner, trials, direction
        self.cut_short: Counter[int] = Counter()  # interrupted jobs of this command, by trial
        self.told: set[Path] = set()  # folders of its jobs

    def sweep(self, arguments: list[str]) -> int:
        try:
            from vae_zoo.sweeps import search
        except ModuleNotFoundError as error:
            raise UserError(f"{error.name} is not installed; run pip install 'vae_zoo[sweep]'") from None
        given = [*self._parse_config(), *arguments]
        latest = {override.get_key_element(): override for override in self._parsed(given)}
        space = {key: search.distribution(override) for key, override in latest.items() if override.is_sweep_override()}
        fixed = [f"{key}={override.get_value_element_as_str()}" for key, override in latest.items() if key not in space]
        if not space:
            raise UserError("the search space is empty; give one, such as 'model.beta=tag(log,interval(1,16))'")
        record, metric = self._record(given).absolute(), self.config.sweep.metric
        if metric.startswith(TEST):
            raise UserError(
                f"sweep.metric={metric} is a test metric, and a search must not use test images; choose a validation "
                f"metric, such as val/{metric.partition('/')[2]} or val/loss"
            )
        study = search.open_study(record, self.sampler, self.pruner, metric, self._direction(metric), self.config.seed)
        search.check_space(study, record, space)
        self._begin(record, [])
        before = sweeps.finished(sweeps.read_record(record))
        with runs.locked(sweeps.worker(record)):
            try:
                while sweeps.stop_code(sweeps.worker(record)) is None:
                    leave = {number for number, times in self.cut_short.items() if times >= TRIES}
                    if trials := search.ask(study, record, space, self._at_once(), self.trials, leave):
                        self._run(study, record, trials, fixed)
                    elif search.waits_for_runs(study, record):
                        self._wait(study, record)
                    else:
                        break
            finally:
                code = self._end(record, sweeps.read_record(record), before)
                figures = search.write_figures(study, record / "figures", metric)
        if best := search.best(study):
            words = " ".join(search.words(best))
            print(f"best: {metric}={best.value:.4g} with {words}; see {figures[0].parent}", flush=True)
        self._tell_lacking(record, before)
        if not self.told and best is None:
            print(
                f"all {self.trials} trials of this study have been used, and none has a value; increase "
                f"hydra.sweeper.trials, or begin anew with sweep.name=<another name>",
                file=sys.stderr,
            )
        return code or int(best is None)

    def _tell_lacking(self, record: Path, before: set[Path]) -> None:
        """Prints what to do about trials of this command without a value."""
        found = self._states(record, [Job((), folder) for folder in self.told], before)
        if number := sum(state == NO_VALUE for state, _ in found):
            print(
                f"{number} trials of this command have no {self.config.sweep.metric}. Check that runs write it (val/ "
                f"metrics need callbacks.metrics.every_n_steps= and evaluation.level=). Then search again with another "
                f"seed=, or with sweep.rerun=true and another sweep.name=, since finished runs are not trained again "
                f"otherwise.",
                file=sys.stderr,
            )

    def _run(self, study, record: Path, trials: list, fixed: list[str]) -> None:
        """Runs these trials and reports their results to the study."""
        from vae_zoo.sweeps import search

        metric, first = self.config.sweep.metric, len(sweeps.read_record(record))
        file = record / search.STUDY
        words = [
            [
                *fixed,
                *search.words(trial),
                *self._names(record),
                f"++callbacks.pruning={{_target_:vae_zoo.sweeps.pruning.Pruning,study:{quoted(file)},trial:{trial.number},"
                f"metric:{quoted(metric)}}}",
            ]
            for trial in trials
        ]
        jobs = self._jobs(words, first)
        sweeps.write_record(record, jobs, runs.command_line())
        self._launch(words, first)
        for trial, job, (state, _) in zip(trials, jobs, sweeps.states(jobs, set(), sweeps.worker(record))):
            search.tell(study, record, trial, job.folder, state, sweeps.metric(job.folder, metric))
            self.cut_short[trial.number] += state in ("died", "interrupted", "not started")
            self.told.add(job.folder)

    def _at_once(self) -> int:
        return self.max_batch_size or self.config.hydra.launcher.get("array_parallelism") or self.config.sweep.jobs

    def _wait(self, study, record: Path) -> None:
        from vae_zoo.sweeps import search

        print("waiting for runs of an earlier command that are still training", flush=True)
        while search.waits_for_runs(study, record) and sweeps.stop_code(sweeps.worker(record)) is None:
            time.sleep(1)

    def _states(self, record: Path, jobs: Sequence[Job], before: set[Path]) -> list[tuple[str, str]]:
        """As for any sweep, but a finished run without the metric has state `no value`."""
        metric, found = self.config.sweep.metric, super()._states(record, jobs, before)
        over = [runs.is_over(state) or state == "done before" for state, _ in found]
        lacking = [is_over and sweeps.metric(job.folder, metric) is None for job, is_over in zip(jobs, over)]
        told = (NO_VALUE, f"finished, but without {metric}")
        return [told if lacks else state_and_note for lacks, state_and_note in zip(lacking, found)]

    def _counts(self, job: Job) -> bool:
        """Trials of earlier commands do not count."""
        return job.folder in self.told

    def _direction(self, metric: str) -> Literal["minimize", "maximize"]:
        wanted = self.direction or {1: "maximize", -1: "minimize"}.get(direction(metric))
        if wanted is None:
            raise UserError(
                f"the direction of sweep.metric={metric} is unknown; add hydra.sweeper.direction=maximize or =minimize"
            )
        return cast(Literal["minimize", "maximize"], wanted)
