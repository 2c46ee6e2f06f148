"""Starts or resumes one run in its folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import yaml
from omegaconf import DictConfig, OmegaConf

from vae_zoo.cli.compose import settings, typed
from vae_zoo.config import check
from vae_zoo.runs import folder as runs
from vae_zoo.utils import launch
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.signals import exit_code, handled, stopping

FOLLOW_SECONDS = 120  # seconds a rank waits for rank 0, whose imports may be slow
RESUMABLE = (
    *("resume", "trainer.max_steps", "trainer.max_time", "trainer.patience"),
    *("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes", "logger", "trust"),
)


def begin(cfg: dict[str, Any], folder: Path, command: str) -> int:
    """Trains a checked config in `folder`, which is unchanged if the data set refuses the config. Returns the exit code.

    command: the command line of the user, for the report.
    """
    launch.check_launch(cfg["trainer"])
    if launch.rank(cfg["trainer"]) > 0:
        return _follow(folder, cfg, "--fresh", command)
    runs.check_room(folder)
    new = [path for path in (folder / ".lock", folder, *folder.parents) if not path.exists()]  # deepest first
    with runs.locked(folder) as lock:
        previous = make_room(folder)
        before = set(folder.iterdir())
        runs.write_config(folder, cfg)
        code = _start(folder, cfg, "--fresh", command, lock)
        if code == 2 and not runs.has_checkpoint(folder):
            runs.put_back(folder, before, previous, new)
        elif runs.is_over(runs.read_status(folder).get("state")):
            runs.forget_older(folder)
    return code


def resume(cfg: DictConfig, command: str) -> int:
    """Resumes the run `cfg.resume` with its own config; only settings in RESUMABLE can change. Returns the exit code."""
    overrides = [word.lstrip("+~").partition("=")[0] for word in typed(cfg, "task")]
    for key in overrides:
        nested = key.startswith("data.") and key.count(".") > 1
        if key not in RESUMABLE and (nested or not key.startswith(("logger.", "data."))):
            allowed = ", ".join((*RESUMABLE[1:], "data.path and other paths of the data"))
            raise UserError(f"{key} cannot be changed when resuming; remove it (only {allowed} can be given with resume=)")
    given = check.resolved(settings(cfg))
    folder = Path(str(given["resume"])).expanduser()
    plain = runs.read_config(folder)
    folder = folder.absolute()
    check.check_trust(plain, given["trust"])
    try:
        check.check_train(OmegaConf.create(plain))
    except UserError as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}") from None
    for key in overrides:
        group, _, name = key.partition(".")
        if group == "logger":
            plain["logger"] = given["logger"]
        elif name:
            value = given[group][name]
            is_path = group == "data" and isinstance(value, str)
            runs.change(plain, group, name, os.path.abspath(os.path.expanduser(value)) if is_path else value)
    plain["trust"] = sorted({*plain.get("trust", []), *given["trust"]})
    check.check_train(OmegaConf.create(plain))
    if not runs.has_checkpoint(folder):
        raise UserError(f"{folder} has no checkpoints/last.ckpt to resume from; start the run again")
    launch.check_launch(plain["trainer"])
    if (done := runs.nothing_left(folder, plain)) is not None:
        print(done)
        return 0
    if launch.rank(plain["trainer"]) > 0:
        return _follow(folder, plain, "--resume", command)
    with runs.locked(folder) as lock:
        before, status = (folder / "config.yaml").read_text(), runs.read_status(folder)
        runs.write_status(folder, state="running")  # first: with more steps in its config, a finished run is not finished
        runs.write_config(folder, plain)
        code = _start(folder, plain, "--resume", command, lock)
        if code == 2:
            runs.write_atomic(folder / "config.yaml", before)
            runs.write_json(folder / "run.json", status)
    return code


def make_room(folder: Path) -> Path | None:
    """Moves an earlier run of this folder to previous/ and prints that."""
    if previous := runs.set_aside(folder):
        print(f"an earlier run with this config is now in {previous}", flush=True)
    return previous


def _follow(folder: Path, cfg: dict[str, Any], how: str, command: str) -> int:
    """Runs a rank started by torchrun or srun; rank 0 prepares and locks the folder."""
    wanted, until = yaml.safe_load(yaml.safe_dump(cfg)), time.monotonic() + FOLLOW_SECONDS
    while not (folder / "config.yaml").is_file() or runs.read_config(folder) != wanted:
        if time.monotonic() > until:
            raise UserError(
                f"rank {launch.rank(cfg['trainer'])} waits for {folder}/config.yaml, which rank 0 has not written; "
                f"see the output of rank 0"
            )
        time.sleep(0.1)
    return _start(folder, cfg, how, command)


def _start(folder: Path, cfg: dict[str, Any], how: str, command: str, lock: IO[str] | None = None) -> int:
    """Runs in this process, unless the run has ranks: these repeat the command of the process, so they need the composed
    config instead of overrides (hydra issue 2070). lock: of the folder, not for ranks > 0. Returns the exit code."""
    if launch.has_ranks(cfg["trainer"]):
        return start_process(folder, how, command, lock, environment=launch.environment(cfg["trainer"]))[0]
    from vae_zoo.runs.train import main

    return main([str(folder), how, "--command", command])


def start_process(
    folder: Path,
    how: str,
    command: str,
    lock: IO[str] | None = None,
    place: IO[str] | None = None,
    environment: dict[str, str] | None = None,
) -> tuple[int, int | None]:
    """Runs the job in a separate process, so that its death does not end this one. Returns its exit code and the first
    signal that this process received meanwhile. The job inherits the locks of its folder and of its slot."""
    received: list[int] = []
    process = None

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if signum != signal.SIGINT and process is not None:  # the terminal sends Ctrl-C to the job too
            process.send_signal(signum)

    words = [sys.executable, "-m", "vae_zoo.runs.train", str(folder), how, "--command", command]
    held = [file.fileno() for file in (lock, place) if file is not None]
    with handled(note, *(signals := stopping())):
        process = subprocess.Popen(words, env=environment or os.environ, pass_fds=held)
        if lock is not None:
            runs.sign(lock, process.pid)
        for signum in {*received} - {signal.SIGINT}:
            process.send_signal(signum)
        code = process.wait()
    if -code in signals:  # the job died before it could handle them
        code = exit_code(-code)
    return code if code >= 0 else 1, received[0] if received else None
