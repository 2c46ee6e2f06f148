"""Terms that make clusters invariant to distortions x -> T x, confident and balanced.

In nats, with E over the batch:
    consistency = E [-sum_c q(c | x) log q(c | T x)]     no gradient through q(c | x)
    entropy     = E H(q(c | x))
    balance     = log K - H(E q(c | x))
With one weight w the last two are w * (log K - I(c; x)). Source: IMSAT (Hu et al., 2017, arXiv:1702.08720).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import NonNegative
from vae_zoo.contract import Term, Terms
from vae_zoo.schedules import Schedule, as_schedule


@dataclass(frozen=True)
class Invariance:
    """Terms of the module; all are off by default.

    Args:
        augment: Distorts images [B, C, H, W].
        consistency_weight: Weight of the cross-entropy between an image and its distorted copy, >= 0, a number or a schedule
            of the step.
        entropy_weight: Weight of the entropy of q(c | x), >= 0, a number or a schedule of the step.
        balance_weight: Weight of the balance of the clusters, >= 0, a number or a schedule of the step.

    Raises:
        ValueError: Only one of consistency_weight and a distortion is given.
    """

    augment: Callable[[Tensor], Tensor] | None = None
    consistency_weight: NonNegative | Schedule = 0.0
    entropy_weight: NonNegative | Schedule = 0.0
    balance_weight: NonNegative | Schedule = 0.0

    def __post_init__(self):
        means = [name for name, value in self.distortions().items() if value]
        if self.consistency_weight and not means:
            raise ValueError(f"consistency_weight > 0 needs {self.remedy}; set it")
        if means and not self.consistency_weight:
            off = {"augment": "null", "swap_local": "false"}[means[0]]
            raise ValueError(
                f"consistency_weight=0 leaves {means[0]} unused; give consistency_weight > 0, or {means[0]}={off}"
            )

    remedy: ClassVar[str] = "augment, such as vae_zoo.nets.RandomAffine"

    def distortions(self) -> dict[str, bool]:
        """The settings that distort a copy, and whether they are given."""
        return {"augment": self.augment is not None}

    def distort(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Applies augment, if there is one."""
        return x if self.augment is None else self.augment(x)

    def terms(
        self,
        step: int,
        log_c: Float[Tensor, "B K"],
        everybody: Float[Tensor, "N K"],
        copies: Callable[[], Float[Tensor, "B K"]],
    ) -> Terms:
        """The terms that are not off; consistency, which costs a pass of the encoder, only at steps where it has a weight.

        Args:
            step: Step of the schedules.
            log_c: log q(c | x), nats.
            everybody: The same of the images of all ranks.
            copies: Computes log q(c | T x).

        Returns:
            {`consistency`, `entropy`: [B], `balance`: []}, or {}.
        """
        if not (self.consistency_weight or self.entropy_weight or self.balance_weight):
            return {}
        weights = self.consistency_weight, self.entropy_weight, self.balance_weight
        consistency, entropy, balance = (as_schedule(weight)(step) for weight in weights)
        terms: Terms = {}
        if consistency:
            terms["consistency"] = Term(-(log_c.exp().detach() * copies()).sum(-1), consistency)
        # finite where a cluster has no image, and so is its gradient
        log_used = everybody.logsumexp(0) - log(len(everybody))  # [K]
        terms["entropy"] = Term(-(log_c.exp() * log_c).sum(-1), entropy or None)
        return terms | {"balance": Term(log(len(log_used)) + (log_used.exp() * log_used).sum(), balance or None)}


@dataclass(frozen=True)
class SwapInvariance(Invariance):
    """The same with copies that have z_local of another image.

    Args:
        swap_local: Whether the copies are decoded with z_local of other images; augment distorts them afterwards.
    """

    swap_local: bool = False
    remedy = "augment, such as vae_zoo.nets.RandomAffine, or swap_local=true"

    def distortions(self) -> dict[str, bool]:
        """The settings that distort a copy, and whether they are given."""
        return super().distortions() | {"swap_local": self.swap_local}
