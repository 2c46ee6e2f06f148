"""What makes two runs one run: the hash of their configs, and the name of their folder."""

import fcntl
import json
import re
import threading

import pytest

from tests.config.test_schemas import composed
from vae_zoo.runs import folder as runs
from vae_zoo.runs.record import read_record
from vae_zoo.utils.errors import UserError

CHOICES = {"model": "beta_vae", "data": "mnist", "experiment": None}
BASE = ["model=beta_vae", "data=mnist"]


def hash_of(*words: str) -> str:
    return runs.config_hash(composed(*BASE, *words))


@pytest.mark.parametrize(
    "words",
    [
        ["paths.outputs=/somewhere/else"],
        ["paths.data=/somewhere/else"],
        ["data.root=/somewhere/else"],
        ["data.download=false"],
        ["logger=tensorboard"],
        ["logger=wandb", "logger.wandb.tags=[a]"],
        ["callbacks=none"],
        ["callbacks.figures.every_n_steps=7"],
        ["evaluation.level=full"],
        ["sweep.rerun=true"],
        ["trust=[mine]"],
        ["+hydra.job.num=3"],
        ["hydra/launcher=basic"],
        ["model=beta_vae"],  # what is chosen anyway
        ["model.beta=4"],  # 4 is 4.0
    ],
)
def test_hash_does_not_cover(words):
    assert hash_of(*words) == hash_of()


@pytest.mark.parametrize(
    "word",
    [
        "model=vae",
        "model.beta=5",
        "model/network=mlp",
        "data.batch_size=32",
        "data.split_seed=1",
        "trainer.max_steps=9",
    ],
)
def test_hash_covers(word):
    assert hash_of(word) != hash_of()


def test_hash_covers_callbacks_of_ones_own():
    own = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    nodes = [f"+callbacks.mine={{_target_:{own},swa_lrs:{rate}}}" for rate in (0.1, 0.2)]
    assert len({hash_of(), *map(hash_of, nodes)}) == 3


def test_hash_covers_the_seed_and_tells_all_apart():
    hashes = [hash_of(f"seed={seed}", f"model.beta={beta}") for seed in range(3) for beta in (1, 2)]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    "experiment, folder",
    [
        (None, "beta_vae-mnist"),
        ("beta_vae/mnist_table-1", "beta_vae-mnist_table-1"),
        ("a b/c:d=e", "a-b-c-d-e"),
        ("Größe", "Gr-e"),
    ],
)
def test_names_are_safe_everywhere(experiment, folder):
    name = runs.run_name(composed(*BASE, "seed=7"), CHOICES | {"experiment": experiment})
    assert re.fullmatch(re.escape(folder) + r"/seed7_[0-9a-f]{8}", name)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", part) for part in name.split("/"))


def test_a_machine_without_git_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "commit" not in runs.environment()


@pytest.mark.parametrize("text", ["method: bayes\nparameters: {}\n", "[1, 2]\n", ""])
def test_the_sweep_file_of_another_program_has_no_jobs(text, tmp_path):
    (tmp_path / "sweep.yaml").write_text(text)
    assert read_record(tmp_path) == []


def test_digests_are_those_of_the_files_wherever_they_are(tmp_path):
    for place, size in (("here", 10), ("there", 10), ("other", 11)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "images.npz").write_bytes(b"x" * size)
    here, there, other = (
        runs.digests({"_target_": "x", "path": str(tmp_path / place / "images.npz"), "root": "/data"})
        for place in ("here", "there", "other")
    )
    assert here == there != other and here.keys() == {"path"}
    assert runs.digests({"_target_": "x", "path": "/nowhere/images.npz"}) == {}


def a_run(folder, name, state, checkpoint=True):
    """The files of a run that is told by its name."""
    folder.mkdir(exist_ok=True)
    for path in runs.contents(folder):
        path.unlink() if path.is_file() else None
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").write_text(name)
    (folder / "config.yaml").write_text(name)
    runs.write_status(folder, state=state, name=name)


def kept(folder):
    """The names of the runs in the folder, deepest last."""
    places = (folder, folder / "previous", folder / "previous.old")
    return [runs.read_status(place).get("name") for place in places]


def test_a_finished_run_outlives_repetitions_that_are_cut_short(tmp_path):
    a_run(tmp_path, "first", "finished")
    runs.set_aside(tmp_path)
    assert kept(tmp_path) == [None, "first", None]
    for stub in ("a", "b"):  # ended before their first checkpoint
        a_run(tmp_path, stub, "interrupted", checkpoint=False)
        assert runs.set_aside(tmp_path) is None
        assert kept(tmp_path) == [None, "first", None] and runs.contents(tmp_path) == []
    for part, wanted in (("c", ["c", "first"]), ("d", ["d", "first"])):
        a_run(tmp_path, part, "interrupted")
        runs.set_aside(tmp_path)
        assert kept(tmp_path)[1:] == wanted
    a_run(tmp_path, "last", "finished")
    runs.set_aside(tmp_path)
    assert kept(tmp_path)[1:] == ["last", "first"]


def test_files_that_are_not_those_of_a_run_are_not_replaced(tmp_path):
    (tmp_path / "error.txt").write_text("of a refused job")
    runs.check_room(tmp_path)
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(UserError, match="is not a run folder, but has metrics.csv, which a run would replace"):
        runs.check_room(tmp_path)
    (tmp_path / "config.yaml").touch()
    runs.check_room(tmp_path)


def test_a_refused_run_takes_only_its_own_files_away(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    before = set(tmp_path.iterdir())
    a_run(tmp_path, "refused", "failed")
    (tmp_path / "vae-digits").mkdir()  # of another command, meanwhile
    runs.put_back(tmp_path, before, None, [])
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "vae-digits"}


def test_numbers_of_another_step_are_not_those_of_the_run(tmp_path):
    (tmp_path / "evaluation").mkdir()
    place = tmp_path / "evaluation" / "metrics.json"
    place.write_text(json.dumps({"test/elbo": -1.0, "train/steps": 5.0}))
    assert runs.read_evaluation(tmp_path, {"train/steps": 5.0}) == ({"test/elbo": -1.0, "train/steps": 5.0}, "")
    assert runs.read_evaluation(tmp_path, {"train/steps": 300.0}) == ({}, "metrics.json is of the model of step 5")
    (tmp_path / "metrics.json").write_text(json.dumps({"train/steps": 300.0}))
    runs.set_evaluation_aside(tmp_path, 7)
    assert {path.name for path in runs.contents(tmp_path)} == {"evaluation_of_step_5", "metrics_of_step_300.json"}


def test_a_reader_of_the_lock_does_not_keep_a_run_from_starting(tmp_path):
    with (tmp_path / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        timer = threading.Timer(0.03, fcntl.flock, [file, fcntl.LOCK_UN])
        timer.start()
        with runs.locked(tmp_path):
            pass
        timer.join()
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(runs.Busy), runs.locked(tmp_path):
            pass
