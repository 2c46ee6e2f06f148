"""Mistakes and --help are answered before anything heavy is imported."""

import subprocess
import sys

import pytest

from tests.commands import environment

HEAVY = (
    "torch",
    "lightning",
    "torchvision",
    "torchmetrics",
    "sklearn",
    "matplotlib",
    "numpy",
    "scipy",
    "wandb",
    "pandas",
)
PROGRAM = f"""
import sys
from vae_zoo.cli import commands as cli
script, *words = sys.argv[1:]
sys.argv = [script + ".py", *words]
try:
    code = getattr(cli, script)()
except SystemExit as error:
    code = error.code
print("heavy:", [name for name in {HEAVY} if name in sys.modules])
sys.exit(code)
"""


def answer(folder, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=folder, env=environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "words, code",
    [
        (["train", "model=beta_vae", "model.bta=1"], 2),
        (["train", "model=beta_vae", "model.beta=-1"], 2),
        (["train", "data=digits", "data.size=8"], 2),
        (["train", "resume=nowhere"], 2),
        (["evaluate", "run=nowhere"], 2),
        (["evaluate", "--help"], 0),
    ],
)
def test_the_answer_needs_nothing_heavy(words, code, tmp_path):
    done = answer(tmp_path, *words)
    assert done.returncode == code and done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_help_lists_groups_and_experiments(tmp_path):
    experiment = tmp_path / "conf" / "experiment" / "mine" / "digits.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nseed: 3\n")
    done = answer(tmp_path, "train", "--config-dir", "conf", "--help")
    assert done.returncode == 0 and done.stdout.endswith("heavy: []\n")
    for line in (
        "experiment/mine: digits",
        "trainer: cpu, ddp, ddp_cpu, debug, default, gpu",
        "model/network: conv, conv_norm, conv_vlae, fc_vlae, mlp, parted218, parted32, parted64, split, vade",
    ):
        assert f"{line}\n" in done.stdout
    assert "resume=<run folder>" in done.stdout
