"""Signals that ask a command to stop, whoever sends them."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BEFORE_A_LIMIT = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)  # from schedulers and closed terminals
SAME = 1.0  # seconds within which a signal that comes twice is one: a launcher and the parent process both send it on
_ours: list[Any] = [signal.SIG_DFL]


class Interrupted(BaseException):
    """A signal to stop, taken between two steps, the state saved."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def stopping() -> tuple[signal.Signals, ...]:
    """Ctrl-C, SIGTERM, and what schedulers send ahead of a time limit, unless nohup or a launcher (submitit) has it."""
    free = (signum for signum in BEFORE_A_LIMIT if signal.getsignal(signum) in _ours)
    return (signal.SIGINT, signal.SIGTERM, *free)


def exit_code(signum: int) -> int:
    """130 for Ctrl-C; every other signal to stop is taken as SIGTERM, which is 143."""
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

    In training the run saves between two steps; elsewhere, or at the same signal again, it stops at once.

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
        """While a checkpoint callback looks at `received`. Raises Interrupted where it came too late for that."""
        self._saves = True
        try:
            yield
        finally:
            self._saves = False
        if self.received is not None:
            raise Interrupted(self.received)

    def take_back(self) -> None:
        """From Lightning, which puts a handler of its own around that of SIGTERM and would stop without saving."""
        signal.signal(signal.SIGTERM, self)
