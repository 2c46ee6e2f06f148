import shutil
from pathlib import Path

import pytest

from tests.cli.calls import TINY, call


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A run of 5 steps that nobody may change."""
    folder = tmp_path_factory.mktemp("finished")
    answer = call(folder, f"train {TINY} model=vae hydra.run.dir=run")
    assert answer.code == 0, answer.err
    return folder / "run"


@pytest.fixture
def copy_of_run(finished_run, tmp_path):
    def copy(name: str = "run") -> Path:
        return Path(shutil.copytree(finished_run, tmp_path / name))

    return copy
