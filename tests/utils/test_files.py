"""File names whose bytes are not UTF-8 are written as they are."""

import os
import subprocess
import sys

import numpy as np

from tests.commands import environment
from vae_zoo.runs import folder as runs
from vae_zoo.runs.predict import table
from vae_zoo.training.loggers import MetricsCSV
from vae_zoo.utils.files import write_atomic, write_json
from vae_zoo.utils.text import readable

NAME = os.fsdecode(b"m\xe9t.png")


def test_names_of_latin_1_survive_in_csv_json_yaml_and_text(tmp_path):
    write_atomic(tmp_path / "predictions.csv", table([NAME], {"z": np.array([[0.25, 0.75]], dtype=np.float32)}))
    assert b"m\xe9t.png,1,0.7500" in (tmp_path / "predictions.csv").read_bytes()
    write_json(tmp_path / "a.json", {"file": NAME})
    assert runs.read_dict(tmp_path / "a.json")[0] == {"file": NAME}
    parts = {"model": {}, "data": {"path": f"/data/{NAME}"}, "trainer": {}, "evaluation": {}, "callbacks": {}}
    runs.write_config(tmp_path, parts)
    assert runs.read_config(tmp_path)["data"]["path"] == f"/data/{NAME}"
    history = MetricsCSV(tmp_path / "metrics.csv")
    for step in (1, 2):
        history.log_metrics({f"val/{NAME}": 1.0}, step)
        history.save()
    assert [row["step"] for row in history.rows()] == ["1", "2"]


def test_names_of_latin_1_are_printed_and_shown_by_dashboards():
    script = "from vae_zoo.utils.console import tolerant_streams; tolerant_streams(); print('m\\udce9t')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment(PYTHONUTF8="1"))
    assert done.stdout == b"m\xe9t\n", done.stderr
    assert readable({"data": [NAME, 3]}) == {"data": ["m?t.png", 3]}
