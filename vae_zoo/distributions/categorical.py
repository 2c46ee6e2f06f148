"""Categorical variables, with different numbers of values, in one tensor and computed without a loop.

Flat [..., S]: the values of all variables side by side, S = K_1 + ... + K_J; logits, probabilities and codes (one 1 in each
variable) have this form. Padded [..., J, K]: one row for each variable, K = max K_j, for operations within each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from vae_zoo.distributions import noise


@dataclass(frozen=True)
class Categorical:
    """One categorical variable.

    Attributes:
        probs: Probabilities of the values; they sum to 1.
    """

    probs: Float[Tensor, "*batch K"]

    @property
    def mean(self) -> Float[Tensor, "... K"]:
        """The probabilities, which are a code too: the average of one-hot vectors."""
        return self.probs

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "... K"]:
        """One-hot draws, which carry no gradient.

        Args:
            sample_shape: Axes put before those of probs.

        Returns:
            [*sample_shape, ..., K].
        """
        scores = self.probs.log() + gumbel(self.probs, sample_shape)
        return F.one_hot(scores.argmax(-1), self.probs.shape[-1]).to(self.probs.dtype)

    def __getitem__(self, rows) -> "Categorical":
        return Categorical(self.probs[rows])


class CategoricalVariables(nn.Module):
    """J categorical variables with fixed priors.

    Args:
        sizes: K_1, ..., K_J, each >= 2.
        probs: Their priors one after the other, flat [S], each > 0; None: uniform. The sum of a variable may differ from
            1 by 0.02, since published ones are rounded; they are normalised.

    Raises:
        ValueError: A variable has fewer than 2 values, or probs do not fit.
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
        """S, the number of values of all variables."""
        return len(self.variable)

    def padded(self, flat: Shaped[Tensor, "*batch S"], fill: float) -> Shaped[Tensor, "*batch J K"]:
        """Turns the flat form into the padded one.

        Args:
            flat: Numbers of the values.
            fill: Padding of variables with fewer than K values.
        """
        return F.pad(flat, (0, 1), value=fill)[..., self.values]

    def sum(self, flat: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch J"]:
        """Sums within each variable."""
        return self.sum_rows(flat[..., None])[..., 0]

    def sum_rows(self, rows: Float[Tensor, "*batch S D"]) -> Float[Tensor, "*batch J D"]:
        """Sums the rows of each variable's values."""
        # not a matrix product, which autocast computes in bfloat16
        return F.pad(rows, (0, 0, 0, 1))[..., self.values, :].sum(-2)

    def log_prior(self, code: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch"]:
        """log p(c) of codes, nats."""
        return (code * self.probs.log()).sum(-1)

    def log_softmax(self, logits: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """Log-probabilities within each variable, in float32 or wider for networks of any precision, nats."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        return self.padded(logits, -torch.inf).log_softmax(-1).flatten(-2)[..., self.slots]

    def relaxed(self, log_probs: Float[Tensor, "*batch S"], temperature: float) -> Float[Tensor, "*batch S"]:
        """Draws from the Gumbel-softmax of each variable; not straight-through.

        Args:
            log_probs: Nats.
            temperature: > 0; the draw is one-hot in the limit 0.

        Returns:
            A relaxed code, whose values of each variable sum to 1.

        Source: Jang et al. (2017), equation 1.
        """
        return self.log_softmax((log_probs + gumbel(log_probs)) / temperature).exp()

    def hard(self, scores: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """Code with 1 at the largest score of each variable, 0 elsewhere."""
        return self.code(self.padded(scores, -torch.inf).argmax(-1), scores.dtype)

    def draw(self, log_probs: Float[Tensor, "... S"], sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "... S"]:
        """Draws codes from each variable.

        Args:
            log_probs: Nats.
            sample_shape: Axes put before those of log_probs.

        Returns:
            [*sample_shape, ..., S], one-hot within each variable.
        """
        return self.hard(log_probs + gumbel(log_probs, sample_shape))

    def code(self, classes: Int[Tensor, "*batch J"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*batch S"]:
        """Turns numbers of values into a code.

        Args:
            classes: Value of each variable, 0..K_j-1; -1: zeros.
            dtype: Dtype of the code.
        """
        place = torch.arange(self.num_values, device=classes.device) - self.first[self.variable]
        return (classes[..., self.variable] == place).to(dtype)

    def combinations(self) -> Float[Tensor, "M S"]:
        """The codes of all M = K_1 * ... * K_J combinations of values."""
        ranges = [torch.arange(size, device=self.variable.device) for size in self.sizes]
        return self.code(torch.cartesian_prod(*ranges).view(-1, len(self.sizes)))

    def kl(self, log_probs: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch J"]:
        """KL of each variable's probabilities to its prior, nats."""
        return self.sum(log_probs.exp() * (log_probs.clamp(min=-1e4) - self.probs.log()))

    def entropy(self, log_probs: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch J"]:
        """Entropy of each variable, nats."""
        return -self.sum(log_probs.exp() * log_probs.clamp(min=-1e4))  # so that 0 log 0 is 0

    def cross_entropy(self, log_probs: Float[Tensor, "B S"], labels: Int[Tensor, "B J"]) -> Float[Tensor, " B"]:
        """-log q(labels), summed over the variables that are known.

        Args:
            log_probs: Nats.
            labels: Value of each variable, -1 = unknown.

        Returns:
            Nats.
        """
        return -(self.code(labels) * log_probs.clamp(min=-1e4)).sum(-1)

    def names(self) -> list[str]:
        """Names of the blocks: c, or c1, c2, ..."""
        return ["c"] if len(self.sizes) == 1 else [f"c{j + 1}" for j in range(len(self.sizes))]

    def split(self, flat: Float[Tensor, "*batch S"]) -> dict[str, Float[Tensor, "*batch _"]]:
        """Splits the flat form into {name: [..., K_j]}."""
        return dict(zip(self.names(), flat.split(self.sizes, dim=-1)))


def gumbel(like: Float[Tensor, "..."], sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "..."]:
    """Standard Gumbel noise.

    Args:
        like: Gives shape, device and type.
        sample_shape: Axes put before those of `like`.

    Returns:
        [*sample_shape, *like.shape].
    """
    return -(-noise.uniform(like, sample_shape).log()).log()
