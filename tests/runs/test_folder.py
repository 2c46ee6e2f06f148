"""What makes two runs one run: the hash of their configs, and the name of their folder."""

import re

import pytest

from tests.config.test_schemas import composed
from vae_zoo.runs import folder as runs
from vae_zoo.runs.record import read_record

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
