"""Weights that change while training: pure functions of the step (= main batches), stored by nobody.

A weight in a config is a number or one of these, e.g.
`model.beta={_target_: vae_zoo.schedules.Linear, start: 0, end: 4, steps: 1000}`.
"""

from dataclasses import dataclass
from math import cos, pi


@dataclass(frozen=True)
class Constant:
    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """`start` until step `begin`, then a straight line to `end` over `steps` steps, then `end`."""

    start: float
    end: float
    steps: int
    begin: int = 0

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * _fraction(step - self.begin, self.steps)


@dataclass(frozen=True)
class Cosine:
    """As Linear, along half a cosine: slow at both ends."""

    start: float
    end: float
    steps: int
    begin: int = 0

    def __call__(self, step: int) -> float:
        return self.end + (self.start - self.end) * (1 + cos(pi * _fraction(step - self.begin, self.steps))) / 2


@dataclass(frozen=True)
class Cyclic:
    """Cycles of `steps` steps: a linear rise from `start` to `end` over the first `rise` of each, then `end`.

    Source: Fu et al. (2019), Cyclical Annealing Schedule, equation 6.
    """

    start: float
    end: float
    steps: int
    rise: float = 0.5

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * _fraction(step % self.steps, self.rise * self.steps)


Schedule = Constant | Linear | Cosine | Cyclic


def as_schedule(weight: "float | Schedule") -> Schedule:
    """A number stands for the constant; anything callable with the step is taken as it is."""
    return weight if callable(weight) else Constant(float(weight))


def _fraction(step: float, steps: float) -> float:
    return min(max(step / steps, 0.0), 1.0) if steps > 0 else float(step >= 0)
