"""The commands: command line -> config -> checked config -> run. Torch is imported after the check."""

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vae_zoo.cli.compose import compose, settings, sweep, typed
from vae_zoo.cli.job import run_job
from vae_zoo.cli.messages import explain
from vae_zoo.cli.run import begin, resume
from vae_zoo.config import check
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.utils.console import tolerant_streams
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.threads import wait_briefly


def train() -> int:
    """Runs `python train.py`: one run, or with -m many. Returns the exit code."""
    return _exit_code(_train, "choose another folder with paths.outputs=<folder> or hydra.run.dir=<folder>")


def evaluate() -> int:
    """Runs `python evaluate.py`. Returns the exit code."""
    return _exit_code(_evaluate, "choose another folder with out=<folder>")


def explore() -> int:
    """Runs `python explore.py`. Returns the exit code."""
    return _exit_code(_explore, "check the permissions and the free space of the run folder")


def export() -> int:
    """Runs `python export.py`. Returns the exit code."""
    return _exit_code(_export, "choose another folder with out=<folder>")


def _train(words: list[str]) -> int:
    if any(word.startswith("resume=") for word in words):
        words = _forced(words)
    cfg, command = compose("train", words), runs.command_line()
    if cfg is None:
        return 0
    if cfg.hydra.mode == RunMode.MULTIRUN:
        if cfg.resume is not None:
            raise UserError("resume= continues one run and cannot be combined with -m; remove -m")
        check.check_sweep(cfg)
        return sweep(cfg, partial(run_job, command=command, given=sweeps.given()))
    if cfg.resume is not None:
        return resume(cfg, command)
    plain = check.check_train(settings(cfg))
    plain["data"] = runs.with_absolute_places(plain["data"], Path.cwd())
    if not (folder := str(cfg.hydra.run.dir).strip()):
        raise UserError("hydra.run.dir= is empty; give a folder, or remove it")
    return begin(plain, Path(folder).expanduser().absolute(), command)


def _forced(words: list[str]) -> list[str]:
    """Overrides of the run's data with a leading ++, since the default config may lack these keys."""
    return [f"++{word}" if word.startswith("data.") else word for word in words]


def _evaluate(words: list[str]) -> int:
    cfg = compose("evaluate", _forced(words))
    if cfg is None:
        return 0
    if cfg.hydra.mode == RunMode.MULTIRUN:
        raise UserError("evaluate.py does not support -m; give run=<run folder>, or runs=<folder of runs> to compare runs")
    plain = check.check_evaluate(settings(cfg))
    if (plain["run"] is None) == (plain["runs"] is None):
        raise UserError("evaluate.py needs exactly one of run=<run folder> and runs=<folder of runs>; give one of them")
    if plain["runs"] is not None:
        if plain["predict"] is not None:
            raise UserError("predict= needs one model; give run=<run folder> instead of runs=")
        loads = ("data", "device", "trust") if plain["evaluation"]["level"] == "full" else ()
        _only(cfg, "runs=", "runs", "out", "export", "columns", "evaluation", *loads)
        from vae_zoo.reports.leaderboard import leaderboard_command as command
    else:
        check.check_trust(runs.read_config(Path(plain["run"]).expanduser()), plain["trust"])  # before the imports
        if plain["predict"] is not None:
            _only(cfg, "predict=", "run", "predict", "out", "device", "trust")
            from vae_zoo.runs.predict import predict_command as command
        else:
            _only(cfg, "run=", "run", "out", "inception", "evaluation", "data", "device", "trust")
            from vae_zoo.runs.evaluate import evaluate_command as command
    command(plain)
    return 0


def _only(cfg: DictConfig, what: str, *read: str) -> None:
    """Raises UserError if a setting was typed that is not read for what is asked, which would have no effect."""
    for word in typed(cfg, "task"):
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in read:
            raise UserError(f"{key} has no effect with {what}; remove it")


def _explore(words: list[str]) -> int:
    cfg = compose("explore", _forced(words))
    if cfg is None:
        return 0
    if cfg.hydra.mode == RunMode.MULTIRUN:
        raise UserError("explore.py does not support -m; give run=[<folder>,<folder>] to compare runs")
    plain = check.check_explore(settings(cfg))
    for folder in [plain["run"]] if isinstance(plain["run"], str) else plain["run"]:
        check.check_trust(runs.read_config(Path(folder).expanduser()), plain["trust"])  # before the imports
    from vae_zoo.explorer.command import explore_command

    explore_command(plain)
    return 0


def _export(words: list[str]) -> int:
    cfg = compose("export", _forced(words))
    if cfg is None:
        return 0
    if cfg.hydra.mode == RunMode.MULTIRUN:
        raise UserError("export.py does not support -m; give run=<run folder>")
    plain = check.check_export(settings(cfg))
    if plain["format"] == "safetensors" or plain["push"] is not None:
        _only(cfg, "safetensors", "run", "format", "out", "push", "uint8", "trust")  # of which `export` refuses uint8
    check.check_trust(runs.read_config(Path(plain["run"]).expanduser()), plain["trust"])  # before the imports
    from vae_zoo.runs.export import export_command

    export_command(plain)
    return 0


def _exit_code(command: Callable[[list[str]], int], remedy: str) -> int:
    """Runs a command and returns its exit code. remedy: see `explain`."""
    tolerant_streams()
    wait_briefly()
    try:
        return command(sys.argv[1:])
    except KeyboardInterrupt:
        return 130
    except sweeps.Stopped:
        return 143
    except Exception as error:
        message = explain(error, remedy)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        if message is None:
            return 1
        print(f"error: {message}", file=sys.stderr)
        return 2
    finally:
        HydraConfig.instance().cfg = None
        GlobalHydra.instance().clear()
