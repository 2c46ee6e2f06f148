"""The run folder: its name, its files and its lock. Imports neither torch nor lightning."""

import csv
import datetime
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, cast

import yaml

from vae_zoo.config.renamed import as_today
from vae_zoo.config.settings import known
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import lock, read_dict, write_atomic, write_json
from vae_zoo.utils.launch import noted
from vae_zoo.utils.text import override

PLACES = ("root", "path", "cache", "labels_from", "table")  # settings of the data that contain a path
NO_CONTENT = ("root", "cache", "download")  # settings that do not determine the data
CONTENTS = (
    "config.yaml metrics.csv metrics.json run.json report.html error.txt checkpoints figures evaluation tensorboard "
    "wandb wandb_id export hub"
).split()
EARLIER = "evaluation_of_step_"  # folders with evaluations of a model that was trained further
NUMBERS = "metrics_of_step_"  # files with the numbers of such a model at the end of its training


class Busy(UserError):
    """Another process holds the run's lock."""


def config_hash(cfg: dict[str, Any]) -> str:
    """8 hexadecimal digits that identify model, data, trainer, seed and callbacks of the user's own, not logger, launcher or
    location of the data."""
    parts = {"model": cfg["model"], "data": placeless(cfg["data"], _contents), "trainer": cfg["trainer"]}
    parts |= own_callbacks(cfg)
    text = json.dumps(as_equal({**parts, "seed": cfg["seed"]}), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def own_callbacks(cfg: dict[str, Any]) -> dict[str, Any]:
    """{"callbacks": those that are not of this package, which may change the training}, or {} if there are none."""
    nodes = {name: node for name, node in (cfg.get("callbacks") or {}).items() if isinstance(node, dict)}
    own = {name: node for name, node in nodes.items() if not str(node.get("_target_")).startswith("vae_zoo.")}
    return {"callbacks": own} if own else {}


def places(data: dict[str, Any]) -> list[str]:
    """Returns the settings that contain a path: PLACES, and any other path, such as a folder of sprites."""
    types = known().get(data.get("_target_", ""), {}).get("types", {})
    names = {key for key, hint in types.items() if hint == "PathOrName" and not os.path.exists(str(data.get(key)))}
    texts = [key for key, value in data.items() if isinstance(value, str) and key != "_target_"]
    return [key for key in texts if key in PLACES and key not in names or _is_path(data[key])]


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~", "./", "../")) or ("/" in text and os.path.exists(text))


def with_absolute_places(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """Makes the paths in the config of the data absolute. base: the folder in which the command was typed."""
    return data | {key: os.path.abspath(base / os.path.expanduser(data[key])) for key in places(data)}


def placeless(data: dict[str, Any], name: Callable[[str], Any] = os.path.basename) -> dict[str, Any]:
    """Returns the config of the data without their location: `name` replaces each path by a name of its contents."""
    held = {key: name(os.path.normpath(os.path.expanduser(data[key]))) for key in places(data)}
    return {key: value for key, value in (data | held).items() if key not in NO_CONTENT}


def _contents(path: str) -> list[Any]:
    """Identifies the contents of a path: its last name, with the names in the folder or the size of the file."""
    inside: Any = None
    with suppress(OSError):
        inside = sorted(os.listdir(path)) if os.path.isdir(path) else os.path.getsize(path)
    return [os.path.basename(path), inside]


def digests(data: dict[str, Any]) -> dict[str, str]:
    """{setting: 4 hexadecimal digits of what is at its path}, which tell apart data of one name in several folders."""
    found = {key: _contents(os.path.expanduser(data[key]))[1] for key in places(data) if key not in NO_CONTENT}
    texts = {key: json.dumps(inside) for key, inside in found.items() if inside is not None}
    return {key: hashlib.sha256(text.encode()).hexdigest()[:4] for key, text in texts.items()}


def as_equal(value: Any) -> Any:
    """Replaces 4.0 by 4, so that equal numbers have equal text."""
    if isinstance(value, dict):
        return {k: as_equal(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_equal(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_name(cfg: dict[str, Any], choices: dict[str, Any]) -> str:
    """`<experiment, or model-data>/seed<k>_<hash8>`; every other character becomes '-'."""
    name = choices.get("experiment") or f"{choices['model']}-{choices['data']}"
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', str(name))}/seed{cfg['seed']}_{config_hash(cfg)}"


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a run. Raises UserError if the folder is not a run or its config cannot be read."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} is not a run folder: it has no config.yaml; give a folder such as outputs/<name>/seed0_<hash>"
        )
    try:
        config = _parsed(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', None)})" if mark else ""
        raise UserError(f"{path} is damaged{where}; restore it or train again") from error
    if not isinstance(config, dict) or not all(isinstance(config.get(k), dict) for k in ("model", "data", "trainer")):
        raise UserError(f"{path} lacks model, data or trainer; restore it or train again")
    return as_today(config)


def _parsed(text: str) -> Any:
    """YAML by the parser in C, a fifth of the time, which refuses bytes that are not UTF-8 in names of files."""
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.safe_load(text)


def write_config(folder: Path, cfg: dict[str, Any]) -> None:
    write_atomic(Path(folder) / "config.yaml", yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True))


def change(cfg: dict[str, Any], group: str, key: str, value: Any) -> None:
    """Changes a setting of a run's config. Raises UserError if the run lacks it, or if it changes the data."""
    if key not in cfg[group]:
        raise UserError(f"{group}.{key} is not a setting of this run, whose {group} has no {key}; remove it")
    allowed = places(cfg["data"])
    if group == "data" and (key not in allowed or not isinstance(value, str)):
        options = ", ".join(f"data.{name}=<path>" for name in allowed) or "nothing"
        raise UserError(f"data.{key} cannot be changed, since the data would differ; only {options} can be given")
    cfg[group][key] = value


def read_status(folder: Path) -> dict[str, Any]:
    """run.json, or {} if there is none."""
    return read_dict(Path(folder) / "run.json")[0]


def write_status(folder: Path, **changes: Any) -> None:
    """state is one of running, finished, `stopped: <limit>`, failed, interrupted, pruned."""
    write_json(Path(folder) / "run.json", read_status(folder) | changes)


def is_over(state: Any) -> bool:
    """Whether a run in this state was trained and evaluated: it has all its steps, or a limit such as max_time ended it."""
    return state == "finished" or str(state).startswith("stopped: ")


def is_finished(folder: Path) -> bool:
    """Whether nothing is left to do; a run that was killed while it wrote its report is not finished."""
    there = all((Path(folder) / name).is_file() for name in ("metrics.json", "report.html"))
    return is_over(read_status(folder).get("state")) and there


def stop_sentence(folder: Path, limit: dict[str, Any], cfg: dict[str, Any]) -> str:
    """Why and at which step a run has stopped early, and how to continue it. limit: from its run.json."""
    name, trainer, word = limit.get("name"), cfg["trainer"], override("resume", folder)
    setting = f"trainer.{name}" if name in trainer else None
    reason, more = (f"{setting}={trainer[name]}", f" {setting}=<more, or null>") if setting else ("a callback", "")
    where = f"at step {limit.get('step')} of {trainer.get('max_steps')}"
    return f"stopped by {reason} {where}; continue with: python train.py {word}{more}"


def nothing_left(folder: Path, cfg: dict[str, Any]) -> str | None:
    """Message for a run that is over, if this config, which may differ from that of the run, needs no further training."""
    status, own = read_status(folder), read_config(folder)
    if not is_finished(folder):
        return None
    if limit := status.get("limit"):
        same = limit["name"] in own["trainer"] and own["trainer"][limit["name"]] == cfg["trainer"][limit["name"]]
        return f"nothing to do: {stop_sentence(folder, limit, own)}" if same else None
    steps = own["trainer"]["max_steps"]
    if cfg["trainer"]["max_steps"] != steps:
        return None
    return f"nothing to do: the run has completed all {steps} steps and its evaluation; see {folder}/report.html"


def has_checkpoint(folder: Path) -> bool:
    return (folder / "checkpoints" / "last.ckpt").is_file()


def how_to_go_on(folder: Path) -> str:
    """How to continue a run that was cut short."""
    if has_checkpoint(folder):
        return f"continue with: python train.py {override('resume', folder)}"
    return "it had no checkpoint yet; start it again with its command"


def can_go_on(folder: Path, cfg: dict[str, Any]) -> bool:
    """Whether the folder has an interrupted run with the same config and a checkpoint to resume from."""
    cut_short = read_status(folder).get("state") in ("running", "interrupted", "pruned")
    return cut_short and has_checkpoint(folder) and is_of(folder, cfg)


def is_of(folder: Path, cfg: dict[str, Any]) -> bool:
    """Whether the run in the folder has this config."""
    try:
        own = read_config(folder)
        same_place = {key: cfg["data"].get(key) for key in places(own["data"])}  # they may have been moved
        return config_hash(own | {"data": own["data"] | same_place}) == config_hash(cfg)
    except (UserError, KeyError):  # damaged
        return False


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; [] if it does not exist. A last line that was truncated by a full disk is ignored."""
    if not path.is_file():
        return []
    with path.open(newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(line for line in file if line.endswith("\n")))


def block_scores(numbers: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """`test/block/<block>/<factor>` as {block: {factor: score}}; None if a block has no score for a factor."""
    rows = defaultdict(dict)
    for key, value in numbers.items():
        match key.split("/", 3):
            case "test", "block", block, factor:
                rows[block][factor] = value
    factors = dict.fromkeys(factor for row in rows.values() for factor in row)
    return {block: {factor: row.get(factor) for factor in factors} for block, row in rows.items()}


def pictures(folder: Path) -> dict[tuple[str, str], dict[int, Path]]:
    """{(name, suffix): {step: file}} of the figures `<name>_<step>.png`, .gif and .webp; step -1 if a name has none."""
    found = defaultdict(dict)
    for path in sorted(folder.glob("*")):
        if path.suffix in (".png", ".gif", ".webp") and path.is_file():
            name, step = cast(re.Match, re.fullmatch(r"(?s)(.+?)(?:_(\d+))?", path.stem)).groups()
            found[name, path.suffix][int(step or -1)] = path
    return found


def set_evaluation_aside(folder: Path, step: int) -> None:
    """Renames the evaluation and the numbers of the model of an earlier step, which would else be taken for those of the
    present one. step: of an evaluation that does not say its own."""
    if (folder / "metrics.json").is_file():
        os.replace(folder / "metrics.json", folder / f"{NUMBERS}{_step_of(folder, step)}.json")
    if (folder / "evaluation").is_dir():
        old = folder / f"{EARLIER}{_step_of(folder / 'evaluation', step)}"
        shutil.rmtree(old, ignore_errors=True)
        (folder / "evaluation").rename(old)


def read_evaluation(folder: Path, metrics: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The numbers of the last `evaluate.py`, and what is wrong with them, as {}: damaged, or of the model of another step
    than `metrics`, those of the end of training."""
    later, flaw = read_dict(folder / "evaluation" / "metrics.json")
    steps, of_run = later.get("train/steps"), metrics.get("train/steps")
    if None not in (steps, of_run) and steps != of_run:
        return {}, f"metrics.json is of the model of step {steps:g}"
    return later, flaw


def _step_of(folder: Path, otherwise: int) -> int:
    steps = read_dict(folder / "metrics.json")[0].get("train/steps", otherwise)
    return int(steps) if isinstance(steps, int | float) else otherwise


def contents(folder: Path) -> list[Path]:
    """The files and folders of a run."""
    earlier = [*folder.glob(f"{EARLIER}*"), *folder.glob(f"{NUMBERS}*.json")]
    return [folder / name for name in CONTENTS if (folder / name).exists()] + earlier


def check_room(folder: Path) -> None:
    """Raises UserError if the folder has files that a run would replace, but that are not those of a run."""
    if not (folder / "config.yaml").is_file():
        if others := [path.name for path in contents(folder) if path.name != "error.txt"]:  # which a refused job leaves
            raise UserError(
                f"{folder} is not a run folder, but has {others[0]}, which a run would replace; choose another one"
            )


def set_aside(folder: Path) -> Path | None:
    """Moves the files of an earlier run to `previous/`, and those of `previous/` to `previous.old/`.

    A run that was cut short never takes the place of one that was finished: without a checkpoint it is deleted if
    `previous/` exists, and as `previous/` it is deleted if `previous.old/` exists.
    """
    found = contents(folder)
    if not (folder / "config.yaml").is_file():
        return None
    previous, older = folder / "previous", folder / "previous.old"
    if previous.is_dir():
        if not has_checkpoint(folder) and not is_over(read_status(folder).get("state")):
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return None
        if older.is_dir() and not is_over(read_status(previous).get("state")):
            shutil.rmtree(previous)
        else:
            forget_older(folder)
            os.replace(previous, older)
    previous.mkdir()
    for path in found:
        os.replace(path, previous / path.name)
    return previous


def forget_older(folder: Path) -> None:
    """Deletes `previous.old/`."""
    shutil.rmtree(folder / "previous.old", ignore_errors=True)


def put_back(folder: Path, before: set[Path], previous: Path | None, new: list[Path]) -> None:
    """Undoes `set_aside`, and removes the files of the run that are not in `before`; then removes the lock and the folders
    created for this run (`new`, deepest first), unless others use them."""
    for path in set(contents(folder)) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if previous is not None:
        for path in previous.iterdir():
            os.replace(path, folder / path.name)
        previous.rmdir()
        if (folder / "previous.old").is_dir():
            os.replace(folder / "previous.old", previous)
    for path in new:
        if path.is_file():
            path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Holds the lock of the run; it is released when this process and those that inherit the file have ended. Checks
    followed by changes of the folder, and training, need this lock. Raises Busy if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        for attempt in range(5):  # a leaderboard that reads the folder holds the lock for an instant
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 4:
                    file.seek(0)
                    owner = file.read().strip()
                    raise Busy(f"{folder} is being trained by {owner}; wait for it or stop it") from None
                time.sleep(0.02)
        sign(file, os.getpid())
        yield file


def sign(lock: IO[str], pid: int) -> None:
    """Writes process id and host of the owner into the lock file."""
    lock.truncate(0)
    lock.write(f"process {pid} on {socket.gethostname()}")
    lock.flush()


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock; tested with a short shared lock, without creating the file."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def command_line() -> str:
    name = Path(sys.argv[0]).name
    return shlex.join([*(["python"] if name.endswith(".py") else []), name, *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Versions, hardware and commit, which are needed to repeat the run."""
    versions = {"python": platform.python_version()}
    for package in ("vae_zoo", "torch", "torchvision", "lightning", "hydra-core", "numpy", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = ""
    with suppress(OSError):  # git is not installed
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {platform.system()}",
        "variables": noted(),
        **({"commit": commit} if commit else {}),
    }
