"""The table of results in README.md is that of its file, which says what made it."""

import json
import subprocess
import sys

from tests.commands import REPOSITORY


def test_the_table_of_the_readme_is_not_stale():
    words = [sys.executable, REPOSITORY / "tools" / "results_tables.py", "--check"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((REPOSITORY / "results" / "split_vae-first_run.json").read_text())
    assert results["seeds"] == [0, 1, 2] and all(results[key] for key in ("command", "commit", "hardware"))
