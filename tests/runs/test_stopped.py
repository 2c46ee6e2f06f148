"""Runs that are stopped before their last step, by a scheduler or a limit of their own, and what is said and kept then."""

import csv
import json
import signal
from pathlib import Path

import pytest
import torch

from tests.cli.calls import TINY, call
from tests.runs.test_train import assert_equal
from vae_zoo.reports.settings import read_run
from vae_zoo.runs import folder as runs

KICK = """
import os, time
from lightning import Callback


class Kick(Callback):
    def __init__(self, step, signum=0, seconds=0, stop=False):
        self.step, self.signum, self.seconds, self.stop = step, signum, seconds, stop

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            time.sleep(self.seconds)
            trainer.should_stop = trainer.should_stop or self.stop
            if self.signum:
                os.kill(os.getpid(), self.signum)
"""
WORDS = f"{TINY} model=vae trainer.max_steps=12 trainer.val_check_interval=4 trainer.log_every_n_steps=1"
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_JOB_NAME": "train",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kick.py").write_text(KICK)
    return tmp_path


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


def kick(**settings) -> str:
    given = ",".join(f"{name}:{value}" for name, value in settings.items())
    return f"'+callbacks.kick={{_target_:kick.Kick,{given}}}'"


def checkpoint(run: Path):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def steps(run: Path, name: str) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader((run / "metrics.csv").open()) if row[name]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """12 steps that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert call(folder, f"train {WORDS} hydra.run.dir=run").code == 0
    return folder / "run"


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGUSR1,
        *(pytest.param(getattr(signal, f"SIG{name}"), marks=pytest.mark.slow) for name in ("USR2", "XCPU", "HUP", "TERM")),
    ],
)
def test_signals_ahead_of_a_time_limit_save_and_end_with_143(folder, slurm, whole, signum):
    answer = call(folder, f"train {WORDS} hydra.run.dir=run {kick(step=6, signum=int(signum))}")
    assert answer.code == 143, answer.err
    run = folder / "run"
    assert runs.read_status(run)["state"] == "interrupted" and checkpoint(run)["global_step"] == 6
    assert f"python train.py resume={run}" in answer.err
    answer = call(folder, "train resume=run trust=[kick]")
    assert answer.code == 0, answer.err
    assert_equal(checkpoint(run)["state_dict"], checkpoint(whole)["state_dict"])
    assert steps(run, "val/loss") == [4, 8, 12] and not list(folder.rglob("hpc_ckpt*"))


def test_checkpoint_that_lightning_left_in_the_folder_starts_no_other_run(folder, slurm, whole):
    (folder / "run").mkdir()
    for place in (folder / "run", folder):
        (place / "hpc_ckpt_1.ckpt").write_bytes((whole / "checkpoints" / "last.ckpt").read_bytes())
    answer = call(folder, f"train {WORDS} hydra.run.dir=run seed=1")
    assert answer.code == 0, answer.err
    assert steps(folder / "run", "train/loss") == list(range(1, 13)), "from its own first step"


def test_tasks_of_srun_may_each_train_a_run_of_their_own(folder, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    answer = call(folder, f"train {WORDS} hydra.run.dir=run seed=3")
    assert answer.code == 0, answer.err
    assert runs.is_finished(folder / "run") and steps(folder / "run", "val/loss") == [4, 8, 12]


def test_time_limit_stops_saves_says_so_and_goes_on_with_more_time(folder, whole):
    """A second passes in the sixth step."""
    answer = call(folder, f"train {WORDS} hydra.run.dir=run trainer.max_time=00:00:00:01 {kick(step=6, seconds=1.1)}")
    assert answer.code == 0, answer.err
    run = folder / "run"
    sentence = f"stopped by trainer.max_time=00:00:00:01 at step 6 of 12; continue with: python train.py resume={run} "
    sentence += "trainer.max_time=<more, or null>"
    assert f"{sentence}\n" in answer.out
    assert checkpoint(run)["global_step"] == 6 and runs.read_status(run)["state"] == "stopped: max_time"
    assert json.loads((run / "metrics.json").read_text())["train/steps"] == 6, "it is evaluated as it is"
    assert steps(run, "val/loss") == [4], "as a run that goes on"
    found = read_run(run)
    assert (found.state, found.note) == ("stopped: max_time", sentence)
    assert "stopped: max_time" in (run / "report.html").read_text()

    again = call(folder, "train resume=run trust=[kick]")
    assert (again.code, again.out) == (0, f"nothing to do: {sentence}\n")
    more = call(folder, "train resume=run trust=[kick] trainer.max_time=01:00:00:00")
    assert more.code == 0, more.err
    assert runs.read_status(run)["state"] == "finished" and read_run(run).state == "finished"
    assert_equal(checkpoint(run)["state_dict"], checkpoint(whole)["state_dict"])
    assert steps(run, "val/loss") == [4, 8, 12]


def test_patience_that_ends_is_told_and_more_of_it_goes_on(folder):
    """No weight moves, so that no validation is better than the first."""
    words = f"{WORDS} model.optimizer.lr=1e-30 trainer.max_steps=24 hydra.run.dir=run"
    answer = call(folder, f"train {words} trainer.patience=2")
    assert answer.code == 0, answer.err
    run = folder / "run"
    assert "stopped by trainer.patience=2 at step 12 of 24" in answer.out
    assert checkpoint(run)["global_step"] == 12 and runs.read_status(run)["state"] == "stopped: patience"
    assert call(folder, "train resume=run").out.startswith("nothing to do: stopped by trainer.patience=2")

    more = call(folder, "train resume=run trainer.patience=4")
    assert more.code == 0 and "stopped by trainer.patience=4 at step 20 of 24" in more.out, more.err
    assert steps(run, "val/loss") == [4, 8, 12, 16, 20]
    assert call(folder, "train resume=run trainer.patience=null").code == 0
    assert runs.read_status(run)["state"] == "finished" and checkpoint(run)["global_step"] == 24


@pytest.mark.slow
def test_callback_that_stops_training_is_told_and_the_run_goes_on(folder):
    answer = call(folder, f"train {WORDS} hydra.run.dir=run {kick(step=5, stop='true')}")
    assert answer.code == 0 and "stopped by a callback at step 5 of 12; continue with: python train.py resume=" in answer.out
    assert (
        runs.read_status(folder / "run")["state"] == "stopped: callback" and checkpoint(folder / "run")["global_step"] == 5
    )
    assert call(folder, "train resume=run trust=[kick]").code == 0
    assert runs.is_finished(folder / "run") and checkpoint(folder / "run")["global_step"] == 12


@pytest.mark.slow
def test_stopped_run_whose_evaluation_was_killed_is_evaluated_and_trained_no_further(folder):
    words = f"{WORDS} model.optimizer.lr=1e-30 trainer.max_steps=24 hydra.run.dir=run trainer.patience=2"
    assert call(folder, f"train {words}").code == 0
    run = folder / "run"
    (run / "metrics.json").unlink()
    runs.write_status(run, state="running", limit=None)
    answer = call(folder, "train resume=run")
    assert answer.code == 0 and "stopped by trainer.patience=2 at step 12 of 24" in answer.out, answer.err
    assert (run / "metrics.json").is_file() and checkpoint(run)["global_step"] == 12
