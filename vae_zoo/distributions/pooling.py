"""Pooling: combines the Gaussians of the images of a group into one Gaussian, for groups of any size.

v is a variance, l = -log v a log-precision, sums are over the images i of a group, n their number:

product              1/v_G = sum_i 1/v_i          mu_G = sum_i w_i mu_i,  w_i = (1/v_i) / (1/v_G)     variance falls with n
product_with_prior   1/v_G = 1 + sum_i 1/v_i      the same: N(0, 1) is one of the factors
mean                 v_G = 1/n sum_i v_i          mu_G = 1/n sum_i mu_i
mean_precision       1/v_G = 1/n sum_i 1/v_i      mu_G as in product

Sources: product, Bouchacourt et al. (2018); mean, Hosoya (2019) as in disentanglement_lib's GroupVAEBase; mean_precision,
MLVae of disentanglement_lib. The posterior of a linear Gaussian model has the second form for every n, but the
first for one n only: use the second if groups differ in size.
"""

from math import inf
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from vae_zoo.distributions.normal import Normal

Evidence = Literal["product", "product_with_prior", "mean", "mean_precision"]


def pool(q: Normal, group: Int[Tensor, " B"], num_groups: int, evidence: Evidence = "product") -> Normal:
    """Pools the Gaussians of images into one Gaussian for each group.

    Args:
        q: Gaussians of B images, [B, D].
        group: Group of each image, 0..num_groups-1, in any order. No group may be empty, except under
            `product_with_prior`, which then gives the prior.
        num_groups: G.
        evidence: The rule, see above.

    Returns:
        G Gaussians, [G, D].

    Raises:
        ValueError: There is no such rule.
    """
    if evidence not in get_args(Evidence):
        raise ValueError(f"evidence must be one of {', '.join(get_args(Evidence))}, got {evidence!r}")
    # sums are computed from logarithms, so that precisions neither overflow nor underflow
    log_n = segment_sum(torch.ones_like(q.mu[:, :1]), group, num_groups).log()  # [G, 1]
    if evidence == "mean":
        mean = segment_sum(q.mu, group, num_groups) * (-log_n).exp()
        return Normal(mean, segment_logsumexp(q.logvar, group, num_groups) - log_n)
    least = 0.0 if evidence == "product_with_prior" else -inf  # log-precision of the prior factor
    log_precision = segment_logsumexp(-q.logvar, group, num_groups, least)  # [G, D]
    weight = (-q.logvar - log_precision[group]).exp()  # [B, D], sums to 1 in a group, or to less with the prior
    mu = segment_sum(weight * q.mu, group, num_groups)
    return Normal(mu, log_n - log_precision if evidence == "mean_precision" else -log_precision)


def without_prior(q: Normal) -> Normal:
    """Evidence of an image without the prior: q / N(0, I), so that product_with_prior returns q again.

    A dimension whose variance is not below that of the prior has no evidence, since evidence cannot increase the variance.

    Args:
        q: Posterior of an image, [..., D].
    """
    precision = torch.expm1(-q.logvar).clamp(min=torch.finfo(q.mu.dtype).eps)  # 1 / v - 1
    mu = torch.where(q.logvar < 0, q.mu * (-q.logvar).exp() / precision, 0.0)
    return Normal(mu, -precision.log())


def log_same_group(a: Normal, b: Normal) -> Float[Tensor, "..."]:
    """log p(images of a and b | one group) - log p(... | two groups), nats.

    Exact if q(z | x) is proportional to p(x | z) N(z; 0, I).

    Args:
        a: Pooled with `product_with_prior`, [..., D].
        b: The same of other images.
    """
    precisions = [(-q.logvar).exp() for q in (a, b)]
    precisions.append(precisions[0] + precisions[1] - 1)  # together, the prior counted once
    weighted = [q.mu * precision for q, precision in zip((a, b), precisions)]
    weighted.append(weighted[0] + weighted[1])
    evidence = [(w.square() / p - p.log()).sum(-1) for w, p in zip(weighted, precisions)]  # 2 log p + terms that cancel
    return 0.5 * (evidence[2] - evidence[0] - evidence[1])


def segment_sum(x: Shaped[Tensor, "B ..."], group: Int[Tensor, " B"], num_groups: int) -> Shaped[Tensor, "G ..."]:
    """Sums the rows of x by group.

    Args:
        x: One row for each image.
        group: Group of each row, 0..num_groups-1.
        num_groups: G.
    """
    return x.new_zeros(num_groups, *x.shape[1:]).index_add(0, group, x)


def segment_logsumexp(
    x: Float[Tensor, "B D"], group: Int[Tensor, " B"], num_groups: int, least: float = -inf
) -> Float[Tensor, "G D"]:
    """log(exp(least) + sum of exp(x) over the rows of a group).

    Args:
        x: One row for each image.
        group: Group of each row, 0..num_groups-1.
        num_groups: G.
        least: Log of a summand of every group.
    """
    rows = group[:, None].expand_as(x)
    peak = x.new_full((num_groups, x.shape[1]), least).scatter_reduce(0, rows, x.detach(), "amax")  # cancels: no gradient
    return peak + (segment_sum((x - peak[group]).exp(), group, num_groups) + (least - peak).exp()).log()


def first_of_groups(group: Int[Tensor, " B"], num_groups: int) -> Int[Tensor, " G"]:
    """The first row of each group, for values of groups that are computed per image."""
    rows = torch.arange(len(group), device=group.device)
    return rows.new_full((num_groups,), len(group)).scatter_reduce(0, group, rows, "amin")
