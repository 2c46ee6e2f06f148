"""Handlers of signals that hold for a while."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handled(handler: Callable[[int, Any], None], *signums: int) -> Iterator[None]:
    """Calls `handler` for these signals, and puts back the earlier handlers at the end."""
    earlier = {signum: signal.signal(signum, handler) for signum in signums}
    try:
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)
