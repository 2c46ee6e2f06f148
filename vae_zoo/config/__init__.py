"""Schemas of the config groups and checks across groups; imports neither torch nor lightning."""

from pathlib import Path


def config_dir() -> Path:
    """The folder of the Hydra configs: `conf/` of the checkout if there is one, else the copy in the wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "conf"
    return checkout if (package.parent / "train.py").is_file() and checkout.is_dir() else package / "conf"
