"""Which of N cells hold an object: relaxed binary variables, and a prior that knows only how many objects are likely.

Relaxed: y = (a + L) / tau, L logistic, z = sigmoid(y): z > 0.5 with probability sigmoid(a) for every temperature tau. As z
is a function of y, divergences are those of y. Source: Maddison et al. (2017), The Concrete Distribution, appendix B.

Count prior: p(C = k) = s^k / sum_j s^j for k = 0..N, and given C all choices of C cells alike. Visited one after the other,
cell i holds an object with log-odds that depend on i and on the m objects before it alone, so they are a table: with A[i, m]
the probability of any one prefix of i cells, m of them occupied,
    A[N, m] = p(C = m) / binom(N, m),    A[i, m] = A[i + 1, m] + A[i + 1, m + 1]
    odds[i, m] = A[i + 1, m + 1] / A[i + 1, m]
Source: 51616/split-vae, spair/, which has the same as a loop over cells.
"""

from functools import lru_cache
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import gammaln, logsumexp
from torch import Tensor

from vae_zoo.utils.memory import to_device

CPU = torch.device("cpu")


def log_relaxed(y: Tensor, logit: Tensor, temperature: float) -> Tensor:
    """Log-density of y, nats, elementwise."""
    return log(temperature) + logit - temperature * y - 2 * F.softplus(logit - temperature * y)


def kl_relaxed(logit: Tensor, prior_logit: Tensor) -> Tensor:
    """KL between relaxed variables of one temperature, whatever it is: d coth(d / 2) - 2, d = logit - prior_logit; nats."""
    d = logit - prior_logit
    near = d.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(d), d)
    return torch.where(near, d.square() / 6, safe / (safe / 2).tanh() - 2)


def kl_bernoulli(logit: Tensor, prior_logit: Tensor) -> Tensor:
    """KL between Bernoulli variables, nats, elementwise."""
    on = logit.sigmoid() * (F.logsigmoid(logit) - F.logsigmoid(prior_logit))
    return on + (-logit).sigmoid() * (F.logsigmoid(-logit) - F.logsigmoid(-prior_logit))


@lru_cache(maxsize=4)
def count_log_odds(s: float, N: int, device: torch.device = CPU) -> Tensor:
    """log odds[i, m] of N cells, float32 [N, N]; entries with m > i mean nothing. s > 0: p(C = k + 1) / p(C = k)."""
    k = np.arange(N + 1)
    log_s = k * log(s)
    log_a = log_s - np.asarray(logsumexp(log_s)) - (gammaln(N + 1) - gammaln(k + 1) - gammaln(N - k + 1))  # [N + 1]
    table = np.zeros((N, N))
    for i in range(N - 1, -1, -1):
        table[i, : i + 1] = np.diff(log_a)
        log_a = np.logaddexp(log_a[:-1], log_a[1:])
    return to_device(torch.from_numpy(table).float(), device)


def prior_log_odds(occupied: Tensor, s: float) -> Tensor:
    """The count prior's log-odds of each cell given the cells before it; occupied: bool [B, N] -> [B, N]."""
    N = occupied.shape[1]
    before = occupied.long().cumsum(1) - occupied.long()
    return count_log_odds(s, N, occupied.device)[torch.arange(N, device=occupied.device), before]


def sample_occupied(n: int, N: int, s: float, device: torch.device) -> Tensor:
    """Draws of the count prior, bool [n, N]."""
    k = torch.arange(N + 1, device=device)
    count = torch.multinomial((k * log(s)).softmax(0), n, replacement=True)
    return torch.rand(n, N, device=device).argsort(1) < count[:, None]
