"""A disk that is full at each kind of write, a read-only home and a read-only cache."""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.chaos.phases import filled_at
from tests.cli.calls import FORKS
from tests.commands import command, environment
from tests.runs.test_train import assert_same_run

TINY = (
    "data=digits data.subset=100 data.val_size=40 data.test_size=40 model/network=mlp model.network.hidden=[8] trainer=cpu "
    "trainer.max_steps=12 data.batch_size=8 trainer.val_check_interval=6 trainer.log_every_n_steps=2 "
    "callbacks.checkpoint.every_n_steps=3 callbacks.figures.every_n_steps=6 logger=tensorboard model=vae"
)
MOUNTS = os.geteuid() == 0 and shutil.which("mount") is not None
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MOUNTS, reason="only root can mount a small file system")]

KINDS = {  # {kind: (module, function, which call finds the disk full)}
    "config": ("vae_zoo.runs.folder", "write_config", 1),
    "state": ("vae_zoo.runs.folder", "write_status", 1),
    "checkpoint": ("vae_zoo.training.trainer", "Trainer.save_checkpoint", 3),
    "history": ("vae_zoo.training.loggers", "MetricsCSV.save", 2),
    "figure": ("vae_zoo.training.callbacks.figures", "log_image", 1),
    "numbers": ("vae_zoo.runs.train", "write_json", 1),
    "report": ("vae_zoo.reports.report", "write_report", 1),
}


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run on a disk with space."""
    folder = tmp_path_factory.mktemp("whole")
    assert trained(folder, f"train {TINY} hydra.run.dir=run") == 0, (folder / "said.txt").read_text()
    return folder / "run"


def trained(folder: Path, line: str, *full: object) -> int | None:
    child = FORKS.Process(target=filled_at, args=(folder, line, *full))
    child.start()
    child.join()
    return child.exitcode


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_with_space(kind, whole, tmp_path):
    with mounted(tmp_path / "disk", "size=16m") as disk:
        line = f"train {TINY} hydra.run.dir={disk}/run"
        code = trained(tmp_path, line, disk, *KINDS[kind])
        said = (tmp_path / "said.txt").read_text()
        told = [text for text in said.splitlines() if "No space left on device" in text]
        assert code in (1, 2) and len(told) == 1 and told[0].startswith("error: ") and "Traceback" not in said, said
        assert re.search(
            r"cannot be written \(No space left on device\); (make space, then continue|choose another)", told[0]
        )
        assert not half_written(disk / "run")
        (disk / "filler").unlink()
        if (disk / "run" / "checkpoints" / "last.ckpt").is_file():
            line = f"train resume={disk}/run"
        assert trained(tmp_path, line) == 0, (tmp_path / "said.txt").read_text()
        assert_same_run(whole, disk / "run")


def half_written(run: Path) -> list[Path]:
    """Temporary files, checkpoints that cannot be loaded and tables whose last line is cut."""
    files = [path for path in run.rglob("*") if path.is_file()]
    found = [path for path in files if path.name.startswith(".") and path.name != ".lock"]
    for path in files:
        if path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        if path.suffix in (".csv", ".json") and not path.read_bytes().endswith(b"\n"):
            found.append(path)
    return found


def test_a_cache_without_space_or_rights_costs_time_only(tmp_path):
    words = f"train {TINY} hydra.run.dir=run".replace("data=digits data.subset=100", "data=scenes data.train_size=100")
    for options in (("size=64k",), ("ro",)):
        with mounted(tmp_path / "cache", *options):  # where `call` puts VAE_ZOO_CACHE
            code = trained(tmp_path, words)
        assert code == 0 and "Traceback" not in (tmp_path / "said.txt").read_text(), (tmp_path / "said.txt").read_text()
        shutil.rmtree(tmp_path / "run")


def test_a_home_that_is_read_only(tmp_path):
    """In a process of its own, since libraries look for their folders when they are imported."""
    with mounted(tmp_path / "home", "ro") as home:
        variables = {"HOME": str(home), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "MPLCONFIGDIR": "", "VAE_ZOO_CACHE": ""}
        kept = {name: value for name, value in environment(HOME=variables["HOME"]).items() if variables.get(name) != ""}
        words = command("train", *TINY.split(), "hydra.run.dir=run")
        done = subprocess.run(words, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()
