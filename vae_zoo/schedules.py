"""Schedules: weights that change during training, pure functions of the step (the number of main batches), except Plateau.

A weight in a config is a number or one of these, e.g.
`model.beta={_target_: vae_zoo.schedules.Linear, start: 0, end: 4, steps: 1000}`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import cos, pi
from typing import Any, NamedTuple

from vae_zoo.config.types import Count, Finite, Index, NonNegative, Positive, Pretrain, Probability, Rise, Share, Stages


@dataclass(frozen=True)
class Constant:
    """The same value at every step.

    Args:
        value: The weight.
    """

    value: Finite

    def __call__(self, step: int) -> float:
        """The weight at a step >= 0."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` to `end`.

    It is `start` until step `begin`, then a straight line over the first `rise` of `steps` steps, then `end`.

    Args:
        start: First value.
        end: Last value.
        steps: Length, steps >= 1.
        begin: First step of the change, >= 0.
        rise: Share of `steps` that the change takes, in (0, 1].
    """

    start: Finite
    end: Finite
    steps: Count
    begin: Index = 0
    rise: Rise = 1.0

    def __call__(self, step: int) -> float:
        """The weight at a step >= 0."""
        return self.start + (self.end - self.start) * _fraction(step - self.begin, self.rise * self.steps)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` to `end`: as Linear, but slow at both ends.

    Args:
        start: First value.
        end: Last value.
        steps: Length, steps >= 1.
        begin: First step of the change, >= 0.
        rise: Share of `steps` that the change takes, in (0, 1].
    """

    start: Finite
    end: Finite
    steps: Count
    begin: Index = 0
    rise: Rise = 1.0

    def __call__(self, step: int) -> float:
        """The weight at a step >= 0."""
        done = _fraction(step - self.begin, self.rise * self.steps)
        return self.end + (self.start - self.end) * (1 + cos(pi * done)) / 2


@dataclass(frozen=True)
class Cyclic:
    """Cycles of a linear rise from `start` to `end`, then `end`.

    Args:
        start: First value of a cycle.
        end: Last value of a cycle.
        steps: Length of a cycle, steps >= 1.
        rise: Share of a cycle that the rise takes, in (0, 1].

    Source: Fu et al. (2019), Cyclical Annealing Schedule, equation 6.
    """

    start: Finite
    end: Finite
    steps: Count
    rise: Rise = 0.5

    def __call__(self, step: int) -> float:
        """The weight at a step >= 0."""
        return self.start + (self.end - self.start) * _fraction(step % self.steps, self.rise * self.steps)


@dataclass(frozen=True)
class Staircase:
    """1, times `factor` after each `every` steps.

    Args:
        factor: > 0.
        every: Steps >= 1.
    """

    factor: Positive
    every: Count

    def __call__(self, step: int) -> float:
        """The weight at a step >= 0."""
        return self.factor ** (step // self.every)


@dataclass(frozen=True)
class Plateau:
    """Rule that lowers a learning rate if the mean of a loss over `every` steps stops decreasing.

    Unlike the other schedules it has a state, that of torch's ReduceLROnPlateau, which checkpoints contain.

    Args:
        every: Steps over which the loss is averaged, >= 1.
        factor: Factor on the learning rate, in (0, 1).
        patience: Number of means without a decrease before the learning rate is lowered.
        threshold: Smallest decrease that counts, as a share of the best mean.
        cooldown: Number of means after a change that are ignored.
        least_change: Smaller changes of the learning rate are not made.
    """

    every: Count
    factor: Share = 0.5
    patience: Index = 2
    threshold: NonNegative = 0.01
    cooldown: Index = 4
    least_change: NonNegative = 1e-7

    def __call__(self, optimizer: Any) -> Any:
        """The rule for one optimiser: `step(mean)` of the result applies it."""
        from torch.optim.lr_scheduler import ReduceLROnPlateau  # configs are checked before torch is imported

        options = {"threshold": self.threshold, "cooldown": self.cooldown, "eps": self.least_change}
        return ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience, **options)


class FacetWeights(NamedTuple):
    """Weights of one facet at one step.

    Attributes:
        alpha: Alpha of its rung in the decoder, in [0, 1].
        gamma_z: Weight of KL(q(z) || p(z | c)).
        gamma_c: Weight of KL(q(c) || p(c)). Without clusters only the sum of the two is a divergence.
    """

    alpha: float
    gamma_z: float
    gamma_c: float


@dataclass(frozen=True)
class Progressive:
    """Facets enter one after the other, the deepest first: earlier ones have full weight, one is faded in, the others wait.

    For the facet that enters, alpha rises linearly from 0 to 1, and the gammas from their values while it waits. The deepest
    facet has alpha 1 from the start, and gammas of 1 too, unless `warm_up` is given. A fade ends when the next stage begins.

    Args:
        total: Steps in all.
        stages: Length of each stage, the deepest facet's first, in steps or, below 1, as a share of `total`; None: equal
            shares.
        fade_steps: Steps in which alpha rises; give this or fade_fraction.
        fade_fraction: Share of the stage in which alpha rises, in [0, 1].
        gamma_fade_steps: Steps in which the gammas rise; None, and no gamma_fade_fraction: as many as alpha.
        gamma_fade_fraction: Share of the stage in which the gammas rise, in [0, 1].
        gamma_start_z: gamma_z of a facet that waits, >= 0.
        gamma_start_c: gamma_c of a facet that waits, >= 0.
        pretrain: In the form of `stages`, number of steps, or share of its stage, that a facet is trained without its KL
            after it has entered, as in an autoencoder; None: 0.
        warm_up: Steps, or below 1 the share of its stage, in which the gammas of the deepest facet rise.

    Raises:
        ValueError: Not exactly one of fade_steps and fade_fraction is given, or both gamma fades are.

    Source: FabianFalck/mfcvae; Li et al. (2020); pretrain and warm_up are ours.
    """

    total: Count
    stages: Stages | None = None
    fade_steps: Index | None = None
    fade_fraction: Probability | None = None
    gamma_fade_steps: Index | None = None
    gamma_fade_fraction: Probability | None = None
    gamma_start_z: NonNegative = 0.0
    gamma_start_c: NonNegative = 0.0
    pretrain: Pretrain | None = None
    warm_up: NonNegative = 0.0

    def __post_init__(self):
        if (self.fade_steps is None) == (self.fade_fraction is None):
            raise ValueError(f"give either fade_steps or fade_fraction, got {self.fade_steps} and {self.fade_fraction}")
        if self.gamma_fade_steps is not None and self.gamma_fade_fraction is not None:
            raise ValueError("give gamma_fade_steps or gamma_fade_fraction, or neither, not both")

    def __call__(self, step: int, num_facets: int) -> list[FacetWeights]:
        """The weights of each facet at this step, the shallowest first."""
        entries = self._entries(num_facets)
        present = max(stage for stage, entry in enumerate(entries) if step >= entry)
        weights = []
        for stage in reversed(range(num_facets)):
            if stage > present:
                weights.append(FacetWeights(0.0, self.gamma_start_z, self.gamma_start_c))
            elif stage < present:
                weights.append(FacetWeights(1.0, 1.0, 1.0))
            else:
                weights.append(self._entering(stage, step - entries[stage], num_facets))
        return weights

    def begins(self, num_facets: int) -> list[int]:
        """The step from which the KL of each facet counts, the shallowest first.

        It is the step at which the facet enters, plus its `pretrain`.

        Args:
            num_facets: J.

        Raises:
            ValueError: `stages` or `pretrain` has another number of facets.
        """
        pretrained = (self._pretrained(stage, num_facets) for stage in range(num_facets))
        return [entry + updates for entry, updates in zip(self._entries(num_facets), pretrained)][::-1]

    def _entries(self, num_facets: int) -> list[int]:
        """The first step of each stage."""
        return [0, *accumulate(self._lengths(num_facets)[:-1])]

    def _lengths(self, num_facets: int) -> list[int]:
        """Updates of each stage."""
        stages = self._of_each_stage("stages", num_facets, 1 / num_facets if num_facets > 1 else self.total)
        return [_updates(length, self.total) for length in stages]

    def _pretrained(self, stage: int, num_facets: int) -> int:
        updates = self._of_each_stage("pretrain", num_facets, 0)[stage]
        return _updates(updates, self._lengths(num_facets)[stage])

    def _of_each_stage(self, name: str, num_facets: int, default: float) -> Sequence[float]:
        values = getattr(self, name)
        if values is not None and len(values) != num_facets:
            raise ValueError(f"{name} needs a number for each of the {num_facets} facets, got {len(values)}")
        return [default] * num_facets if values is None else values

    def _entering(self, stage: int, n: int, num_facets: int) -> FacetWeights:
        """Weights of the facet of this stage after n updates of the stage."""
        length, pretrained = self._lengths(num_facets)[stage], self._pretrained(stage, num_facets)
        fade = length * (self.fade_fraction or 0.0) if self.fade_steps is None else self.fade_steps
        gamma_fade = fade if self.gamma_fade_steps is None else self.gamma_fade_steps
        if self.gamma_fade_fraction is not None:
            gamma_fade = length * self.gamma_fade_fraction
        if stage == 0:
            fade, gamma_fade = 0, _updates(self.warm_up, length)
        f = _fraction(n - pretrained, gamma_fade)
        gammas = (start + (1 - start) * f for start in (self.gamma_start_z, self.gamma_start_c))
        return FacetWeights(_fraction(n, fade), *gammas)


Schedule = Callable[[int], float]  # as a constructor takes it: one of the above, or a function of the user


def as_schedule(weight: float | Schedule) -> Schedule:
    """Makes a schedule of a number; a callable of the step is returned unchanged."""
    return weight if callable(weight) else Constant(float(weight))


def _updates(length: float, total: int) -> int:
    """A number of updates, or below 1 their share of `total`."""
    return round(length * total) if length < 1 else int(length)


def _fraction(step: float, steps: float) -> float:
    return min(max(step / steps, 0.0), 1.0) if steps > 0 else float(step >= 0)
