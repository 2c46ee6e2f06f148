"""The commands of README, Start and How to run as they are typed, but for two steps of training (slow).

What a page assumes is made first: a folder of pictures, a table of labels, finished runs. LEFT_OUT has what is not run.
"""

import csv
import re
import shlex
from pathlib import Path
from urllib.request import urlopen

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.cli.test_docs import FENCE, PAGES
from tests.commands import run, served

LEFT_OUT = {
    "--config-dir": "code of the reader's own: tests/cli/test_contributing.py runs that of CONTRIBUTING.md",
    "launcher=ray": "a cluster",
    "launcher=submitit_slurm": "a cluster",
    "push=": "an account; tests/runs/test_share.py pushes to a server on this machine",
    "logger=wandb": "an account; logger=wandb_offline is run",
    "data.root=": "a download; tests/data reads small files in the published format",
    "resume=first": "a run of the reader's own code",
    "run=first": "a run of the reader's own code",
    "vae_zoo.cli.workspace": "an account",
    **dict.fromkeys(
        (
            "data.path=dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
            "data.path=3dshapes.h5",
            "data.path=cars3d.npz",
            "data.path=mpi3d_toy.npz",
            "data.path=ylecun/mnist",
        ),
        "a download; tests/data/sets reads small files in these forms",
    ),
}
SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.accelerator=cpu", "callbacks=none"]
TRIALS = {"hydra.sweeper.trials=40": "hydra.sweeper.trials=2", "callbacks.metrics.every_n_steps=500": None}
RUN, SWEEP = re.compile(r"outputs/<name>/seed0_<hash>|<run>"), re.compile(r"outputs/sweeps/\w+_<hash>")


def typed(page: str) -> list[str]:
    """Each command of a page that begins with python, with what `home` has in place of what the reader fills in."""
    text = "\n".join(FENCE.findall(PAGES[page])).replace("\\\n", " ")
    lines = [SWEEP.sub("outputs/sweeps/mine", RUN.sub("outputs/mine/seed0", line)) for line in text.splitlines()]
    lines = [re.sub(r"<folder[^>]*>", "new_images", line) for line in lines if line.startswith("python ")]
    return [shlex.join(shlex.split(line, comments=True)[1:]) for line in lines]


def left_out(line: str) -> bool:
    return any(word == out or (out[-1] in "=." and word.startswith(out)) for word in shlex.split(line) for out in LEFT_OUT)


SHOWN = [page for page in PAGES if page == "README.md" or page.startswith(("start/", "how_to/"))]
COMMANDS = sorted({line for page in SHOWN for line in typed(page) if not left_out(line)})


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder as the pages assume it: pictures in class folders, labels of some, a run and a sweep."""
    folder = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    names = []
    for place in ("my_images", "new_images"):
        for label in ("cat", "dog"):
            (folder / place / label).mkdir(parents=True)
            for i in range(80 if place == "my_images" else 3):  # 128 train
                name = Path(label) / f"{i:06d}.png"
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / place / name)
                names += [name] if place == "my_images" else []
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "hair", "beard", "hat"])
        rows.writerows([name, i % 4, i % 2, ""] for i, name in enumerate(names))
    with (folder / "my_images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "angle"])
        rows.writerows([name, name.parent, i / 7] for i, name in enumerate(names))
    images, factors = rng.integers(0, 256, (90, 3, 32, 32), dtype=np.uint8), rng.integers(0, 3, (90, 3))
    np.savez(folder / "mine.npz", images=images, factors=factors, factor_names=["shape", "x", "angle"])
    pixels = [{"bytes": (folder / "my_images" / name).read_bytes(), "path": None} for name in names]
    table = datasets.Dataset.from_dict({"image": pixels, "label": [i % 2 for i in range(len(names))]})
    (folder / "my_parquet_folder").mkdir()
    table.cast_column("image", datasets.Image()).to_parquet(folder / "my_parquet_folder" / "train.parquet")
    run(folder, "train", "experiment=mfcvae/digits", "hydra.run.dir=outputs/mine/seed0", *SHORT)
    run(folder, "train", "-m", "model=vae", "data=digits", "seed=0,1", "sweep.name=mine", *SHORT)
    return folder


def test_the_pages_have_commands_that_run():
    assert len(COMMANDS) > 25
    words = {word for page in SHOWN for line in typed(page) for word in shlex.split(line)}
    assert all(any(word.startswith(out) for word in words) for out in LEFT_OUT), "a reason that no page needs any more"


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_runs(line, home):
    assert "<" not in line, f"say in `home` what stands for the name in {line}"
    script, *words = shlex.split(line)
    words = [word for word in (TRIALS.get(word, word) for word in words) if word]
    if script == "train.py" and "--help" not in words:
        steps = [word for word in words if word.startswith("trainer.max_steps=")]
        words = [word for word in words if word not in steps]
        resumed = any(word.startswith("resume=") for word in words)
        words += ["trainer.max_steps=4"] * bool(steps) if resumed else SHORT
    if script == "explore.py":  # which ends with Ctrl-C
        with served(home, *words) as address:
            assert urlopen(address, timeout=60).status == 200
        return
    done = run(home, script.removesuffix(".py"), *words, VAE_ZOO_CACHE=str(Path.home() / ".cache" / "vae_zoo"))
    assert "Traceback" not in done.stdout + done.stderr
