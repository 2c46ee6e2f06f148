"""vae_zoo: VAEs whose latent space is split into named blocks.

Heavy modules are imported on first use, so that `--help` and configuration errors are shown at once.
"""

from typing import TYPE_CHECKING

from vae_zoo.config import config_dir
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.lazy import importer

if TYPE_CHECKING:
    from vae_zoo.runs.export import export
    from vae_zoo.runs.load import load_model

__all__ = ["UserError", "config_dir", "export", "load_model"]
__version__ = "0.2.0"


__getattr__ = importer("vae_zoo", {"export": "runs.export", "load_model": "runs.load"})
