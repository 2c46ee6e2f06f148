"""The two commands. Nothing heavy is imported before the config is known to be good."""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_zoo.cli.messages import explain
from vae_zoo.config import check, config_dir
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.utils.errors import UserError

OPTIONS = (  # of Hydra
    "-h --help --hydra-help --version -c --cfg --resolve -p --package -r --run -m --multirun -sc --shell-completion "
    "-cp --config-path -cn --config-name -cd --config-dir --experimental-rerun -i --info"
).split()
ELSEWHERE = {"train": "paths.outputs=<folder> or hydra.run.dir=<folder>", "evaluate": "out=<folder>"}
FOLLOW_SECONDS = 120  # that a rank waits for rank 0, whose imports may be slow
RESUMABLE = ("resume", "trainer.max_steps", "trainer.max_time", "logger", "data.root", "trust")


def train() -> int:
    """`python train.py`: one run, or with -m many. Returns the exit code."""
    codes: list[int] = []
    command, process, given = runs.command_line(), os.getpid(), sweeps.given()  # here: a launcher's workers have others

    def task(cfg: DictConfig) -> None:
        if _is_multirun():
            _sweep_job(cfg, command, process, given)
        else:
            codes.append(_train_task(cfg, command))

    sweeps.Outcome.code = 0
    if any(word.startswith("resume=") for word in sys.argv):  # of whatever data the run has
        sys.argv[1:] = [f"++{word}" if word.startswith("data.root=") else word for word in sys.argv[1:]]
    return _command("train", task) or max(codes, default=sweeps.Outcome.code)


def evaluate() -> int:
    """`python evaluate.py`. Returns the exit code."""

    def task(cfg: DictConfig) -> None:
        plain = check.check_evaluate(cfg)
        if (plain["run"] is None) == (plain["runs"] is None):
            raise UserError("say what to evaluate: run=<run folder>, or runs=<folder of runs>")
        if plain["runs"] is not None:
            if plain["predict"] is not None:
                raise UserError("predict= asks one model about images; give run=<run folder> in place of runs=")
            from vae_zoo.reports.leaderboard import leaderboard_command

            return leaderboard_command(plain)
        check.check_trust(runs.read_config(Path(plain["run"]).expanduser()), plain["trust"])  # before the imports
        if plain["predict"] is not None:
            from vae_zoo.runs.predict import predict_command

            return predict_command(plain)
        from vae_zoo.runs.evaluate import evaluate_command

        evaluate_command(plain)

    return _command("evaluate", task)


# ---- one run --------------------------------------------------------------------------------------------------------


def _train_task(cfg: DictConfig, command: str) -> int:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume is not None:
        return _resume(cfg, folder, command)
    plain = check.check_train(cfg)
    if runs.rank() > 0:
        return _follow(folder, plain, "--fresh", command)
    with runs.locked(folder) as lock:
        previous = _make_room(folder)
        before = set(folder.iterdir())
        runs.write_config(folder, plain)
        code = _start(folder, plain, "--fresh", command, lock)
        if code == 2:  # refused when the data were read: as if it had never been
            runs.put_back(folder, before, previous)
        else:
            runs.forget_older(folder)
    if code == 2:
        Traces.remove()
    return code


def _follow(folder: Path, cfg: dict[str, Any], how: str, command: str) -> int:
    """A rank that torchrun or srun has started: the folder is prepared, and locked, by rank 0."""
    wanted, until = yaml.safe_load(yaml.safe_dump(cfg)), time.monotonic() + FOLLOW_SECONDS
    while not (folder / "config.yaml").is_file() or runs.read_config(folder) != wanted:
        if time.monotonic() > until:
            raise UserError(
                f"rank {runs.rank()} waits for {folder}/config.yaml, which rank 0 has not written; see its output"
            )
        time.sleep(0.1)
    return _start(folder, cfg, how, command)


def _sweep_job(cfg: DictConfig, command: str, sweep: int, given: dict[str, str]) -> None:
    """One job of the sweep whose process is `sweep`, in whatever process the launcher gives it. How it ends is told by its
    folder; the others are ended by Ctrl-C, by SIGTERM to the sweep and by a broken launcher, not by a job that is killed.
    given: what the sweep had of its environment before the launcher changed it."""
    settings, folder = HydraConfig.get(), Path(HydraConfig.get().runtime.output_dir)
    launcher, in_worker = settings.launcher._target_, os.getpid() != sweep
    sweeps.restore(given, launcher)
    if in_worker and launcher.endswith("JoblibLauncher"):
        _end_with_parent()
    record = Path(settings.sweep.dir) / sweeps.RECORDS / cfg.sweep.name
    worker = record / sweeps.WORKERS / cfg.sweep.worker
    code, received = 2, None
    try:
        plain = check.check_train(cfg)
        jobs = _jobs_here(launcher, plain["sweep"]["jobs"])
        with sweeps.turn(record, jobs, plain["trainer"], launcher) as (environment, place):
            if sweeps.stop_code(worker) is not None:
                return
            with runs.locked(folder) as lock:
                how, code = _claim(folder, plain), 0
                if how is not None:
                    code, received = _start_process(folder, how, command, lock, place, environment)
                if how == "--fresh":
                    runs.forget_older(folder)
    except runs.Busy as error:
        print(f"running: {error}", flush=True)
        return
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sweeps.refuse(worker, folder, str(error))
    if received == signal.SIGINT or (received and not in_worker):
        sweeps.stop(worker, 128 + received)
    elif code and cfg.sweep.stop_on_failure:
        sweeps.stop(worker, 1)


def _jobs_here(launcher: str, jobs: int) -> int:
    """That share this machine. SLURM gives each job cores and GPUs of its own, and knows how many there are room for."""
    return 1 if launcher.endswith("SlurmLauncher") else jobs


def _end_with_parent() -> None:
    """joblib's workers would wait for ever for a command that was killed. A job that one of them has begun goes on."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if all(thread.name != "parent" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="parent", daemon=True).start()


def _claim(folder: Path, cfg: dict[str, Any]) -> str | None:
    """How a job of a sweep is to be started: None when it is done, --resume when it was cut short, else --fresh."""
    if not cfg["sweep"]["rerun"]:
        if runs.is_finished(folder):
            print(f"done before: {folder}", flush=True)
            return None
        if runs.can_go_on(folder, cfg):
            runs.write_config(folder, cfg)
            print(f"goes on: {folder}", flush=True)
            return "--resume"
    _make_room(folder)
    runs.write_config(folder, cfg)
    return "--fresh"


def _make_room(folder: Path) -> Path | None:
    if previous := runs.set_aside(folder):
        print(f"an earlier run with this config is now in {previous}", flush=True)
    return previous


def _resume(cfg: DictConfig, folder: Path, command: str) -> int:
    """Continues a run from its own config.yaml; of what stands on the command line only RESUMABLE may change it."""
    overrides = [o.lstrip("+~") for o in HydraConfig.get().overrides.task]
    for key in (o.partition("=")[0] for o in overrides):
        if key not in RESUMABLE and not key.startswith("logger."):
            allowed = ", ".join(RESUMABLE[1:])
            raise UserError(f"{key} cannot be changed by resume; drop it (only {allowed} may stand beside resume=)")
    plain = runs.read_config(folder)
    check.check_trust(plain, check.resolved(cfg)["trust"])
    try:
        check.check_train(OmegaConf.create(plain))
    except UserError as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}") from None
    changed = {o.partition("=")[0] for o in overrides}
    given = check.resolved(cfg)
    for group, key in (("trainer", "max_steps"), ("trainer", "max_time"), ("data", "root")):
        if f"{group}.{key}" in changed:
            runs.change(plain, group, key, given[group][key])
    if any(key.split(".")[0] == "logger" for key in changed):
        plain["logger"] = given["logger"]
    plain["trust"] = sorted({*plain.get("trust", []), *given["trust"]})
    check.check_train(OmegaConf.create(plain))
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        raise UserError(f"{folder} has no checkpoints/last.ckpt to resume from; train it anew")
    if runs.rank() > 0:
        return _follow(folder, plain, "--resume", command)
    with runs.locked(folder) as lock:
        before = (folder / "config.yaml").read_text()
        runs.write_config(folder, plain)
        code = _start(folder, plain, "--resume", command, lock)
        if code == 2:
            runs.write_atomic(folder / "config.yaml", before)
    return code


def _start(folder: Path, cfg: dict[str, Any], how: str, command: str, lock: IO[str] | None = None) -> int:
    """Here, unless the run has ranks, which replay the command that began the process and so must be given the composed
    config instead of overrides (hydra issue 2070). lock: of the folder, but for ranks that follow. Returns the exit code."""
    if cfg["trainer"].get("strategy", "auto").startswith("ddp"):
        return _start_process(folder, how, command, lock)[0]
    from vae_zoo.runs.train import main

    return main([str(folder), how, "--command", command])


def _start_process(
    folder: Path,
    how: str,
    command: str,
    lock: IO[str] | None = None,
    place: IO[str] | None = None,
    environment: dict[str, str] | None = None,
) -> tuple[int, int | None]:
    """The run as a process of its own, whose death is not this one's. Returns its exit code and the first signal that came
    to this process meanwhile. It inherits the lock of its folder and that of its turn, which so outlive this process."""
    received: list[int] = []
    process = None

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if signum == signal.SIGTERM and process is not None:  # Ctrl-C the terminal has sent to the job too
            process.send_signal(signum)

    earlier = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        words = [sys.executable, "-m", "vae_zoo.runs.train", str(folder), how, "--command", command]
        held = [file.fileno() for file in (lock, place) if file is not None]
        process = subprocess.Popen(words, env=os.environ | (environment or {}), pass_fds=held)
        if lock is not None:
            runs.sign(lock, process.pid)
        if signal.SIGTERM in received:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)
    if -code in (signal.SIGINT, signal.SIGTERM):  # before it could handle them
        code = 128 - code
    return code if code >= 0 else 1, received[0] if received else None


# ---- Hydra ----------------------------------------------------------------------------------------------------------


def _command(name: str, task: Callable[[DictConfig], None]) -> int:
    """Runs a task under Hydra and turns whatever happens into an exit code; Hydra itself would end with 1 for all."""
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    failures: list[Exception] = []

    def guarded(cfg: DictConfig) -> None:  # Hydra would first announce the failure in its own words
        try:
            task(cfg)
        except Exception as error:
            failures.append(error)

    HydraConfig.instance().cfg, Traces.new = None, []
    _make_importable()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing and leaving
    try:
        _check_options()
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(guarded)()
        if failures:
            raise failures[0]
    except KeyboardInterrupt:
        return 130
    except sweeps.Stopped:
        return 143
    except Exception as error:
        message = explain(error, ELSEWHERE[name])
        if message is None or full_error:
            traceback.print_exc()
        if message is None:
            return 1
        Traces.remove()
        print(f"error: {message}", file=sys.stderr)
        return 2
    finally:
        os.environ.pop("HYDRA_FULL_ERROR") if not full_error else None
    return 0


def _is_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _check_options() -> None:
    """Raises UserError for what argparse would answer with a page of usage, or Hydra only after making folders."""
    words = sys.argv[1:]
    for flag in (word.partition("=")[0] for word in words if word.startswith("-")):
        if not any(option.startswith(flag) for option in OPTIONS):
            raise UserError(
                f"{flag} is not an option; settings are written without dashes, such as model=beta_vae, and options "
                f"are --help, -m, --config-dir <folder> and --cfg job"
            )
    if any(word.startswith("resume=") for word in words) and {"-m", "--multirun"} & set(words):
        raise UserError("resume= continues one run and -m starts many; drop -m")


def _make_importable() -> None:
    """The user's own modules: from the working directory and beside the folder of --config-dir."""
    folders = [os.getcwd()]
    for flag, value in zip(sys.argv, [*sys.argv[1:], ""]):
        if flag in ("--config-dir", "-cd"):
            folders.append(str(Path(value).resolve().parent))
        elif flag.startswith("--config-dir="):
            folders.append(str(Path(flag.partition("=")[2]).resolve().parent))
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(p for p in sys.path if p))  # jobs and launchers' workers


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("vae_zoo.channels", lambda colour: 1 if colour == "grey" else 3, replace=True)
    OmegaConf.register_new_resolver("vae_zoo.run_name", _run_name, replace=True)
    OmegaConf.register_new_resolver("vae_zoo.run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("vae_zoo.tags", _tags, replace=True)
    OmegaConf.register_new_resolver("vae_zoo.expanded", _expanded, replace=True)
    OmegaConf.register_new_resolver("vae_zoo.jobs_at_once", _jobs_at_once, replace=True)


def _job_config(root: DictConfig) -> DictConfig:
    cfg = OmegaConf.masked_copy(root, [key for key in root if key != "hydra"])
    return cfg


def _run_name(*, _root_: DictConfig) -> str:
    return runs.run_name(check.resolved(_job_config(_root_)), _root_.hydra.runtime.choices)


def _run_folder(*, _root_: DictConfig) -> str:
    """The folder of a single run. Hydra makes it, so this is the last moment to refuse a config and leave no trace."""
    if _root_.resume is not None:
        folder = Path(str(_root_.resume)).expanduser()
        runs.read_config(folder)
        return str(folder)
    plain = check.check_train(_job_config(_root_))
    return str(Path(plain["paths"]["outputs"]).expanduser() / runs.run_name(plain, _root_.hydra.runtime.choices))


def _jobs_at_once(*, _root_: DictConfig) -> int:
    return sweeps.jobs_at_once(_root_.trainer)


def _expanded(path: str) -> str:
    return str(Path(str(path)).expanduser())


def _tags() -> list[str]:
    """What this run was told on the command line or by its sweep, as W&B's tags, which have 64 characters at most."""
    if not HydraConfig.initialized():
        return []
    words = (word.lstrip("+") for word in HydraConfig.get().overrides.task)
    return [word for word in words if len(word) <= 64 and not word.startswith((*sweeps.INCIDENTAL, "resume", "callbacks"))]


class Traces(Callback):
    """What Hydra is about to make, so that a command which is then refused leaves nothing behind."""

    new: list[Path] = []  # deepest first

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._note(config, "hydra.run.dir", ".lock")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self._note(config, "hydra.sweep.dir")

    @staticmethod
    def _note(config: DictConfig, key: str, *files: str) -> None:
        try:
            folder = Path(OmegaConf.select(config, key)).absolute()
        except (UserError, OmegaConfBaseException):  # will be told when Hydra asks
            return
        Traces.new = [p for p in (*(folder / f for f in files), folder, *folder.parents) if not p.exists()]

    @staticmethod
    def remove() -> None:
        for path in Traces.new:
            if path.is_file():
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()


register_resolvers()  # at import, since a launcher's workers import this module and compose the config again
