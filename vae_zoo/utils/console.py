"""Console output of other libraries."""

import io
import logging
import sys
import warnings


def quiet() -> None:
    """Silences Lightning's banner and hints, which concern settings that vae_zoo fixes."""
    import lightning.pytorch  # noqa: F401  (sets the levels that are overruled here)

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*treespec, LeafSpec.*",  # Lightning calls a deprecated function of torch
        "The `srun` command is available",  # one process needs none, and several are told in check_launch
        ".*callbacks used to create the checkpoint need to be provided",  # a limit was taken away beside resume=
    ):
        warnings.filterwarnings("ignore", message)


def allow_any_name() -> None:
    """Prints file names whose bytes are not UTF-8 as they are, which would raise UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
