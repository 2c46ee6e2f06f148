"""Runs one job of a sweep, in the process that its launcher provides."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vae_zoo.cli import run
from vae_zoo.config import check
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.utils import launch
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.signals import exit_code


def run_job(cfg: DictConfig, command: str, given: dict[str, str]) -> None:
    """Trains the job's config in a new process, whose exit state is stored in the run folder. Ctrl-C, SIGTERM to the sweep
    and a launcher failure end the other jobs; a killed job does not.

    command: the command line of the user. given: environment of the sweep before the launcher changed it.
    """
    hydra = HydraConfig.get()
    typed = Path(hydra.runtime.cwd)  # where paths are relative to, also with hydra.job.chdir
    folder, launcher = typed / hydra.runtime.output_dir, hydra.launcher._target_
    record = typed / hydra.sweep.dir / sweeps.RECORDS / cfg.sweep.name
    worker = record / sweeps.WORKERS / cfg.sweep.worker
    in_worker = worker != sweeps.worker(record)
    sweeps.restore(given, launcher)
    if in_worker and launcher.endswith("JoblibLauncher"):
        _end_with_parent()
    code, received = 2, None
    try:
        plain = check.check_train(cfg)
        plain["data"] = runs.with_absolute_places(plain["data"], typed)
        jobs = jobs_here(launcher, plain["sweep"]["jobs"])
        with sweeps.acquire_slot(record, jobs, plain["trainer"], launcher) as (environment, place):
            if sweeps.stop_code(worker) is not None:
                return
            with runs.locked(folder) as lock:
                how, code = _claim(folder, plain), 0
                if how is not None:
                    environment = launch.environment(plain["trainer"]) | environment
                    code, received = run.start_process(folder, how, command, lock, place, environment)
                if how == "--fresh" and runs.is_over(runs.read_status(folder).get("state")):
                    runs.forget_older(folder)
    except runs.Busy as error:
        print(f"running: {error}", flush=True)
        return
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sweeps.refuse(worker, folder, str(error))
    if received == signal.SIGINT or (received and not in_worker):
        sweeps.stop(worker, exit_code(received))
    elif code and cfg.sweep.stop_on_failure:
        sweeps.stop(worker, 1)


def jobs_here(launcher: str, jobs: int) -> int:
    """Number of jobs that share this machine; 1 under SLURM, which gives each job its own cores and GPUs."""
    return 1 if launcher.endswith("SlurmLauncher") else jobs


def _end_with_parent() -> None:
    """Ends this joblib worker when the command is killed, since it would wait forever. A job that has started continues."""
    if all(thread.name != "parent" for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=[os.getppid()], name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _claim(folder: Path, cfg: dict[str, Any]) -> str | None:
    """How to start the job: None if it is finished, --resume if it was interrupted, otherwise --fresh."""
    how = "--fresh"
    if not cfg["sweep"]["rerun"]:
        if runs.is_finished(folder) and runs.is_of(folder, cfg):
            state = runs.read_status(folder)["state"]
            print(f"done before{'' if state == 'finished' else f' ({state})'}: {folder}", flush=True)
            return None
        if runs.can_go_on(folder, cfg):
            print(f"resumes: {folder}", flush=True)
            how = "--resume"
    if how == "--fresh":
        runs.check_room(folder)
        run.make_room(folder)
    runs.write_config(folder, cfg)
    return how
