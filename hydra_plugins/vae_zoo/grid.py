"""Hydra's grid sweeper, with a record of the sweep and a table at the end.

Hydra finds plugins only in the package `hydra_plugins`, so this file is not in vae_zoo.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.sweeps.jobs import Job
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.signals import handled, stopping
from vae_zoo.utils.text import override


class Grid(BasicSweeper):
    """Grid sweeper. params: default values to sweep over; max_batch_size: jobs launched at once."""

    # set by Hydra before `sweep` is called
    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher

    def sweep(self, arguments: list[str]) -> int:
        """Returns the exit code."""
        words = [*self._parse_config(), *arguments]
        batches = self.split_arguments(self._parsed(words), self.max_batch_size)
        record = self._record(words)
        batches = [[[*job, *self._names(record)] for job in batch] for batch in batches]
        places = [self._jobs(batch, sum(map(len, batches[:i]))) for i, batch in enumerate(batches)]
        jobs = list({job.folder: job for batch in places for job in batch}.values())
        if not jobs:
            raise UserError(f"{' '.join(words)} gives no jobs; sweep over at least one value")
        self._begin(record, jobs)
        before = sweeps.finished(jobs)
        try:
            for i, batch in enumerate(batches):
                self._launch(batch, sum(map(len, batches[:i])))
        finally:
            code = self._end(record, jobs, before)
        print(f"leaderboard: python evaluate.py {override('runs', record)}", flush=True)
        return code

    def _parsed(self, words: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(list(words))

    def _record(self, words: Sequence[str]) -> Path:
        """The folder of the sweep."""
        choice = self.config.hydra.runtime.choices.get("sweep")
        name = self.config.sweep.name or sweeps.sweep_name(choice, words)
        return Path(str(self.config.hydra.sweep.dir)) / sweeps.RECORDS / name

    def _names(self, record: Path) -> list[str]:
        """Names of the sweep and of this command, as overrides of a job."""
        return [f"sweep.name={record.name}", f"++sweep.worker={sweeps.worker(record).name}"]

    def _jobs(self, batch: Sequence[Sequence[str]], first: int) -> list[Job]:
        """The jobs with their folders; composes each config, so that errors are reported before any job starts."""
        jobs = []
        for number, words in enumerate(batch, first):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
            with open_dict(config):
                config.hydra.job.num, config.hydra.job.id = number, str(number)
            folder = Path(str(OmegaConf.select(config, "hydra.sweep.dir"))) / str(config.hydra.sweep.subdir)
            jobs.append(Job(tuple(words), Path(os.path.abspath(folder))))
        return jobs

    def _begin(self, record: Path, jobs: Sequence[Job]) -> None:
        sweeps.forget(sweeps.worker(record))
        sweeps.write_record(record.absolute(), jobs, runs.command_line())
        OmegaConf.save(self.config, record / "multirun.yaml")

    def _launch(self, batch: Sequence[Sequence[str]], first: int) -> None:
        """Returns when all are over. SIGTERM and the like end the waiting; jobs killed with it can be continued."""

        def stopped(*_: Any) -> None:
            raise sweeps.Stopped

        with handled(stopped, *(signum for signum in stopping() if signum != signal.SIGINT)):
            for answer in self.launcher.launch([list(words) for words in batch], initial_job_idx=first):
                _ = answer.return_value  # raises errors that a job could not write to its folder

    def _end(self, record: Path, jobs: Sequence[Job], before: set[Path]) -> int:
        """Prints and writes the table. Returns the exit code."""
        found = self._states(record, jobs, before)
        text = sweeps.table(jobs, found, self.config.sweep.metric)
        sweeps.write_atomic(record / "table.md", text)
        print(f"\n{text}", flush=True)
        bad = any(not sweeps.is_good(state) for job, (state, _) in zip(jobs, found) if self._counts(job))
        return sweeps.stop_code(sweeps.worker(record)) or int(bad)

    def _states(self, record: Path, jobs: Sequence[Job], before: set[Path]) -> list[tuple[str, str]]:
        return sweeps.states(jobs, before, sweeps.worker(record))

    def _counts(self, job: Job) -> bool:
        """Whether the state of this job counts for the exit code."""
        return True
