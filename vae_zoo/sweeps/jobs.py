"""The jobs of a sweep: their record, their slots on this machine, their states. Imports neither torch nor lightning.

A sweep has its own folder, `<outputs>/sweeps/<name>`, with sweep.yaml (the command, and folder and overrides of every job),
multirun.yaml (the composed config) and table.md. The name follows from the command, so the same command continues the same
sweep. The state of a job is in its run folder; refused jobs are listed in the folder of the command,
`.workers/<host>-<process>`. State is therefore read from disk, not from the launcher.
"""

import contextlib
import fcntl
import hashlib
import itertools
import math
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from vae_zoo.runs import folder as runs
from vae_zoo.runs.record import Job, read_record
from vae_zoo.utils.files import lock, write_atomic
from vae_zoo.utils.threads import GPU_SHARE, THREADS, num_cores

RECORDS = "sweeps"  # folder next to the runs
WORKERS = ".workers"  # subfolder of a sweep with one folder per command
TAKEN = {"LocalLauncher": "CUDA_VISIBLE_DEVICES", "RayLauncher": "OMP_NUM_THREADS"}  # set by the user, for every job
GOOD = (
    "finished",
    "done before",
    "pruned",
    "running",
)  # running: in another process; runs that a limit such as patience has stopped are good too
# Overrides that do not change the name of a sweep: where and how it runs, and what is shown.
INCIDENTAL = ("sweep.", "launcher", "logger", "paths.", "hydra")


class Stopped(BaseException):
    """Raised when the command of the sweep receives SIGTERM."""


def sweep_name(choice: str | None, words: Iterable[str]) -> str:
    """`<sweep=, or "grid">_<hash8>` of a command's words, independent of their order."""
    kept = sorted(word for word in words if not word.lstrip("+~").startswith(INCIDENTAL))
    return f"{choice or 'grid'}_{hashlib.sha256(shlex.join(kept).encode()).hexdigest()[:8]}"


def write_record(record: Path, jobs: Sequence[Job], command: str) -> None:
    """Adds jobs to sweep.yaml; several commands may share one sweep."""
    with exclusive(record / ".lock"):
        known = {job.folder: job for job in [*read_record(record), *jobs]}
        listed = [{"folder": os.path.relpath(job.folder, record), "overrides": list(job.words)} for job in known.values()]
        text = yaml.safe_dump({"command": command, "jobs": listed}, sort_keys=False, allow_unicode=True)
        write_atomic(record / "sweep.yaml", text)


# ---- stopping -------------------------------------------------------------------------------------------------------


def worker(record: Path) -> Path:
    """The folder of this command within the folder of the sweep, which other commands may share."""
    return record / WORKERS / f"{socket.gethostname()}-{os.getpid()}"


def stop(worker: Path, code: int) -> None:
    """Prevents jobs of this command that have not started from starting, in any process."""
    worker.mkdir(parents=True, exist_ok=True)
    write_atomic(worker / "stop", str(code))


def stop_code(worker: Path) -> int | None:
    """The exit code of a stopped command; None if it is not stopped."""
    with contextlib.suppress(FileNotFoundError):
        return int((worker / "stop").read_text())
    return None


def forget(worker: Path) -> None:
    """Deletes the stop and refusal notes of an earlier command with the same host and process id."""
    shutil.rmtree(worker, ignore_errors=True)


# ---- refusing -------------------------------------------------------------------------------------------------------


def refuse(worker: Path, folder: Path, why: str) -> None:
    """Notes that a job was refused before it started; a run already in its folder is unchanged."""
    write_atomic(_refusal(worker, folder), why)
    if not (folder / "config.yaml").exists():
        write_atomic(folder / "error.txt", f"{why}\n")


def _refusal(worker: Path, folder: Path) -> Path:
    return worker / "refused" / "_".join(folder.parts[-2:])


# ---- the machine ----------------------------------------------------------------------------------------------------


def given() -> dict[str, str]:
    """The device and thread variables set by the user."""
    return {name: os.environ[name] for name in TAKEN.values() if name in os.environ}


def restore(given: dict[str, str], launcher: str) -> None:
    """Restores, in a worker, the variables that its launcher (a class path) overwrote."""
    if name := TAKEN.get(launcher.rpartition(".")[2]):
        os.environ.pop(name, None)
        os.environ |= {name: given[name]} if name in given else {}


# ---- slots ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def acquire_slot(
    record: Path, jobs: int, trainer: dict[str, Any], launcher: str = ""
) -> Iterator[tuple[dict[str, str], IO[str] | None]]:
    """Blocks until fewer than `jobs` jobs of this sweep run on this machine; yields (environment, lock).

    The environment gives the job its share of the threads and, with several GPUs, its own GPU. The lock is released when
    both this process and the job that inherits it have ended. With jobs=1 the launcher (a class path) decides, except
    submitit's local launcher, which starts all jobs at once."""
    if jobs == 1 and not launcher.endswith("LocalLauncher"):
        yield {}, None
        return
    while (found := _free_slot(record / ".slots", jobs)) is None:
        time.sleep(0.2)
    place, lock = found
    with lock:
        yield share(place, jobs, trainer), lock


def _free_slot(folder: Path, jobs: int) -> tuple[int, IO[str]] | None:
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(jobs):
        file = (folder / f"{socket.gethostname()}-{place}").open("a")
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return place, file
    return None


def share(place: int, jobs: int, trainer: dict[str, Any]) -> dict[str, str]:
    """Environment of the job in slot `place` of `jobs`. trainer: from its config."""
    threads = max(1, num_cores() // (jobs * num_ranks(trainer)))
    given = os.environ.get(THREADS, "")
    environment = {THREADS: str(max(1, min(threads, int(given))) if given.isdigit() else threads)}
    own = gpus()
    if own and trainer.get("devices") in ("auto", 1) and trainer.get("accelerator") in ("auto", "gpu", "cuda"):
        if len(own) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = own[place % len(own)]
        if (together := math.ceil(jobs / len(own))) > 1:
            environment[GPU_SHARE] = f"{1 / together:.4f}"
    return environment


def num_ranks(trainer: Mapping[str, Any]) -> int:
    """Number of processes of one job on this machine. trainer: from its config."""
    devices = trainer.get("devices", 1)
    if devices == "auto" or not trainer.get("strategy", "auto").startswith("ddp"):
        return 1
    if devices == -1:
        return max(1, len(gpus()))
    return devices if isinstance(devices, int) else len(devices)


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, without importing torch. As in CUDA, -1 ends the list."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), visible.split(",")))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(i) for i, line in enumerate(filter(lambda text: text.startswith("GPU "), listed.splitlines()))]


def jobs_at_once(trainer: Mapping[str, Any], jobs_per_gpu: int = 1) -> int:
    """Number of jobs in parallel: jobs_per_gpu on each GPU, or without GPUs one per core, divided by the ranks of a job."""
    return max(1, (len(gpus()) * jobs_per_gpu or num_cores()) // num_ranks(trainer))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits for the lock of the file and holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        lock(file, fcntl.LOCK_EX)
        yield


# ---- states ---------------------------------------------------------------------------------------------------------


def finished(jobs: Iterable[Job]) -> set[Path]:
    return {job.folder for job in jobs if runs.is_finished(job.folder)}


def is_good(state: str) -> bool:
    """Whether a job in this state has ended without an error, or is running in another process."""
    return state in GOOD or runs.is_over(state)


def states(jobs: Iterable[Job], before: set[Path], worker: Path | None = None) -> list[tuple[str, str]]:
    """State and note of each job, read from its folder, or from that of the command (`worker`) if it was refused. before:
    folders that were finished when the sweep started."""
    found = []
    for job in jobs:
        run = _run(job.folder)
        if worker is not None and (refusal := _refusal(worker, job.folder)).is_file():
            found.append(("failed", refusal.read_text(errors="surrogateescape")))
        elif run is None:
            found.append(("not started", ""))
        elif run.state == "finished" and job.folder in before:
            found.append(("done before", run.note))
        else:
            found.append((run.state, run.note))
    return found


def _run(folder: Path):
    """The run in the folder; None if it has not started (Hydra creates the folder of a job before it can be refused)."""
    from vae_zoo.reports.settings import read_run  # numpy

    return read_run(folder) if any((folder / name).exists() for name in ("config.yaml", "error.txt")) else None


def metric(folder: Path, name: str) -> float | None:
    """A number of metrics.json, or else the last value of the column in metrics.csv; None if there is none."""
    run = _run(folder)
    if run is None or name in run.metrics:
        return run and run.metrics[name]
    rows = runs.read_rows(folder / "metrics.csv")
    value = next((float(row[name]) for row in reversed(rows) if row.get(name)), math.nan)
    return value if math.isfinite(value) else None


def table(jobs: Sequence[Job], found: Sequence[tuple[str, str]], name: str) -> str:
    """A Markdown table: job, state, reason if something is wrong, minutes of the last session, the metric `name`."""
    from vae_zoo.reports.leaderboard import grid

    rows = []
    for job, (state, note) in zip(jobs, found):
        seconds, value = runs.read_status(job.folder).get("seconds"), metric(job.folder, name)
        rows.append(
            [
                "/".join(job.folder.parts[-2:]),
                state,
                "" if state in GOOD else note,
                "" if seconds is None else f"{seconds / 60:.1f}",
                "" if value is None else f"{value:.4g}",
            ]
        )
    return grid(["job", "state", "reason", "min", name], rows, left=3) + "\n"
