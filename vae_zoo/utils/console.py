"""Progress of long computations, and console output of other libraries."""

import io
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


def quiet() -> None:
    """Silences Lightning's banner and hints, which concern settings that vae_zoo fixes."""
    import lightning.pytorch  # noqa: F401  (sets the levels that are overruled here)

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*treespec, LeafSpec.*",  # Lightning calls a deprecated function of torch
        "The `srun` command is available",  # one process does not need srun, and check_launch checks several
        "Grad strides do not match bucket view strides",  # for axes of size 1 under ddp, whose strides do not matter
        ".*callbacks used to create the checkpoint need to be provided",  # a limit was removed with resume=
    ):
        warnings.filterwarnings("ignore", message)


class _Unread(io.FileIO):
    """A stream whose reader may have ended, as in `| head`: further output is discarded, and the command continues."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def tolerant_streams() -> None:
    """Tolerates a closed output, and prints the bytes of file names that are not UTF-8 unchanged."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):  # not that of a notebook or test
            stream.flush()
            buffer = io.BufferedWriter(_Unread(stream.fileno(), "w", closefd=False))
            new = io.TextIOWrapper(
                buffer, stream.encoding, "surrogateescape", None, stream.line_buffering, stream.write_through
            )
            setattr(sys, name, new)


@contextmanager
def progress(unit: str | None, total: int, done: int = 0, every: float = 10.0) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of newly completed units. Shows a bar in a terminal, otherwise lines.

    unit: what is counted; None: nothing is shown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = "{task.fields[unit]}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", TimeRemainingColumn()
    in_terminal = unit is not None and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not in_terminal) as bar:
        task = bar.add_task("", total=total, completed=done, rate="", unit=unit)
        start = shown = time.monotonic()

        def advance(n: int) -> None:
            nonlocal shown
            bar.advance(task, n)
            now, time_now = bar.tasks[0].completed, time.monotonic()
            rate = (now - done) / max(time_now - start, 1e-6)
            bar.update(task, rate=f"{rate:.0f}/s")
            if unit and not in_terminal and time_now - shown >= every:
                shown = time_now
                log.info("%s %s of %s, %.0f/s, %.0f s left", unit, f"{now:,}", f"{total:,}", rate, (total - now) / rate)

        yield advance
