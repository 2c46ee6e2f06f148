"""The commands without another few seconds of imports: the same `main` functions within the process of the test, or in a
child of a process that has imported everything and done nothing yet."""

import contextlib
import io
import multiprocessing
import os
import shlex
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.commands import REPOSITORY
from vae_zoo.cli import commands as cli

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.cli.calls", "vae_zoo.runs.evaluate", "vae_zoo.training.trainer"])
TINY = "data=digits model/network=mlp model.network.hidden=[16] trainer=cpu trainer.max_steps=5 callbacks=none"


@dataclass
class Answer:
    code: int
    out: str
    err: str


def call(folder: Path, line: str) -> Answer:
    """`python <script>.py <words>` typed in `folder`: line is `train model=vae`, say."""
    script, *words = shlex.split(line)
    out, err = io.StringIO(), io.StringIO()
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", [str(REPOSITORY / f"{script}.py"), *words])
        patch.setenv("VAE_ZOO_CACHE", str(folder / "cache"))
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # which the command sets for its jobs
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = getattr(cli, script)()
    for name in set(sys.modules) - modules:  # the user's own, which lie in another folder in the next test
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    return Answer(code, out.getvalue(), err.getvalue())


def start_child(folder: Path, line: str) -> BaseProcess:
    """`call` in a process of its own, which may be killed; what it says is in `folder`/said when it ends by itself."""
    child = FORKS.Process(target=_tell, args=(folder, line))
    child.start()
    return child


def _tell(folder: Path, line: str) -> None:
    answer = call(folder, line)
    (folder / "said").write_text(answer.out + answer.err)
    sys.exit(answer.code)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with its bytes; locks, which tell the last process, by name only. Python's own bytecode
    of the reader's modules is left out."""
    paths = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {os.fspath(p.relative_to(folder)): p.read_bytes() if p.is_file() and p.name != ".lock" else None for p in paths}
