"""The tables of results in README.md and docs/ are those of their files, which say what made them."""

import json
import subprocess
import sys

import pytest

from tests.commands import REPOSITORY

FILES = sorted(
    path for path in (REPOSITORY / "results").rglob("*.json") if path.name not in ("official.json", "scaling.json")
)


@pytest.mark.parametrize("tool", ["results_tables.py", "curves.py"])
def test_no_table_and_no_curve_is_stale(tool):
    words = [sys.executable, REPOSITORY / "tools" / tool, "--check"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_results_say_what_made_them(path):
    results = json.loads(path.read_text())
    assert len(results["seeds"]) >= 3 and all(results[key] for key in ("command", "commit", "hardware"))
