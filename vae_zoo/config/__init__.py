"""Schemas of the config groups and the checks between them; imports neither torch nor lightning."""

from pathlib import Path


def config_dir() -> Path:
    """The folder of the Hydra configs: the checkout's `conf/` when there is one, else the wheel's copy."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    return checkout if (package.parent / "train.py").is_file() and checkout.is_dir() else package / "conf"
