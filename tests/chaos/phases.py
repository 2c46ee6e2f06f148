"""A command in a process of its own that tells which phase it is in, so that it can be killed in each of them."""

import contextlib
import importlib
import itertools
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from tests.cli.calls import FORKS, call

FORKS.set_forkserver_preload(["tests.cli.calls", "vae_zoo.runs.evaluate", "vae_zoo.training.trainer", "tests.chaos.warm"])
PHASES = ("start", "training", "validation", "checkpointing", "evaluation", "report")


class Board:
    """What a process tells: its present phase, how often it entered each, and how long it last stayed there.

    A file in memory that both processes map.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            np.zeros(1 + 2 * len(PHASES)).tofile(path)
        self.path, self._values = path, np.memmap(path, float, "r+")

    @property
    def phase(self) -> str:
        return PHASES[int(self._values[0])]

    def times(self, phase: str) -> int:
        return int(self._values[1 + PHASES.index(phase)])

    def seconds(self, phase: str) -> float:
        return float(self._values[1 + len(PHASES) + PHASES.index(phase)])

    def clear(self) -> None:
        self._values[:] = 0

    @contextlib.contextmanager
    def entered(self, phase: str):
        index, before, began = PHASES.index(phase), self._values[0], time.monotonic()
        self._values[1 + index] += 1
        self._values[0] = index
        try:
            yield
        finally:
            self._values[0] = before
            self._values[1 + len(PHASES) + index] = time.monotonic() - began

    def tells(self, phase: str, function):
        def told(*args, **kwargs):
            with self.entered(phase):
                return function(*args, **kwargs)

        return told


def start(folder: Path, line: str, board: Board) -> BaseProcess:
    """The command, in a child of a process that has imported everything; what it says is in `folder`/said.txt."""
    child = FORKS.Process(target=_run, args=(folder, line, board.path))
    child.start()
    return child


def _run(folder: Path, line: str, board: Path) -> None:
    from lightning.pytorch.loops import _EvaluationLoop

    from tests import small
    from vae_zoo.reports import report
    from vae_zoo.runs import evaluate
    from vae_zoo.training.trainer import Trainer

    tells = Board(board).tells
    with pytest.MonkeyPatch.context() as patch:
        small.evaluation(patch)
        patch.setattr(Trainer, "fit", tells("training", Trainer.fit))
        patch.setattr(_EvaluationLoop, "run", tells("validation", _EvaluationLoop.run))
        patch.setattr(Trainer, "save_checkpoint", tells("checkpointing", Trainer.save_checkpoint))
        patch.setattr(evaluate, "evaluate_trained", tells("evaluation", evaluate.evaluate_trained))
        patch.setattr(report, "write_report", tells("report", report.write_report))
        answer = call(folder, line)
    (folder / "said.txt").write_text(answer.out + answer.err)
    sys.stdout.flush()
    os._exit(answer.code)


def filled_at(folder: Path, line: str, disk: Path | None = None, module: str = "", name: str = "", which: int = 0) -> None:
    """The command in this process; at a call of a function the disk is filled to the last byte, then the call goes on."""
    from tests import small

    with pytest.MonkeyPatch.context() as patch:
        small.evaluation(patch)
        if disk is not None:
            *owners, function = name.split(".")
            owner = importlib.import_module(module)
            for part in owners:
                owner = getattr(owner, part)
            original, calls = getattr(owner, function), itertools.count(1)

            def full(*args, **kwargs):
                if next(calls) == which:
                    fill(disk / "filler")
                return original(*args, **kwargs)

            patch.setattr(owner, function, full)
        answer = call(folder, line)
    (folder / "said.txt").write_text(answer.out + answer.err)
    os._exit(answer.code)


def fill(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"0" * size) == size:
                    pass
