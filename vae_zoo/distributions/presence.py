"""Presence of objects in O cells: relaxed binary variables, and a prior that depends only on the number of objects.

Relaxed: y = (a + L) / tau, L logistic, z = sigmoid(y): z > 0.5 with probability sigmoid(a) for every temperature tau. As z
is a function of y, divergences are those of y. Source: Maddison et al. (2017), The Concrete Distribution, appendix B.

Count prior: p(C = k) = s^k / sum_j s^j for k = 0..O, and given C all sets of C cells are equally likely. In a fixed order of
the cells, the log-odds of an object in cell i depend only on i and on the number m of objects before it, so they are a
table: with A[i, m] the probability of each single prefix of i cells, m of them occupied,
    A[O, m] = p(C = m) / binom(O, m),    A[i, m] = A[i + 1, m] + A[i + 1, m + 1]
    odds[i, m] = A[i + 1, m + 1] / A[i + 1, m]
Source: 51616/split-vae, spair/, which computes the same in a loop over cells.
"""

from functools import lru_cache
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.special import gammaln, logsumexp
from torch import Tensor

from vae_zoo.utils.memory import to_device

CPU = torch.device("cpu")


def log_relaxed(y: Float[Tensor, "*#batch"], logit: Float[Tensor, "*#batch"], temperature: float) -> Float[Tensor, "..."]:
    """Log-density of a relaxed variable.

    Args:
        y: The value before the sigmoid.
        logit: Log-odds a of presence.
        temperature: tau > 0.

    Returns:
        Nats.
    """
    return log(temperature) + logit - temperature * y - 2 * F.softplus(logit - temperature * y)


def kl_relaxed(logit: Float[Tensor, "*#batch"], prior_logit: Float[Tensor, "*#batch"]) -> Float[Tensor, "..."]:
    """KL, nats, of relaxed variables with equal temperatures, which cancel: d coth(d / 2) - 2, d = logit - prior_logit."""
    d = logit - prior_logit
    near = d.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(d), d)
    return torch.where(near, d.square() / 6, safe / (safe / 2).tanh() - 2)


def kl_bernoulli(logit: Float[Tensor, "*#batch"], prior_logit: Float[Tensor, "*#batch"]) -> Float[Tensor, "..."]:
    """KL between Bernoulli variables of these log-odds, nats."""
    on = logit.sigmoid() * (F.logsigmoid(logit) - F.logsigmoid(prior_logit))
    return on + (-logit).sigmoid() * (F.logsigmoid(-logit) - F.logsigmoid(-prior_logit))


@lru_cache(maxsize=4)
def count_log_odds(s: float, num_cells: int, device: torch.device = CPU) -> Float[Tensor, "O O"]:
    """Table of log odds[i, m]; entries with m > i are meaningless.

    Args:
        s: p(C = k + 1) / p(C = k), > 0.
        num_cells: O.
        device: Device of the table.
    """
    k = np.arange(num_cells + 1)
    log_s = k * log(s)
    log_a = (
        log_s - np.asarray(logsumexp(log_s)) - (gammaln(num_cells + 1) - gammaln(k + 1) - gammaln(num_cells - k + 1))
    )  # [O + 1]
    table = np.zeros((num_cells, num_cells))
    for i in range(num_cells - 1, -1, -1):
        table[i, : i + 1] = np.diff(log_a)
        log_a = np.logaddexp(log_a[:-1], log_a[1:])
    return to_device(torch.from_numpy(table).float(), device)


def prior_log_odds(occupied: Bool[Tensor, "B O"], s: float) -> Float[Tensor, "B O"]:
    """The count prior's log-odds of each cell given the cells before it.

    Args:
        occupied: Whether each cell holds an object.
        s: p(C = k + 1) / p(C = k), > 0.
    """
    num_cells = occupied.shape[1]
    before = occupied.long().cumsum(1) - occupied.long()
    return count_log_odds(s, num_cells, occupied.device)[torch.arange(num_cells, device=occupied.device), before]


def sample_occupied(n: int, num_cells: int, s: float, device: torch.device) -> Bool[Tensor, "n O"]:
    """Draws from the count prior.

    Args:
        n: Number of scenes.
        num_cells: O.
        s: p(C = k + 1) / p(C = k), > 0.
        device: Device of the draws.
    """
    k = torch.arange(num_cells + 1, device=device)
    count = torch.multinomial((k * log(s)).softmax(0), n, replacement=True)
    return torch.rand(n, num_cells, device=device).argsort(1) < count[:, None]
