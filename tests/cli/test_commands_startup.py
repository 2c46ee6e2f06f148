"""Mistakes and --help are answered before anything heavy is imported."""

import subprocess
import sys

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
for line in sys.argv[1:]:
    script, *sys.argv[1:] = line.split()
    sys.argv[0] = script + ".py"
    try:
        code = getattr(cli, script)()
    except SystemExit as error:
        code = error.code
    print(f"{{code}}: {{line}}, heavy:", [name for name in {HEAVY} if name in sys.modules])
"""


def answer(folder, *lines: str) -> str:
    """What a process says that is given these commands one after the other."""
    words = [sys.executable, "-c", PROGRAM, *lines]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_answer_needs_nothing_heavy(tmp_path):
    codes = {
        "train model=beta_vae model.bta=1": 2,
        "train model=beta_vae model.beta=-1": 2,
        "train data=digits data.size=8": 2,
        "train resume=nowhere": 2,
        "evaluate run=nowhere": 2,
        "evaluate --help": 0,
    }
    said = answer(tmp_path, *codes).splitlines()
    for line, code in codes.items():
        assert f"{code}: {line}, heavy: []" in said
    assert not list(tmp_path.iterdir())


def test_help_lists_groups_and_experiments(tmp_path):
    experiment = tmp_path / "conf" / "experiment" / "mine" / "digits.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nseed: 3\n")
    said = answer(tmp_path, "train --config-dir conf --help")
    assert said.endswith("0: train --config-dir conf --help, heavy: []\n")
    for line in (
        "experiment/mine: digits",
        "trainer: cpu, ddp, ddp_cpu, debug, default, fast, gpu",
        "model/network: conv, conv_norm, conv_vlae, fc_vlae, mlp, parted218, parted32, parted64, split, vade",
    ):
        assert f"{line}\n" in said
    assert "resume=<run folder>" in said
