"""Two commands on one run, locks that cannot be had, and a clock that jumps back."""

import errno
import fcntl
import itertools
import time

import pytest

from tests.cli.calls import TINY, call, contents
from vae_zoo.runs import folder as runs
from vae_zoo.utils import files


@pytest.mark.parametrize("line", ["train {} model=vae hydra.run.dir=run", "train resume=run trainer.max_steps=9"])
def test_the_second_command_on_a_run_is_refused(line, tmp_path, copy_of_run):
    copy_of_run()
    with runs.locked(tmp_path / "run"):
        before = contents(tmp_path)
        answer = call(tmp_path, line.format(TINY))
        assert answer.code == 2 and answer.err.count("\n") == 1 and "is being trained by process" in answer.err, answer.err
        assert contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "line", ["train {} model=vae", "train resume=run trainer.max_steps=9", "train -m {} model=vae seed=0,1"]
)
def test_locks_that_cannot_be_had_are_a_sentence(number, line, tmp_path, copy_of_run, monkeypatch):
    def refuse(file, kind):
        raise OSError(number, "No locks available")

    copy_of_run()
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    answer = call(tmp_path, line.format(TINY))
    assert answer.code == 2 and answer.err.count("\n") == 1, answer.err
    assert ".lock cannot be locked (No locks available)" in answer.err and "paths.outputs=<folder>" in answer.err


def test_a_lock_works_where_the_file_system_has_them(tmp_path):
    with (tmp_path / "one").open("w") as one, (tmp_path / "one").open("w") as other:
        files.lock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            files.lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-1e6, 1e6], ids=["back", "ahead"])
def test_a_clock_that_jumps_changes_neither_names_nor_records(jump, tmp_path, monkeypatch, small_evaluation):
    """The wall clock, between any two looks at it; what measures time uses the monotonic one."""
    words = f"train {TINY} model=vae callbacks.checkpoint.every_n_steps=2 callbacks.progress.every_n_seconds=0.01"
    assert call(tmp_path, f"{words} hydra.run.dir=still").code == 0
    clock, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: clock() + jump * (next(looks) % 2))
    assert call(tmp_path, f"{words} hydra.run.dir=jumped").code == 0
    answer = call(tmp_path, "train resume=jumped trainer.max_steps=9")
    assert answer.code == 0, answer.err
    still, jumped = (sorted(contents(tmp_path / name)) for name in ("still", "jumped"))
    assert sorted({name.replace("_9.", "_5.") for name in jumped}) == still
    assert 0 < runs.read_status(tmp_path / "jumped")["seconds"] < 1e5
    numbers = runs.read_dict(tmp_path / "jumped" / "metrics.json")[0]
    assert 0 < numbers["train/seconds"] < 1e5 and numbers["train/images_per_second"] > 0
