"""Five methods, each killed 20 times (SIGKILL) at random moments of all its phases, end as if nothing had happened."""

import csv
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import wandb_files
from tests.chaos.phases import PHASES, Board, start
from tests.runs.test_train import assert_same_run
from vae_zoo.runs.folder import is_finished

pytestmark = pytest.mark.slow
KILLS, DURING = 20, ("training", "validation", "checkpointing")
DIGITS = "data=digits data.subset=200 data.val_size=40 data.test_size=40 model/network=mlp model.network.hidden=[8]"
LADDER = "data=digits data.subset=200 data.val_size=40 data.test_size=40 model/network=fc_vlae"
METHODS = {
    "split_vae": f"model=split_vae {DIGITS}",
    "ml_vae": f"model=ml_vae {DIGITS}",
    "parted_vae": f"model=parted_vae {DIGITS} data.labelled=50",
    "mfcvae": f"model=mfcvae {LADDER} model.network.hidden=[[16],[16]] model.facet_dims=[2,2] model.num_clusters=[4,4]",
    "spair": "model=spair data=scenes data.train_size=200 data.val_size=40 data.test_size=40 model.channels=[8,8,8] "
    "model.head_hidden=[8] data.num_objects=[0,2]",
}
SHORT = (
    "trainer=cpu trainer.max_steps=32 data.batch_size=8 trainer.val_check_interval=8 trainer.log_every_n_steps=2 "
    "callbacks.checkpoint.every_n_steps=4 callbacks.figures.every_n_steps=16 logger=many"
)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(method, tmp_path, capsys):
    words, moments = f"train {METHODS[method]} {SHORT}", random.Random(method)
    board = Board(tmp_path / "board")
    whole = start(tmp_path, f"{words} hydra.run.dir=whole", board)
    whole.join()
    assert whole.exitcode == 0, (tmp_path / "said.txt").read_text()
    typical = {phase: board.seconds(phase) for phase in PHASES}
    killed, run, before = Counter(), tmp_path / "killed", tmp_path / "before"
    for phase in drawn(moments):
        delay = moments.uniform(0, min(typical[phase], 1))
        if run.is_dir():
            shutil.copytree(run, before, symlinks=True)
        while (during := killed_in(phase, delay, words, tmp_path, board)) is None:  # it ended first
            shutil.rmtree(run)
            if before.is_dir():
                shutil.copytree(before, run, symlinks=True)
            delay, phase = delay / 2, "evaluation" if phase in DURING else phase  # no training is left
        shutil.rmtree(before, ignore_errors=True)
        killed[during] += 1
    child = start(tmp_path, "train resume=killed", board)
    child.join()
    assert child.exitcode == 0, (tmp_path / "said.txt").read_text()
    with capsys.disabled():
        print(f"\n{method}: {sum(killed.values())} kills, {dict(killed)}")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert histories(tmp_path / "whole") == histories(tmp_path / "killed")
    shutil.rmtree(tmp_path)


def killed_in(phase: str, delay: float, words: str, folder: Path, board: Board) -> str | None:
    """Goes on with the run and kills it this long after it has entered a phase; the phase in which it died, None if it had
    ended. Before its first checkpoint it is started again."""
    board.clear()
    has_begun = (folder / "killed" / "checkpoints" / "last.ckpt").is_file()
    child = start(folder, "train resume=killed" if has_begun else f"{words} hydra.run.dir=killed", board)
    while board.times(phase) < 1 and child.is_alive():
        time.sleep(0.001)
    time.sleep(delay)
    while phase in DURING and board.phase != phase and child.is_alive():
        time.sleep(0.0005)  # until it is there again
    during = board.phase
    child.kill()
    child.join()
    assert child.exitcode in (-signal.SIGKILL, 0), (phase, child.exitcode, (folder / "said.txt").read_text())
    return during if child.exitcode and not is_finished(folder / "killed") else None


def drawn(moments: random.Random) -> list[str]:
    """The phases to kill in: those of training in any order, then those after it."""
    during = [*DURING, *DURING, *DURING, *DURING, "training"]
    after = ["evaluation", "report"] * 3 + ["evaluation"]
    moments.shuffle(during)
    moments.shuffle(after)
    return [*during, *after][:KILLS]


def histories(run: Path) -> dict[str, list]:
    """Steps and values that csv, TensorBoard and W&B hold, but for times."""
    with (run / "metrics.csv").open() as file:
        rows = [(int(row["step"]), name, float(v)) for row in csv.DictReader(file) for name, v in row.items() if v]
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = [(e.step, name, e.value) for name in events.Tags()["scalars"] for e in events.Scalars(name)]
    (folder,) = (run / "wandb").glob("offline-run-*")
    logged = wandb_files.read(folder)["history"]
    shown = [(row["trainer/global_step"], n, v) for row in logged for n, v in row.items() if isinstance(v, float)]
    parts = {"csv": rows, "tensorboard": scalars, "wandb": shown}
    return {k: sorted(row for row in part if not is_time(row[1])) for k, part in parts.items()}


def is_time(name: str) -> bool:
    return name.startswith("_") or "second" in name or name in ("step", "epoch", "hp_metric")
