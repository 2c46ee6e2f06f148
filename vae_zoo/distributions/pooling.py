"""What the images of a group say together: one Gaussian a group from one Gaussian an image, groups of any size.

v is a variance, l = -log v a log-precision, sums are over the images i of a group, n their number:

product              1/v_G = sum_i 1/v_i          mu_G = sum_i w_i mu_i,  w_i = (1/v_i) / (1/v_G)     more images, less doubt
product_with_prior   1/v_G = 1 + sum_i 1/v_i      the same: N(0, 1) is one of the factors
mean                 v_G = 1/n sum_i v_i          mu_G = 1/n sum_i mu_i
mean_precision       1/v_G = 1/n sum_i 1/v_i      mu_G as in product

Sources: product, Bouchacourt et al. (2018); mean, Hosoya (2019) as in disentanglement_lib's GroupVAEBase; mean_precision,
what disentanglement_lib calls MLVae. A linear Gaussian model has a posterior of the second form for every n at once, of
the first for one n only: take the second where groups differ in size.
"""

from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from vae_zoo.distributions.normal import Normal

Evidence = Literal["product", "product_with_prior", "mean", "mean_precision"]


def pool(q: Normal, group: Tensor, num_groups: int, evidence: Evidence = "product") -> Normal:
    """The Gaussian of each group [G, D] from those of its images.

    q: mu, logvar [B, D]; group: [B] in 0..num_groups-1, in any order. No group may be empty, but with the prior as a
    factor, which is then what is left. Only logarithms are added up, so no precision is too large or too small.
    """
    if evidence not in get_args(Evidence):
        raise ValueError(f"evidence must be one of {', '.join(get_args(Evidence))}, got {evidence!r}")
    log_n = segment_sum(torch.ones_like(q.mu[:, :1]), group, num_groups).log()  # [G, 1]
    if evidence == "mean":
        mean = segment_sum(q.mu, group, num_groups) * (-log_n).exp()
        return Normal(mean, segment_logsumexp(q.logvar, group, num_groups) - log_n)
    least = 0.0 if evidence == "product_with_prior" else -inf  # log-precision of the factor that is always there
    log_precision = segment_logsumexp(-q.logvar, group, num_groups, least)  # [G, D]
    weight = (-q.logvar - log_precision[group]).exp()  # [B, D], adds up to 1 in a group, or to less beside the prior
    mu = segment_sum(weight * q.mu, group, num_groups)
    return Normal(mu, log_n - log_precision if evidence == "mean_precision" else -log_precision)


def without_prior(q: Normal) -> Normal:
    """What an image says beside N(0, I) where q is its posterior: q / N(0, I), so that product_with_prior gives q back.

    A dimension that is no surer than the prior says nothing: an image takes no knowledge away.
    """
    precision = torch.expm1(-q.logvar).clamp(min=torch.finfo(q.mu.dtype).eps)  # 1 / v - 1
    mu = torch.where(q.logvar < 0, q.mu * (-q.logvar).exp() / precision, 0.0)
    return Normal(mu, -precision.log())


def log_same_group(a: Normal, b: Normal) -> Tensor:
    """log p(images of a and b | one group) - log p(... | two groups), nats: [...]. Were they of the same person?

    a, b: pooled with `product_with_prior`, [..., D]. Exact if q(z | x) is proportional to p(x | z) N(z; 0, I).
    """
    precisions = [(-q.logvar).exp() for q in (a, b)]
    precisions.append(precisions[0] + precisions[1] - 1)  # together, the prior counted once
    weighted = [q.mu * precision for q, precision in zip((a, b), precisions)]
    weighted.append(weighted[0] + weighted[1])
    evidence = [(w.square() / p - p.log()).sum(-1) for w, p in zip(weighted, precisions)]  # 2 log p + what cancels
    return 0.5 * (evidence[2] - evidence[0] - evidence[1])


def segment_sum(x: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Sums of the rows of x [B, ...] by group [B]: [G, ...]."""
    return x.new_zeros(num_groups, *x.shape[1:]).index_add(0, group, x)


def segment_logsumexp(x: Tensor, group: Tensor, num_groups: int, least: float = -inf) -> Tensor:
    """log(exp(least) + sum of exp(x) over the rows of a group), x [B, D]: [G, D]."""
    rows = group[:, None].expand_as(x)
    peak = x.new_full((num_groups, x.shape[1]), least).scatter_reduce(0, rows, x.detach(), "amax")  # cancels: no gradient
    return peak + (segment_sum((x - peak[group]).exp(), group, num_groups) + (least - peak).exp()).log()


def first_of_groups(group: Tensor, num_groups: int) -> Tensor:
    """The first row of each group [G], for what belongs to a group and is computed for images."""
    rows = torch.arange(len(group), device=group.device)
    return rows.new_full((num_groups,), len(group)).scatter_reduce(0, group, rows, "amin")
