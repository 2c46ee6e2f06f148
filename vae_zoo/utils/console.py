"""Console output of other libraries."""

import io
import logging
import sys
import warnings
from typing import Any


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


class _Unread(io.FileIO):
    """A stream whose reader may have ended, as in `| head`: what is written then is dropped, and the command goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def tolerant_streams() -> None:
    """Lets the output end early, and prints file names whose bytes are not UTF-8 as they are."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):  # not that of a notebook or test
            stream.flush()
            buffer = io.BufferedWriter(_Unread(stream.fileno(), "w", closefd=False))
            new = io.TextIOWrapper(
                buffer, stream.encoding, "surrogateescape", None, stream.line_buffering, stream.write_through
            )
            setattr(sys, name, new)
