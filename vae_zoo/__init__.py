"""vae_zoo: VAEs whose latent space is split into named blocks.

Everything heavy is imported on first use, so that configuration errors and `--help` answer at once.
"""

from typing import TYPE_CHECKING

from vae_zoo.config import config_dir
from vae_zoo.utils.errors import UserError

if TYPE_CHECKING:
    from vae_zoo.runs.load import load_model

__all__ = ["UserError", "config_dir", "load_model"]
__version__ = "0.2.0"


def __getattr__(name: str):
    if name == "load_model":
        from vae_zoo.runs.load import load_model

        return load_model
    raise AttributeError(f"module 'vae_zoo' has no attribute {name!r}")
