"""Runs whose data have moved, or that go on on another machine."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.cli.calls import TINY, call, contents
from vae_zoo.runs import folder as runs

FOLDER = "data=image_folder data.path=pictures data.size=16 data.val_size=4 data.test_size=4 data.batch_size=4 "
WORDS = f"{TINY} {FOLDER} model=vae".replace("data=digits ", "")


def draw(folder: Path, names=range(16)) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def config(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def in_config(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))


def test_run_goes_on_and_is_evaluated_where_its_pictures_have_moved_to(tmp_path):
    """They were named relative to where the command was typed."""
    typed, labels = tmp_path / "typed", "image,label\n" + "".join(f"{i},{i % 2}\n" for i in range(16))
    draw(typed / "pictures")
    (typed / "labels.csv").write_text(labels)
    answer = call(typed, f"train {WORDS} data.labels_from=labels.csv data.num_classes=2 hydra.run.dir=run")
    assert answer.code == 0, answer.err
    run = typed / "run"
    assert config(run)["data"]["path"] == str(typed / "pictures")
    assert config(run)["data"]["labels_from"] == str(typed / "labels.csv")
    assert call(tmp_path, f"evaluate run={run} evaluation.level=basic").code == 0, "from any folder"

    new = tmp_path / "new"
    new.mkdir()
    shutil.move(typed / "pictures", new / "pictures")
    shutil.move(typed / "labels.csv", new / "labels.csv")
    answer = call(new, f"evaluate run={run} evaluation.level=basic")
    assert answer.code == 2 and f"data.path={typed / 'pictures'} is not a folder" in answer.err
    moved = "data.path=pictures data.labels_from=labels.csv"
    answer = call(new, f"evaluate run={run} evaluation.level=basic {moved}")
    assert answer.code == 0, answer.err
    later, first = (
        json.loads((run / name).read_text())["test/elbo"] for name in ("evaluation/metrics.json", "metrics.json")
    )
    assert later == pytest.approx(first)
    answer = call(new, f"train resume={run} {moved} trainer.max_steps=7")
    assert answer.code == 0, answer.err
    assert config(run)["data"]["path"] == str(new / "pictures"), "it is remembered"
    assert json.loads((run / "metrics.json").read_text())["train/steps"] == 7


def test_run_of_a_gpu_goes_on_without_one(copy_of_run, monkeypatch):
    run = copy_of_run()
    in_config(run, "accelerator: cpu", "accelerator: gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = call(run.parent, "train resume=run trainer.max_steps=7")
    assert answer.code == 2 and "use trainer.accelerator=cpu" in answer.err
    answer = call(run.parent, "train resume=run trainer.max_steps=7 trainer.accelerator=cpu")
    assert answer.code == 0, answer.err
    assert config(run)["trainer"]["accelerator"] == "cpu" and runs.is_finished(run)


@pytest.mark.slow
def test_run_of_one_process_goes_on_with_two(copy_of_run):
    run = copy_of_run()
    answer = call(run.parent, "train resume=run trainer.max_steps=8 trainer.devices=2 trainer.strategy=ddp")
    assert answer.code == 0, answer.err
    assert json.loads((run / "metrics.json").read_text())["train/steps"] == 8


@pytest.mark.parametrize(
    "words, parts",
    [
        ("data.batch_size=4", ["data.batch_size cannot be changed", "can be given"]),
        ("data.labels_from=labels.csv", ["data.labels_from cannot be changed"]),
        ("data.path=elsewhere", ["data.path is not a setting of this run"]),
        (
            "trainer.precision=bf16-mixed",
            ["trainer.precision cannot be changed when resuming", "trainer.accelerator", "paths of"],
        ),
    ],
)
def test_what_would_make_another_run_stays_refused(finished_run, words, parts):
    before = contents(finished_run)
    commands = ["train resume=run trainer.max_steps=9", "evaluate run=run"][: 2 if words.startswith("data.") else 1]
    for command in commands:
        answer = call(finished_run.parent, f"{command} {words}")
        assert answer.code == 2 and all(part in answer.err for part in parts), answer.err
    assert contents(finished_run) == before


@pytest.mark.parametrize("words", ["logger=tensorboard", "trainer.accelerator=auto", "trainer.patience=3"])
def test_run_with_nothing_left_keeps_its_config(finished_run, words):
    before = contents(finished_run)
    answer = call(finished_run.parent, f"train resume=run {words}")
    assert answer.code == 0 and answer.out.startswith("nothing to do: the run has completed all 5 steps"), answer.err
    assert contents(finished_run) == before


def hash_of(**data) -> str:
    return runs.config_hash({"model": {}, "data": data, "trainer": {}, "seed": 0})


def test_hash_of_a_run_tells_data_apart_but_not_where_they_lie(tmp_path, monkeypatch):
    here, there = draw(tmp_path / "here" / "pictures"), tmp_path / "there" / "pictures"
    shutil.copytree(here, there)
    other = draw(tmp_path / "other" / "pictures", names=range(100, 116))
    assert hash_of(path=str(here)) == hash_of(path=str(there)) != hash_of(path=str(other))
    monkeypatch.chdir(tmp_path / "here")
    assert hash_of(path="pictures") == hash_of(path=str(there)) == hash_of(path=f"{there}/")
    assert hash_of(path=None) != hash_of(path=str(here)), "drawn, or read"
    assert hash_of(root="/a", cache="~/b") == hash_of(root="/c", cache="d") == hash_of()
    (tmp_path / "a.csv").write_text("image,label\n")
    (tmp_path / "there" / "a.csv").write_text("image,label\n0,1\n")
    assert hash_of(labels_from=str(tmp_path / "a.csv")) != hash_of(labels_from=str(tmp_path / "there" / "a.csv"))
    assert hash_of(sprites="dsprites") != hash_of(sprites="digits"), "which are words"
    assert hash_of(sprites=str(here)) == hash_of(sprites=str(there))


def test_a_name_on_a_hub_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"_target_": "vae_zoo.data.HuggingFace", "path": "ylecun/mnist"}
    assert runs.with_absolute_places(data, tmp_path)["path"] == "ylecun/mnist"
    draw(tmp_path / "ylecun" / "mnist")
    assert runs.with_absolute_places(data, tmp_path)["path"] == str(tmp_path / "ylecun" / "mnist")


def test_job_of_a_sweep_that_was_cut_short_goes_on_where_the_data_have_moved(tmp_path):
    here, there = draw(tmp_path / "here" / "pictures"), tmp_path / "there" / "pictures"
    plain = {"model": {"_target_": "m"}, "data": {"path": str(here)}, "trainer": {"max_steps": 3}, "seed": 0}
    run = tmp_path / "run"
    runs.write_config(run, plain)
    runs.write_status(run, state="interrupted")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    there.parent.mkdir()
    shutil.move(here, there)
    assert runs.can_go_on(run, plain | {"data": {"path": str(there)}})
    assert not runs.can_go_on(run, plain | {"data": {"path": str(there)}, "seed": 1})
