"""Categorical variables, one or several of different numbers of values, all of them in one tensor and without a loop.

Flat [..., S]: the values of all variables side by side, S = K_1 + ... + K_J; logits, probabilities, codes (one 1 in each
variable) look so. Padded [..., J, K_max]: a row a variable, for what is done within each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_zoo.distributions import noise


@dataclass(frozen=True)
class Categorical:
    """One categorical variable; probs: [..., K]. Its mean is a code too: the average of one-hot vectors."""

    probs: Tensor

    @property
    def mean(self) -> Tensor:
        return self.probs

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """One-hot draws [*sample_shape, ..., K], which carry no gradient."""
        scores = self.probs.log() + gumbel(self.probs, sample_shape)
        return F.one_hot(scores.argmax(-1), self.probs.shape[-1]).to(self.probs.dtype)

    def __getitem__(self, rows) -> "Categorical":
        return Categorical(self.probs[rows])


class CategoricalVariables(nn.Module):
    """sizes: K_1, ..., K_J. probs: their priors one after the other, flat, each > 0; null: uniform. Probabilities of a
    variable may be off 1 by 0.02, as published ones are, and are normalised.
    """

    def __init__(self, sizes: Sequence[int], probs: Sequence[float] | None = None):
        super().__init__()
        if min(sizes, default=0) < 2:
            raise ValueError(f"a categorical variable needs 2 values or more, got {[*sizes]}")
        self.sizes = tuple(sizes)
        variable = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))  # [S]
        first = torch.tensor([0, *sizes]).cumsum(0)[:-1]  # [J]
        place = torch.arange(len(variable)) - first[variable]
        padded = torch.full((len(sizes), max(sizes)), len(variable))  # S: the padding that `padded` appends
        padded[variable, place] = torch.arange(len(variable))
        self.variable = nn.Buffer(variable, persistent=False)  # of each value, [S]
        self.first = nn.Buffer(first, persistent=False)  # of each variable, its first value, [J]
        self.slots = nn.Buffer(variable * max(sizes) + place, persistent=False)  # of each value, in the padded table
        self.values = nn.Buffer(padded, persistent=False)
        self.member = nn.Buffer(F.one_hot(variable, len(sizes)).T.float(), persistent=False)  # [J, S]
        given = torch.ones(len(variable)) / torch.tensor(sizes)[variable] if probs is None else torch.tensor(probs)
        if len(given) != len(variable) or not (given > 0).all():
            got = [round(p, 6) for p in given.tolist()]
            raise ValueError(
                f"class_probs needs {len(variable)} numbers > 0, one for each value, got {got}; leave out a value that "
                f"never occurs"
            )
        sums = self.sum(given)
        if (sums - 1).abs().max() > 0.02:
            raise ValueError(f"the class_probs of a variable must sum to 1, got {[round(s, 3) for s in sums.tolist()]}")
        self.probs = nn.Buffer(given / sums[variable], persistent=False)  # [S]

    @property
    def num_values(self) -> int:
        return len(self.variable)

    def padded(self, flat: Tensor, fill: float) -> Tensor:
        """[..., S] -> [..., J, K_max]."""
        return F.pad(flat, (0, 1), value=fill)[..., self.values]

    def sum(self, flat: Tensor) -> Tensor:
        """Within each variable, [..., S] -> [..., J]."""
        return self.sum_rows(flat[..., None])[..., 0]

    def sum_rows(self, rows: Tensor) -> Tensor:
        """Sums the rows of each variable's values, [..., S, D] -> [..., J, D].

        Not a matrix product, which autocast computes in bfloat16.
        """
        return F.pad(rows, (0, 0, 0, 1))[..., self.values, :].sum(-2)

    def log_prior(self, code: Tensor) -> Tensor:
        """log p(c) of codes, nats: [..., S] -> [...]."""
        return (code * self.probs.log()).sum(-1)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Within each variable, float32 or wider whatever the network's precision: [..., S] -> [..., S]."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return self.padded(logits, -torch.inf).log_softmax(-1).flatten(-2)[..., self.slots]

    def relaxed(self, log_probs: Tensor, temperature: float) -> Tensor:
        """A draw of the Gumbel-softmax of each variable, [..., S]; no straight-through. Source: Jang et al. (2017), 1."""
        return self.log_softmax((log_probs + gumbel(log_probs)) / temperature).exp()

    def hard(self, scores: Tensor) -> Tensor:
        """1 at the largest value of each variable, 0 elsewhere, [..., S]."""
        return self.code(self.padded(scores, -torch.inf).argmax(-1), scores.dtype)

    def draw(self, log_probs: Tensor, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Codes drawn from each variable, [*sample_shape, ..., S]."""
        return self.hard(log_probs + gumbel(log_probs, sample_shape))

    def code(self, classes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Value numbers [..., J] as a code [..., S]; -1: zeros."""
        place = torch.arange(self.num_values, device=classes.device) - self.first[self.variable]
        return (classes[..., self.variable] == place).to(dtype)

    def combinations(self) -> Tensor:
        """The codes of all combinations of values, [K_1 * ... * K_J, S]."""
        ranges = [torch.arange(size, device=self.variable.device) for size in self.sizes]
        return self.code(torch.cartesian_prod(*ranges).view(-1, len(self.sizes)))

    def kl(self, log_probs: Tensor) -> Tensor:
        """KL of each variable's probabilities to the prior, nats: [..., S] -> [..., J]."""
        return self.sum(log_probs.exp() * (log_probs.clamp(min=-1e4) - self.probs.log()))

    def entropy(self, log_probs: Tensor) -> Tensor:
        """Of each variable, nats: [..., S] -> [..., J]."""
        return -self.sum(log_probs.exp() * log_probs.clamp(min=-1e4))  # so that 0 log 0 is 0

    def cross_entropy(self, log_probs: Tensor, labels: Tensor) -> Tensor:
        """-log q(labels) summed over the variables that are known, nats: [B]. labels: [B, J] int64, -1 = unknown."""
        return -(self.code(labels) * log_probs.clamp(min=-1e4)).sum(-1)

    def names(self) -> list[str]:
        """Of the blocks: c, or c1, c2, ..."""
        return ["c"] if len(self.sizes) == 1 else [f"c{j + 1}" for j in range(len(self.sizes))]

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """[..., S] -> {name: [..., K_j]}."""
        return dict(zip(self.names(), flat.split(self.sizes, dim=-1)))


def gumbel(like: Tensor, sample_shape: tuple[int, ...] = ()) -> Tensor:
    """Standard Gumbel noise [*sample_shape, *like.shape]."""
    return -(-noise.uniform(like, sample_shape).log()).log()
