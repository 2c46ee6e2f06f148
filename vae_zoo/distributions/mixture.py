"""Mixtures of diagonal Gaussians: a table of components, what a posterior pays to each, and how far they overlap."""

from math import log

import torch
from torch import Tensor, nn

from vae_zoo.distributions.normal import Normal


class ComponentTable(nn.Module):
    """K Gaussians in D dimensions with learned means and log-variances.

    Log-variances are 2 tanh(raw) - 1, in (-3, 1): a component can neither collapse nor cover everything. Means and `raw`
    start at N(0, 1). Source: sinahmr/parted-vae.
    """

    def __init__(self, num_components: int, dim: int):
        super().__init__()
        self.mu = nn.Parameter(torch.randn(num_components, dim))
        self.raw_logvar = nn.Parameter(torch.randn(num_components, dim))

    def forward(self) -> Normal:
        """mu, logvar [K, D]."""
        return Normal(self.mu, 2 * self.raw_logvar.tanh() - 1)


def kl_normal_per_dim(q: Normal, p: Normal) -> Tensor:
    """KL(q || p) of each dimension, nats, [..., D]; batch shapes broadcast."""
    return 0.5 * (p.logvar - q.logvar - 1 + (q.logvar - p.logvar).exp() + (q.mu - p.mu).square() * (-p.logvar).exp())


def kl_normal(q: Normal, p: Normal) -> Tensor:
    """KL(q || p), nats, [...]."""
    return kl_normal_per_dim(q, p).sum(-1)


def bhattacharyya(p: Normal, q: Normal) -> Tensor:
    """The Bhattacharyya coefficient, integral of sqrt(p q), [...] in (0, 1]: 1 where they are one.

    exp(-DB),  DB = 1/8 sum_d (mu_p - mu_q)^2 / v + 1/2 [sum_d log v - 1/2 sum_d (logvar_p + logvar_q)],
    v = (exp(logvar_p) + exp(logvar_q)) / 2.
    """
    log_v = torch.logaddexp(p.logvar, q.logvar) - log(2)
    distance = 0.125 * (p.mu - q.mu).square() * (-log_v).exp() + 0.5 * (log_v - 0.5 * (p.logvar + q.logvar))
    return (-distance.sum(-1)).exp()
