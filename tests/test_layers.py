"""The layers of the package, as `make lint` holds them."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vae_zoo

ROOT = Path(vae_zoo.__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs a checkout")


def lint(root):
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    return subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)


@pytest.mark.parametrize(
    "module, line",
    [
        ("metrics/likelihood.py", "from vae_zoo.models.base import LatentVariableModel"),
        ("figures/theme.py", "def late():\n    from vae_zoo.reports import report"),  # lazy imports count
        ("contract.py", "if TYPE_CHECKING:\n    from vae_zoo.data.datamodule import DataModule"),  # and those for types
    ],
)
def test_an_import_of_a_higher_layer_is_refused(tmp_path, module, line):
    shutil.copytree(ROOT / "vae_zoo", tmp_path / "vae_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "vae_zoo" / module
    path.write_text(f"{path.read_text()}\n\nfrom typing import TYPE_CHECKING\n\n{line}\n")
    found = lint(tmp_path)
    assert found.returncode == 1 and "layers BROKEN" in found.stdout, found.stdout + found.stderr


def test_the_package_keeps_its_layers():
    found = lint(ROOT)
    assert found.returncode == 0 and "layers KEPT" in found.stdout, found.stdout + found.stderr


def test_every_package_has_a_layer():
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    placed = {name.strip() for layer in contract["layers"] for name in layer.replace(":", "|").split("|")}
    paths = [p for p in (ROOT / "vae_zoo").iterdir() if p.is_dir() and (p / "__init__.py").is_file() or p.suffix == ".py"]
    for path in paths:
        if path.stem not in ("__init__", "runs"):
            assert f"vae_zoo.{path.stem}" in placed
    for path in (ROOT / "vae_zoo" / "runs").glob("[!_]*.py"):
        assert f"vae_zoo.runs.{path.stem}" in placed
