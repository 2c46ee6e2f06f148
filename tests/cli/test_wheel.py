"""The package as others get it: a wheel, its own conf, two commands, and no checkout in sight."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.cli.calls import TINY
from tests.commands import REPOSITORY

COMMANDS = """
import sys
from importlib.metadata import entry_points
for line in sys.argv[1:]:
    name, *sys.argv[1:] = line.split()
    sys.argv[0] = f"vae-zoo-{name}"
    if code := entry_points(group="console_scripts")[sys.argv[0]].load()():
        sys.exit(code)
"""


def run(*words, cwd: Path, **extra: str) -> str:
    """What a process prints; without the checkout on its path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"} | extra
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY, cwd=folder)
    return next(folder.glob("vae_zoo-*.whl"))


def test_wheel_holds_the_package_and_every_config(wheel):
    content = zipfile.ZipFile(wheel)
    names = set(content.namelist())
    modules = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "vae_zoo").rglob("*.py")}
    configs = {f"vae_zoo/{p.relative_to(REPOSITORY)}" for p in (REPOSITORY / "conf").rglob("*.yaml")}
    assert modules | configs | {"vae_zoo/reports/report.html.jinja", "vae_zoo/py.typed"} <= names
    assert not [name for name in names if not name.startswith(("vae_zoo/", "vae_zoo-", "hydra_plugins/vae_zoo/"))]
    (listed,) = (content.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    for command in ("train", "evaluate"):
        assert f"vae-zoo-{command} = vae_zoo.cli.commands:{command}\n" in f"{listed}\n"


@pytest.mark.slow
def test_wheel_trains_and_evaluates_from_another_folder(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=tmp_path).strip())
    installed = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    (site / "installed_here.pth").write_text("\n".join(installed))  # the dependencies, which are not installed again

    work = tmp_path / "work"
    work.mkdir()
    where = run(python, "-c", "import vae_zoo; print(vae_zoo.__file__, vae_zoo.config_dir())", cwd=work).split()
    assert where == [str(site / "vae_zoo" / "__init__.py"), str(site / "vae_zoo" / "conf")]
    assert {"vae-zoo-train", "vae-zoo-evaluate"} <= {p.name for p in (tmp_path / "env" / "bin").iterdir()}
    said = run(python, "-c", COMMANDS, f"train {TINY} hydra.run.dir=run", "evaluate run=run", cwd=work)
    for name in ("config.yaml", "metrics.csv", "metrics.json", "report.html", "checkpoints/last.ckpt"):
        assert (work / "run" / name).is_file(), name
    assert "test/elbo" in said and (work / "run" / "evaluation" / "report.html").is_file()
    assert [p.name for p in work.iterdir()] == ["run"]
