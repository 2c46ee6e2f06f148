"""One version, named in three places."""

import re
import tomllib
from pathlib import Path

import vae_zoo

ROOT = Path(__file__).parents[1]


def test_package_project_and_citation_have_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited is not None
    assert vae_zoo.__version__ == project == cited.group(1)
    assert f"## {project}" in (ROOT / "CHANGELOG.md").read_text()
