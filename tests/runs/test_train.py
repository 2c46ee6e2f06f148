"""A run that is killed and resumed ends as if nothing had happened: weights, optimisers, rows, numbers, to the bit."""

import csv
import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from tests.cli.calls import call, contents, start_child
from tests.commands import REPOSITORY, run, start
from vae_zoo.cli import run as cli_run
from vae_zoo.config import check
from vae_zoo.runs import evaluate
from vae_zoo.runs import folder as runs

LONG = (
    "data=digits model/network=mlp trainer.max_steps=1500 trainer.log_every_n_steps=20 trainer.val_check_interval=150 "
    "callbacks.checkpoint.every_n_steps=40 callbacks.figures.every_n_steps=500"
).split()
FACTOR = ("model=factor_vae", "model.discriminator_hidden=[64,64]")
SHORT = (
    *LONG,
    "model=factor_vae",
    "model.network.hidden=[32]",
    "model.discriminator_hidden=[16,16]",
    "trainer.max_steps=300",
    "trainer.val_check_interval=75",
    "callbacks.checkpoint.every_n_steps=10",
    "callbacks.figures.every_n_steps=150",
)


def assert_equal(a, b, path="checkpoint"):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b)):
            assert_equal(*pair, f"{path}[{i}]")
    else:
        assert a == b, path


def assert_same_run(one: Path, other: Path) -> None:
    """Everything but wall-clock times."""
    for name in ("last", "best"):
        checkpoints = [torch.load(r / "checkpoints" / f"{name}.ckpt", weights_only=True) for r in (one, other)]
        for key in ("state_dict", "optimizer_states", "global_step", "Digits", "callbacks"):
            if key in checkpoints[0] and not (name == "best" and key == "callbacks"):
                assert_equal(checkpoints[0][key], checkpoints[1][key], f"{name}.{key}")
    rows = [list(csv.DictReader((r / "metrics.csv").open())) for r in (one, other)]
    timeless = [[{k: v for k, v in row.items() if "per_second" not in k} for row in part] for part in rows]
    assert timeless[0] == timeless[1]
    numbers = [json.loads((r / "metrics.json").read_text()) for r in (one, other)]
    clocks = [name for name in numbers[0] if name.startswith("time/")]
    for clock in ("train/seconds", "train/images_per_second", *clocks):
        assert numbers[0].pop(clock) > 0 and numbers[1].pop(clock) > 0
    assert clocks
    assert numbers[0] == numbers[1]
    names = [sorted(p.name for p in (r / "figures").iterdir()) for r in (one, other)]
    assert names[0] == names[1]


def at_checkpoints(folder: Path, name: str, begin, is_over, stop, longest: float, moments: random.Random):
    """The process that goes on with the run after three that were stopped, each at a random moment after a checkpoint.

    begin: starts the run or, given resume=<run>, goes on with it; longest: seconds after the checkpoint.
    """
    process = begin(None)
    for _ in range(3):
        last = folder / name / "checkpoints" / "last.ckpt"
        before = last.stat().st_mtime_ns if last.is_file() else 0
        while not is_over(process) and (not last.is_file() or last.stat().st_mtime_ns == before):
            time.sleep(0.005)  # imports are over when a checkpoint appears
        time.sleep(moments.uniform(0, longest))
        assert not is_over(process), "the run ended before it could be stopped"
        stop(process)
        process = begin(f"resume={name}")
    return process


def interrupt(folder: Path, name: str, words: tuple[str, ...], signum: int, moments: random.Random) -> None:
    """Starts a run, stops it by `signum` at three random moments of its training, and lets it end."""

    def begin(resume):
        return start(folder, "train", *([resume] if resume else [*words, f"hydra.run.dir={name}"]))

    def stop(process):
        process.send_signal(signum)
        output = process.communicate()[0]
        assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), output

    process = at_checkpoints(folder, name, begin, lambda p: p.poll() is not None, stop, 0.7, moments)
    output = process.communicate()[0]
    assert process.returncode == 0, output


def test_killed_run_resumes_to_the_bit(tmp_path):
    words = " ".join(SHORT)

    def begin(resume):
        return start_child(tmp_path, f"train {resume or f'{words} hydra.run.dir=killed'}")

    def kill(child):
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL

    whole = start_child(tmp_path, f"train {words} hydra.run.dir=whole")
    whole.join()
    child = at_checkpoints(tmp_path, "killed", begin, lambda p: not p.is_alive(), kill, 0.05, random.Random(0))
    child.join()
    assert whole.exitcode == child.exitcode == 0, (tmp_path / "said").read_text()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list(tmp_path.glob("outputs")), "resume made a new folder"


def test_rank_that_resumes_waits_for_the_config_of_rank_0(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_run, "FOLLOW_SECONDS", 0)
    monkeypatch.setenv("RANK", "1")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with initialize_config_dir(config_dir=str(REPOSITORY / "conf"), version_base="1.3"):
        plain = check.check_train(compose("train", overrides=["data=digits", "model=vae", "trainer=ddp_cpu"]))
    runs.write_config(checkpoint.parents[1], plain)
    answer = call(tmp_path, "train resume=run trainer.max_steps=7")
    assert answer.code == 2 and f"rank 1 waits for {checkpoint.parents[1]}/config.yaml" in answer.err


def test_resume_of_a_complete_run_has_nothing_to_do(copy_of_run):
    run = copy_of_run()
    before = contents(run)
    answer = call(run.parent, "train resume=run")
    assert answer.code == 0 and not answer.err
    assert answer.out == f"nothing to do: the run has completed all 5 steps and its evaluation; see {run}/report.html\n"
    assert contents(run) == before


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_resume_of_a_trained_run_without_numbers_evaluates_it(copy_of_run, state):
    run = copy_of_run()
    wanted = json.loads((run / "metrics.json").read_text())
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    (run / "metrics.json").unlink()
    (run / "report.html").unlink()
    runs.write_status(run, state=state)
    answer = call(run.parent, "train resume=run")
    assert answer.code == 0, answer.err
    got = json.loads((run / "metrics.json").read_text())
    timeless = [{k: v for k, v in part.items() if "second" not in k and "time/" not in k} for part in (got, wanted)]
    assert timeless[0] == timeless[1] and got.keys() == wanted.keys()
    assert_equal(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"], weights)
    assert runs.is_finished(run) and (run / "report.html").is_file()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    run(folder, "train", *LONG, *FACTOR, "hydra.run.dir=whole")
    return folder


@pytest.mark.slow
def test_finished_run_goes_on_to_more_steps(tmp_path):
    words = [w for w in LONG if "max_steps" not in w and "val_check" not in w]
    words += ["model=vae", "trainer.val_check_interval=100"]
    run(tmp_path, "train", *words, "trainer.max_steps=400", "hydra.run.dir=whole")
    run(tmp_path, "train", *words, "trainer.max_steps=200", "hydra.run.dir=two")
    run(tmp_path, "train", "resume=two", "trainer.max_steps=400")
    for name in ("whole", "two"):
        checkpoint = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 400
    one, other = (torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True) for n in ("whole", "two"))
    assert_equal(one["state_dict"], other["state_dict"])
    assert_equal(one["optimizer_states"], other["optimizer_states"])
    steps = [[r["step"] for r in csv.DictReader((tmp_path / n / "metrics.csv").open())] for n in ("whole", "two")]
    assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_politely_stopped_run_resumes_to_the_bit(uninterrupted, signum):
    name = signal.Signals(signum).name
    interrupt(uninterrupted, name, (*LONG, *FACTOR), signum, random.Random(signum))
    assert_same_run(uninterrupted / "whole", uninterrupted / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("model=beta_tc_vae", "trainer.ema_decay=0.9"),
        ("model=annealed_vae", "trainer.gradient_clip_val=1.0"),
        ("model=dip_vae", "trainer.patience=100"),
        ("model=ml_vae", "data.group_size=[1,5]"),
    ],
    ids=lambda words: words[-1],
)
def test_options_survive_being_killed(tmp_path, words):
    run(tmp_path, "train", *LONG, *words, "hydra.run.dir=whole")
    interrupt(tmp_path, "killed", (*LONG, *words), signal.SIGKILL, random.Random(1))
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_that_goes_on_is_not_finished_at_any_moment(copy_of_run, monkeypatch):
    run, seen = copy_of_run(), []
    (run / ".lock").touch()
    before = contents(run)

    def start(folder, cfg, how, command, lock=None):
        seen.append((runs.read_config(folder)["trainer"]["max_steps"], runs.read_status(folder)["state"]))
        return 2

    def write(folder, cfg):
        seen.append(runs.read_status(folder)["state"])
        kept(folder, cfg)

    kept = runs.write_config
    monkeypatch.setattr(cli_run, "_start", start)
    monkeypatch.setattr(runs, "write_config", write)
    assert call(run.parent, "train resume=run trainer.max_steps=6").code == 2
    assert seen == ["running", (6, "running")]
    (run / ".lock").write_text("")
    assert contents(run) == before, "all is as it was"


def test_the_evaluation_of_an_earlier_step_is_set_aside_when_training_goes_on(copy_of_run, small_evaluation):
    folder = copy_of_run()
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text('{"test/elbo": 1.0}')
    assert call(folder.parent, "train resume=run trainer.max_steps=6").code == 0
    assert not (folder / "evaluation").exists() and (folder / "evaluation_of_step_5" / "metrics.json").is_file()
    runs.set_aside(folder)
    assert (folder / "previous" / "evaluation_of_step_5").is_dir() and not (folder / "evaluation_of_step_5").exists()


def test_numbers_are_written_before_figures_are_drawn(copy_of_run, small_evaluation, monkeypatch):
    def fail(*arguments):
        raise ArithmeticError("no figure")

    folder = copy_of_run()
    monkeypatch.setattr(evaluate, "draw", fail)
    assert call(folder.parent, "evaluate run=run").code == 1
    assert "test/elbo" in json.loads((folder / "evaluation" / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    assert call(folder.parent, "train resume=run trainer.max_steps=6").code == 1
    assert "test/elbo" in json.loads((folder / "metrics.json").read_text())


def test_figures_of_an_earlier_evaluation_do_not_stay(copy_of_run, small_evaluation):
    folder = copy_of_run()
    old, own = folder / "evaluation" / "figures" / "swaps_3.png", folder.parent / "mine" / "figures" / "photo_3.png"
    for path in (old, own):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    for words in ("", " out=mine"):
        assert call(folder.parent, f"evaluate run=run evaluation.level=basic{words}").code == 0
    assert not old.exists() and list(old.parent.glob("*.png"))
    assert own.exists() and len(list(own.parent.glob("*.png"))) > 1, "a folder of the user keeps its pictures"
