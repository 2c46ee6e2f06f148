"""The layers of the package, as `make lint` holds them, and the names of the tests."""

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


UPWARD = {  # module: the line that is added to it, and the import that is then refused
    "metrics/likelihood.py": ("from vae_zoo.models.base import LatentVariableModel", "vae_zoo.metrics -> vae_zoo.models"),
    "figures/theme.py": ("def late():\n    from vae_zoo.reports import report", "vae_zoo.figures -> vae_zoo.reports"),
    "contract.py": (
        "if TYPE_CHECKING:\n    from vae_zoo.data.datamodule import DataModule",
        "vae_zoo.contract -> vae_zoo.data",
    ),
}


def test_imports_of_a_higher_layer_are_refused_also_late_ones_and_those_for_types(tmp_path):
    shutil.copytree(ROOT / "vae_zoo", tmp_path / "vae_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, (line, _) in UPWARD.items():
        path = tmp_path / "vae_zoo" / module
        path.write_text(f"{path.read_text()}\n\nfrom typing import TYPE_CHECKING\n\n{line}\n")
    found = lint(tmp_path)
    assert found.returncode == 1 and "layers BROKEN" in found.stdout, found.stdout + found.stderr
    for _, refused in UPWARD.values():
        lower, higher = refused.split(" -> ")
        assert f"{lower} is not allowed to import {higher}:" in found.stdout


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


WHOLE = {  # what a file tests that is named by no module
    "": ("layers", "version", "annotations", "gpu"),
    "cli": (
        "bad_inputs",
        "bad_own_data",
        "contributing",
        "ddp",
        "docs",
        "papers",
        "results",
        "scenes",
        "wheel",
    ),  # commands, pages
    "chaos": ("kills", "disk", "machine"),
    "config": ("every_setting",),
    "explorer": ("browser",),  # the page
    "models": ("ddp", "switches"),  # every model
    "notebooks": ("quickstart",),
    "runs": ("environment", "moved", "stopped"),
}


def test_a_test_is_named_by_its_module():
    """tests/<package>/test_<module>.py, and test_<module>_<what>.py where there are several."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        modules = {module.stem for module in (ROOT / "vae_zoo" / folder).glob("[!_]*.py")}
        names = modules | set(WHOLE.get(folder.as_posix().removeprefix("."), ()))
        assert any(f"{path.stem}_".startswith(f"test_{name}_") for name in names), (
            f"{path.relative_to(ROOT)} has the name of no module in vae_zoo/{folder}; rename it or list it in WHOLE"
        )
