"""Many runs of one command: their record, their turns on this machine, how they ended. Neither torch nor lightning.

A sweep has a folder of its own beside its runs, `<outputs>/sweeps/<name>`: sweep.yaml (command, and folder and overrides
of every job), multirun.yaml (its composed config), table.md. The name is that of the command, so the same command again
is the same sweep; what its jobs have done stands in their own folders, and which were refused in the folder of the command,
`.workers/<host>-<process>`, so state is read from disk, not from the launcher.
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
from vae_zoo.utils.files import write_atomic

RECORDS = "sweeps"  # folder beside the runs
WORKERS = ".workers"  # folder of the commands in that of their sweep
TAKEN = {"LocalLauncher": "CUDA_VISIBLE_DEVICES", "RayLauncher": "OMP_NUM_THREADS"}  # from the user, for every job
GOOD = (
    "finished",
    "done before",
    "pruned",
    "running",
)  # elsewhere, then; beside these what a limit such as patience stopped
# What does not make another sweep: where and how it is run, and what is shown of it.
INCIDENTAL = ("sweep.", "launcher", "logger", "paths.", "hydra")


class Stopped(BaseException):
    """SIGTERM to the command that runs the sweep."""


def sweep_name(choice: str | None, words: Iterable[str]) -> str:
    """`<sweep=, or "grid">_<hash8>` of a command's words, whatever their order."""
    kept = sorted(word for word in words if not word.lstrip("+~").startswith(INCIDENTAL))
    return f"{choice or 'grid'}_{hashlib.sha256(shlex.join(kept).encode()).hexdigest()[:8]}"


def write_record(record: Path, jobs: Sequence[Job], command: str) -> None:
    """Adds jobs to sweep.yaml; several commands may work on one sweep."""
    with exclusive(record / ".lock"):
        known = {job.folder: job for job in [*read_record(record), *jobs]}
        listed = [{"folder": os.path.relpath(job.folder, record), "overrides": list(job.words)} for job in known.values()]
        text = yaml.safe_dump({"command": command, "jobs": listed}, sort_keys=False, allow_unicode=True)
        write_atomic(record / "sweep.yaml", text)


# ---- stopping -------------------------------------------------------------------------------------------------------


def worker(record: Path) -> Path:
    """The folder of this command in that of the sweep, on which others may work too."""
    return record / WORKERS / f"{socket.gethostname()}-{os.getpid()}"


def stop(worker: Path, code: int) -> None:
    """Jobs of this command that have not begun will not, in whatever process they would have."""
    worker.mkdir(parents=True, exist_ok=True)
    write_atomic(worker / "stop", str(code))


def stop_code(worker: Path) -> int | None:
    """The exit code that a stopped command ends with; None while it goes on."""
    with contextlib.suppress(FileNotFoundError):
        return int((worker / "stop").read_text())
    return None


def forget(worker: Path) -> None:
    """What a command that had the same name has stopped and refused."""
    shutil.rmtree(worker, ignore_errors=True)


# ---- refusing -------------------------------------------------------------------------------------------------------


def refuse(worker: Path, folder: Path, why: str) -> None:
    """Notes that a job was refused before it began; a run that lies in its folder already stays as it is."""
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
    """In a worker: restores variables that its launcher (a class) overwrote."""
    if name := TAKEN.get(launcher.rpartition(".")[2]):
        os.environ.pop(name, None)
        os.environ |= {name: given[name]} if name in given else {}


# ---- slots ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def acquire_slot(
    record: Path, jobs: int, trainer: dict[str, Any], launcher: str = ""
) -> Iterator[tuple[dict[str, str], IO[str] | None]]:
    """Blocks until fewer than `jobs` jobs of this sweep run on this machine; yields (environment, lock).

    The environment gives the job its share of the threads and, where there are several GPUs, a GPU of its own. The lock is
    released when both this process and the job that inherits it have ended. With jobs=1 the launcher (a class) decides,
    unless it is submitit's local one, which starts all jobs at once."""
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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        return place, file
    return None


def share(place: int, jobs: int, trainer: dict[str, Any]) -> dict[str, str]:
    """Environment of the job at `place` of `jobs`. trainer: of its config."""
    threads = max(1, num_cores() // (jobs * num_ranks(trainer)))
    given = os.environ.get("OMP_NUM_THREADS", "")
    environment = {"OMP_NUM_THREADS": str(min(threads, int(given)) if given.isdigit() else threads)}
    own = gpus()
    if len(own) > 1 and trainer.get("devices") in ("auto", 1) and trainer.get("accelerator") in ("auto", "gpu", "cuda"):
        environment["CUDA_VISIBLE_DEVICES"] = own[place % len(own)]
    return environment


def num_ranks(trainer: Mapping[str, Any]) -> int:
    """Processes of one job on this machine. trainer: of its config."""
    devices = trainer.get("devices", 1)
    if devices == "auto" or not trainer.get("strategy", "auto").startswith("ddp"):
        return 1
    if devices == -1:
        return max(1, len(gpus()))
    return devices if isinstance(devices, int) else len(devices)


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, asked without importing torch. As in CUDA, -1 ends their list."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return list(itertools.takewhile(lambda name: name not in ("", "-1"), visible.split(",")))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(i) for i, line in enumerate(filter(lambda text: text.startswith("GPU "), listed.splitlines()))]


def jobs_at_once(trainer: Mapping[str, Any]) -> int:
    """As many as there are GPUs, or where there are none, cores, for all ranks of each."""
    return max(1, (len(gpus()) or num_cores()) // num_ranks(trainer))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits for the lock of this file and holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- how they ended -------------------------------------------------------------------------------------------------


def finished(jobs: Iterable[Job]) -> set[Path]:
    return {job.folder for job in jobs if runs.is_finished(job.folder)}


def is_good(state: str) -> bool:
    """Whether nothing is wrong with a job in this state, and nothing is left to do."""
    return state in GOOD or runs.is_over(state)


def states(jobs: Iterable[Job], before: set[Path], worker: Path | None = None) -> list[tuple[str, str]]:
    """State and note of each job, as its folder tells, and that of its command (`worker`) where it was refused. before: what
    had been finished when the sweep began."""
    found = []
    for job in jobs:
        run = _run(job.folder)
        if worker is not None and (refusal := _refusal(worker, job.folder)).is_file():
            found.append(("failed", refusal.read_text()))
        elif run is None:
            found.append(("not started", ""))
        elif run.state == "finished" and job.folder in before:
            found.append(("done before", run.note))
        else:
            found.append((run.state, run.note))
    return found


def _run(folder: Path):
    """What can be read of it; None where nothing has begun (Hydra makes a job's folder before it can be refused)."""
    from vae_zoo.reports.settings import read_run  # numpy

    return read_run(folder) if any((folder / name).exists() for name in ("config.yaml", "error.txt")) else None


def metric(folder: Path, name: str) -> float | None:
    """A number of metrics.json, or else the last value of that column of metrics.csv; None where it has none."""
    run = _run(folder)
    if run is None or name in run.metrics:
        return run and run.metrics[name]
    rows = runs.read_rows(folder / "metrics.csv")
    value = next((float(row[name]) for row in reversed(rows) if row.get(name)), math.nan)
    return value if math.isfinite(value) else None


def table(jobs: Sequence[Job], found: Sequence[tuple[str, str]], name: str) -> str:
    """A Markdown table: job, state, minutes of its last session, the metric `name`, and why where something is wrong."""
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
    return grid(["job", "state", "why", "min", name], rows, left=3) + "\n"
