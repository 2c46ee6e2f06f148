"""Two processes on this machine: the same numbers as one, and a sweep of them keeps one folder a job."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.commands import command, environment, run, start

pytestmark = pytest.mark.slow
TINY = (
    "data=digits model/network=mlp trainer.max_steps=40 trainer.log_every_n_steps=10 trainer.val_check_interval=20".split()
)
STILL = [*TINY, "model=beta_vae", "model.optimizer.lr=1e-30", "trainer.max_steps=20"]  # no weight moves


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def test_sweep_of_ddp_jobs_keeps_one_folder_one_log_one_checkpoint_and_one_wandb_run_each(tmp_path):
    run(tmp_path, "train", "-m", "trainer=ddp_cpu", "seed=0,1", "logger=wandb_offline", *TINY)
    folders = sorted(p.parent for p in tmp_path.rglob("config.yaml"))
    assert [f.name[:5] for f in folders] == ["seed0", "seed1"]
    assert len({(f / "wandb_id").read_text() for f in folders}) == 2
    for folder in folders:
        assert [r["step"] for r in rows(folder)] == ["10", "20", "20", "30", "40", "40"], "one log, written once"
        assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
        assert json.loads((folder / "run.json").read_text())["state"] == "finished"
    weights = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in folders]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "the seeds differ"


@pytest.mark.parametrize("model", ["beta_vae", "factor_vae", "ml_vae"])
def test_validation_of_two_processes_equals_that_of_one(tmp_path, model):
    """With learning rates that move no weight, only the split of the work between ranks differs."""
    words = [*TINY, f"model={model}", "model.optimizer.lr=1e-30", "trainer.max_steps=20"]
    words += ["model.discriminator_hidden=[16]", "model.discriminator_optimizer.lr=1e-30"] if model == "factor_vae" else []
    run(tmp_path, "train", *words, "trainer=cpu", "hydra.run.dir=one")
    run(tmp_path, "train", *words, "trainer=ddp_cpu", "hydra.run.dir=two")
    last = [rows(tmp_path / name)[-1] for name in ("one", "two")]
    for name in last[0]:
        if name.startswith("val/") and name != "val/discriminator":  # permutes within a batch, and ranks have other batches
            assert float(last[0][name]) == pytest.approx(float(last[1][name]), rel=1e-5), name
    numbers = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    for name in numbers[0]:
        if name.startswith("test/"):
            assert numbers[0][name] == pytest.approx(numbers[1][name], rel=1e-5), name


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run(folder, "train", *STILL, "trainer=cpu", "hydra.run.dir=run")
    return json.loads((folder / "run" / "metrics.json").read_text()), rows(folder / "run")[-1]


def assert_equals_one_process(folder, one_process):
    numbers, last = one_process
    two = json.loads((folder / "metrics.json").read_text())
    assert {k: v for k, v in two.items() if k.startswith("test/")} == pytest.approx(
        {k: v for k, v in numbers.items() if k.startswith("test/")}, rel=1e-5
    )
    validation = {name: float(value) for name, value in rows(folder)[-1].items() if name.startswith("val/")}
    assert validation and validation == pytest.approx({name: float(last[name]) for name in validation}, rel=1e-5)
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"


def test_ranks_started_by_torchrun_are_one_run(tmp_path, one_process):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words += [*command("train", *STILL, "trainer=ddp_cpu", "hydra.run.dir=run")[1:]]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equals_one_process(tmp_path / "run", one_process)


def test_tasks_started_by_srun_are_one_run(tmp_path, one_process):
    """The variables that SLURM gives to each of two tasks on one node."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "SLURM_NNODES": "1"}
    words = [*STILL, "trainer=ddp_cpu", "hydra.run.dir=run"]
    ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    tasks = [start(tmp_path, "train", *words, **job, **rank) for rank in ranks]
    outputs = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], outputs
    assert_equals_one_process(tmp_path / "run", one_process)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_ranks_that_are_asked_to_stop_save_together(tmp_path, signum):
    """The command alone is sent the signal, with the variables of one task of SLURM and of a stale launcher about it."""
    words = [*TINY, "model=vae", "trainer=ddp_cpu", "trainer.max_steps=100000", "trainer.val_check_interval=100000"]
    about = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x", "MASTER_ADDR": "10.9.9.9"}
    process = start(tmp_path, "train", *words, "hydra.run.dir=run", **about)
    while not (tmp_path / "run" / "metrics.csv").is_file() or len(rows(tmp_path / "run")) < 19:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signum)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143 and "Traceback" not in output, output
    step = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert (
        step >= 200 and step % 10 == 0 and json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"
    )
    run(tmp_path, "train", "resume=run", f"trainer.max_steps={step + 10}")
    assert [int(row["step"]) for row in rows(tmp_path / "run") if row["train/loss"]] == list(range(10, step + 11, 10))
