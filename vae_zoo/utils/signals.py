"""Signals that ask a command to stop."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BEFORE_A_LIMIT = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)  # from schedulers and closed terminals
SAME = 1.0  # seconds within which equal signals count once: a launcher and the parent process may both forward one
_ours: list[Any] = [signal.SIG_DFL]


class Interrupted(BaseException):
    """Raised between two steps after a signal to stop, when the state is saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def stopping() -> tuple[signal.Signals, ...]:
    """Ctrl-C, SIGTERM, and signals of schedulers before a time limit, unless nohup or a launcher (submitit) handles them."""
    free = (signum for signum in BEFORE_A_LIMIT if signal.getsignal(signum) in _ours)
    return (signal.SIGINT, signal.SIGTERM, *free)


def exit_code(signum: int) -> int:
    """130 for Ctrl-C; every other signal to stop counts as SIGTERM, 143."""
    return 130 if signum == signal.SIGINT else 143


@contextmanager
def handled(handler: Callable[[int, Any], None], *signums: int) -> Iterator[None]:
    """Calls `handler` for these signals, and restores the earlier handlers at the end."""
    _ours.append(handler)
    earlier = {signum: signal.signal(signum, handler) for signum in signums}
    try:
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)
        _ours.remove(handler)


class Signals:
    """Handler of the signals to stop.

    In training the run saves between two steps; at other times, or after the same signal again, it stops at once.

    received: the first of them.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._at: dict[int, float] = {}
        self._saves = False

    def __call__(self, signum: int, frame: Any) -> None:
        now, before = time.monotonic(), self._at.get(signum)
        if before is not None and now - before < SAME:
            return
        self._at[signum] = now
        first, self.received = self.received is None, self.received or signum
        if before is not None or (first and not self._saves):
            raise KeyboardInterrupt

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context in which a checkpoint callback checks `received`. Raises Interrupted if a signal came too late."""
        self._saves = True
        try:
            yield
        finally:
            self._saves = False
        if self.received is not None:
            raise Interrupted(self.received)

    def take_back(self) -> None:
        """Restores the handler of SIGTERM, since Lightning wraps it in its own and would stop without saving."""
        signal.signal(signal.SIGTERM, self)
