"""What the terminal shows: nothing of a reader that ends early, and nothing of a library that a user cannot act on."""

import re
import subprocess

import pytest

from tests.cli.calls import TINY
from tests.commands import command, environment


@pytest.mark.parametrize("line", ["train --help", "train --hydra-help", "train --cfg job", "evaluate --help"])
def test_a_reader_that_ends_early_is_no_error(line, tmp_path):
    assert ends_unread(line, tmp_path) == (0, "")


@pytest.mark.slow
def test_a_run_and_a_leaderboard_go_on_without_a_reader(tmp_path, copy_of_run):
    copy_of_run("outputs/one")
    code, said = ends_unread(f"train {TINY} model=vae hydra.run.dir=run", tmp_path)
    assert code == 0 and "evaluation 1 of" in said and not re.search("Traceback|Exception|Warning", said), said
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert ends_unread("evaluate runs=outputs", tmp_path) == (0, "")
    assert (tmp_path / "outputs" / "leaderboard.csv").is_file()


def ends_unread(line: str, folder) -> tuple[int, str]:
    """Exit code and error output of a command whose output nobody reads, as in `| head -1` after the first line."""
    words = command(*line.split())
    process = subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    return process.wait(timeout=300), process.stderr.read()
