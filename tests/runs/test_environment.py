"""What the environment of a command changes is in its config or run.json, or is refused."""

import json

import pytest
import torch
import yaml

from tests.cli.calls import TINY, call
from tests.config.test_schemas import composed
from vae_zoo.runs import folder as runs


@pytest.mark.parametrize("mode", ["offline", pytest.param("dryrun", marks=pytest.mark.slow)])
def test_wandb_that_is_offline_by_the_environment_keeps_one_folder(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    answer = call(tmp_path, f"train {TINY} model=vae logger=wandb hydra.run.dir=run")
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["logger"]["wandb"]["offline"] is True
    answer = call(tmp_path, "train resume=run trainer.max_steps=7")
    assert answer.code == 0, answer.err
    assert len([p for p in (run / "wandb").glob("offline-run-*") if p.is_dir()]) == 1
    assert len(list((run / "wandb" / "replaced").iterdir())) == 1


def test_run_that_was_online_is_written_whole_where_the_environment_keeps_it_offline(tmp_path, monkeypatch):
    from vae_zoo.training.loggers import WandB

    (tmp_path / "wandb_id").write_text("abc")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert not WandB(tmp_path)._offline
    monkeypatch.setenv("WANDB_MODE", "offline")
    board = WandB(tmp_path)
    assert board._offline and board._rewritten, "the history of metrics.csv"


def test_settings_of_wandb_in_the_environment_are_in_the_config(monkeypatch):
    for name in ("MODE", "PROJECT", "ENTITY", "NOTES"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    names = ("project", "entity", "notes", "offline")
    given = composed("logger=wandb")["logger"]["wandb"]
    assert [given[name] for name in names] == ["vae_zoo", None, None, False]
    for name in ("PROJECT", "ENTITY", "NOTES"):
        monkeypatch.setenv(f"WANDB_{name}", f"my {name}")
    given = composed("logger=wandb", "logger.wandb.entity=us")["logger"]["wandb"]
    assert [given[name] for name in names] == ["my PROJECT", "us", "my NOTES", False]


def test_settings_of_lightning_in_the_environment_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "1")
    answer = call(tmp_path, f"train {TINY} model=vae")
    assert answer.code == 2 and "PL_TRAINER_LIMIT_TRAIN_BATCHES" in answer.err and not (tmp_path / "outputs").exists()


def test_gpus_that_the_environment_hides_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = call(tmp_path, f"train {TINY} model=vae trainer.accelerator=gpu")
    assert answer.code == 2 and "no such device on this machine with CUDA_VISIBLE_DEVICES=''" in answer.err


def test_run_goes_on_with_the_threads_it_had(copy_of_run, monkeypatch):
    run = copy_of_run()
    status = json.loads((run / "run.json").read_text())
    assert status["threads"] == 1 and status["variables"]["OMP_NUM_THREADS"] == "1"
    runs.write_status(run, threads=4)
    answer = call(run.parent, "train resume=run trainer.max_steps=6")
    assert answer.code == 0 and "the run had 4 threads and now has 1: its weights will differ" in answer.out, answer.err
    runs.write_status(run, threads=3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    try:
        answer = call(run.parent, "train resume=run trainer.max_steps=7")
    finally:
        torch.set_num_threads(before)
    assert answer.code == 0 and "threads: 3 on" in answer.out and "the run had" not in answer.out, answer.err
    assert json.loads((run / "run.json").read_text())["threads"] == 3
