"""The papers' settings: `experiment=paper/*` and `sweep=paper/*` compose, and run on small files in the published formats.

`pytest -m paper` trains ten steps of each.
"""

import json
import re

import h5py
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import savemat

from tests.cli.calls import call
from tests.cli.test_docs import composed
from vae_zoo import config_dir
from vae_zoo.cli import compose
from vae_zoo.config import check
from vae_zoo.config.renamed import MOVED_CHOICES
from vae_zoo.data.render import rooms

EXPERIMENTS = sorted(f"paper/{path.stem}" for path in (config_dir() / "experiment" / "paper").glob("*.yaml"))
SWEEPS = sorted(f"paper/{path.stem}" for path in (config_dir() / "sweep" / "paper").glob("*.yaml"))
SWEEPS = [name for name in SWEEPS if "parity" not in name]  # the official codes' short runs instead of a table of a paper
CELEBA = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry
Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie
Young
""".split()


def header(experiment: str) -> str:
    text = (config_dir() / "experiment" / f"{experiment}.yaml").read_text()
    return " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))


# ---- what is written down -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_paper_setting_passes_the_check_and_says_how_to_run_it(experiment):
    cfg = check.check_train(compose.settings(composed("train", [f"experiment={experiment}"])))
    assert f"python train.py experiment={experiment}" in header(experiment)
    inherited = re.search(r"paper/\w+", header(experiment).partition("python train.py")[0])
    assert "Deviations:" in header(experiment) or inherited, "the header lists what differs, or the setting that it is like"
    assert cfg["trainer"]["max_steps"] >= 10_000


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_of_a_paper_names_its_rows(sweep):
    params = composed("train", [f"sweep={sweep}"]).hydra.sweeper.params
    rows = params.experiment.split(",")
    assert {*rows} <= {*EXPERIMENTS} and len(rows) == len({*rows}) and params.seed.startswith("range(0,")


def test_the_sweeps_beside_the_official_codes_have_all_their_experiments_fresh_seeds_and_their_updates():
    updates = {"ml_vae": 2440, "parted_vae": 1570, "mfcvae": 1600}  # of the official codes, results/official.json
    found = set()
    for sweep, share in (("paper/parity", 1), ("paper/parity_half", 2)):
        params = composed("train", [f"sweep={sweep}"]).hydra.sweeper.params
        assert params.seed == "range(20,25)"
        for experiment in params.experiment.split(","):
            method = re.match(r"parity/([a-z]+_vae|[a-z]+)", experiment)[1]
            assert composed("train", [f"experiment={experiment}"]).trainer.max_steps == updates[method] // share
            found.add(experiment)
    assert found == {f"parity/{f.stem}" for f in (config_dir() / "experiment" / "parity").glob("*.yaml")}


@pytest.mark.parametrize("name", MOVED_CHOICES)
def test_old_names_are_refused_with_the_new_one(name, tmp_path):
    group, _, choice = name.partition("/")
    answer = call(tmp_path, f"train {group}={choice}")
    assert answer.code == 2 and f"{group}={choice} is now {MOVED_CHOICES[name]};" in answer.err
    new = MOVED_CHOICES[name].partition("=")
    assert (config_dir() / new[0] / f"{new[2]}.yaml").is_file()


def test_labels_of_the_sweep_are_the_budgets_of_the_code():
    params = OmegaConf.load(config_dir() / "sweep" / "paper" / "parted_vae_labels.yaml").hydra.sweeper.params
    assert params["data.labelled"] == "100,737,1000,3686,10000"


# ---- ten steps of each ----------------------------------------------------------------------------------------------


def write_mnist(root, rng):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in {"train": 700, "t10k": 100}.items():
        images, label = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for file, array in {f"{name}-images-idx3-ubyte": images, f"{name}-labels-idx1-ubyte": label}.items():
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / file).write_bytes(head + array.tobytes())


def write_svhn(root, rng):
    for name, count in {"train": 300, "extra": 100, "test": 80}.items():
        digits = np.arange(count)[:, None] % 10 + 1  # 0 is called 10
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        savemat(root / f"{name}_32x32.mat", {"X": images, "y": digits.astype(np.uint8)})


def write_celeba(root, rng):
    folder, count = root / "celeba", 120
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
    for name in names:
        noise = Image.fromarray(rng.integers(0, 256, (11, 9, 3), dtype=np.uint8))
        noise.resize((178, 218)).save(folder / "img_align_celeba" / name)
    split = np.repeat([0, 1, 2], [80, 20, 20])
    person = np.arange(count) // 10 + 1
    signs = np.where(rng.random((count, 40)) < 0.5, 1, -1)
    rows = {"identity_CelebA.txt": person[:, None], "list_eval_partition.txt": split[:, None], "list_attr_celeba.txt": signs}
    for file, values in rows.items():
        lines = [f"{name} {' '.join(map(str, row))}" for name, row in zip(names, values)]
        head = [str(count), " ".join(CELEBA)] if values is signs else []
        (folder / file).write_text("\n".join([*head, *lines, ""]))


def write_dsprites(root, rng):
    places = np.stack(np.meshgrid([0], range(3), range(0, 6, 2), range(0, 40, 14), [0, 31], [0, 31], indexing="ij"), -1)
    places = places.reshape(-1, 6)
    np.savez(root / "dsprites.npz", imgs=rng.integers(0, 2, (len(places), 64, 64), dtype=np.uint8), latents_classes=places)


def write_shapes3d(root, rng):
    """The rooms of both configurations, seen from one side."""
    grid = np.stack(np.meshgrid(*map(range, (10, 10, 7, 8, 4, 1)), indexing="ij"), -1).reshape(-1, 6)
    grid = grid[(grid[:, 2] == 6) & ((grid[:, 0] == 0) | (grid[:, 1] == 5))]
    labels = np.stack([values[column] for values, column in zip(rooms.FACTOR_VALUES, grid.T)], axis=1)
    with h5py.File(root / "3dshapes.h5", "w") as file:
        file["images"] = rng.integers(0, 256, (len(grid), 64, 64, 3), dtype=np.uint8)
        file["labels"] = labels


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with small files in the form of every published one."""
    root, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    for write in (write_mnist, write_svhn, write_celeba, write_dsprites, write_shapes3d):
        write(root, rng)
    return root


SMALL = {  # by the data set: what small files need
    "MNIST": "data.root={root} data.val_size=60",
    "SVHN": "data.root={root} data.val_size=60",
    "CelebA": "data.root={root}",
    "DSprites": "data.path={root}/dsprites.npz data.val_size=12 data.test_size=24",
    "Shapes3D": "data.path={root}/3dshapes.h5 data.val_size=30",
}


@pytest.mark.paper
@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_ten_steps_on_files_of_the_published_form(experiment, published, tmp_path, small_evaluation):
    data = composed("train", [f"experiment={experiment}"]).data
    words = SMALL[data._target_.rpartition(".")[2]].format(root=published)
    words += " data.labelled=40" if data.labelled is not None else ""
    run = "trainer=cpu trainer.max_steps=10 callbacks=none data.batch_size=16 hydra.run.dir=run"
    answer = call(tmp_path, f"train experiment={experiment} {words} {run}")
    assert answer.code == 0, answer.err
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert numbers and all(np.isfinite(value) for value in numbers.values())
    suites = OmegaConf.load(tmp_path / "run" / "config.yaml").evaluation.suites
    for name in suites:  # the paper's own protocol gives numbers
        assert any(key.startswith(f"test/{name}/") for key in numbers), (name, sorted(numbers))
