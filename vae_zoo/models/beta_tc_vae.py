"""beta-TCVAE: the KL is decomposed into three parts with separate weights (Chen et al., 2018, equation 4).

    kl_z = mi + tc + kl_dims
    mi      = E[log q(z | x) - log q(z)]                  index-code mutual information
    tc      = E[log q(z) - sum_d log q(z_d)]              total correlation
    kl_dims = E[sum_d log q(z_d) - log p(z_d)]            dimension-wise KL
Minimised, in nats per image:  loss = rec + alpha * mi + beta * tc + gamma * kl_dims

q(z) = 1/N sum_n q(z | x_n) over the N training images is estimated from the batch: `weighted` sampling (appendix C.1,
biased) or `stratified` sampling (C.2, unbiased for q(z)).
Deviation: the published code puts the stratified weight of an image's own posterior into the first column of the
matrix; here it is on the diagonal, as the derivation requires.
"""

from math import log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import NonNegative
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import Normal, log_standard_normal
from vae_zoo.distributions.normal import log_density_pairs
from vae_zoo.models.vae import VAE
from vae_zoo.schedules import Schedule, as_schedule

Sampling = Literal["weighted", "stratified"]


def log_weights_of_batch(B: int, N: int, sampling: Sampling, device: torch.device | None = None) -> Float[Tensor, "B B"]:
    """log of the weight of image j's posterior in the estimate of q(z[i]), at [i, j].

    Weighted: 1 / (N B) each. Stratified, M = B - 1: an image's own posterior 1 / N, the next image's (N - M) / (N M),
    the others' 1 / M; a row sums to 1. A batch of one image (the last one of a split) has only its own posterior.

    Args:
        B: Images of the batch.
        N: Training images.
        sampling: `weighted` or `stratified`.
        device: Device of the result.

    Source: Chen et al. (2018), appendix C.
    """
    if sampling == "weighted":
        return torch.full((B, B), -log(N * B), device=device)
    M = max(B - 1, 1)
    weights = torch.full((B, B), 1 / M, device=device)
    own = torch.arange(B, device=device)
    weights[own, (own + 1) % B] = (N - M) / (N * M)
    weights[own, own] = 1 / N
    return weights.log()


def decompose_kl(
    q_z: Normal, z: Float[Tensor, "M D"], N: int, sampling: Sampling, own: slice = slice(None)
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Estimates mi, tc and kl_dims for each image.

    Args:
        q_z: Posteriors [B, D] of the whole batch.
        z: Draws of those rows of q_z that are `own`.
        N: Training images.
        sampling: `weighted` or `stratified`.
        own: The M rows of this rank.

    Returns:
        mi, tc and kl_dims, nats.

    Source: Chen et al. (2018), equation 2.
    """
    B = len(q_z.mu)
    log_pairs = log_density_pairs(q_z, z)  # [M, B, D] log q(z[i, d] | x[j])
    log_w = log_weights_of_batch(B, max(N, B), sampling, z.device)[own]
    log_q_z = torch.logsumexp(log_w + log_pairs.sum(-1), dim=1)  # [M]
    log_q_dims = torch.logsumexp(log_w[..., None] + log_pairs, dim=1).sum(-1)  # [M]
    return q_z[own].log_prob(z) - log_q_z, log_q_z - log_q_dims, log_q_dims - log_standard_normal(z)


class BetaTCVAE(VAE):
    """VAE with a weight for each of the three parts of the KL.

    Args:
        *args: As in VAE.
        alpha: Weight of mi, >= 0.
        beta: Weight of tc, >= 0, a number or a schedule of the step.
        gamma: Weight of kl_dims, >= 0.
        sampling: How q(z) is estimated from the batch.
        **kwargs: As in VAE.
    """

    def __init__(
        self,
        *args,
        alpha: NonNegative = 1.0,
        beta: NonNegative | Schedule = 15.0,
        gamma: NonNegative = 1.0,
        sampling: Sampling = "weighted",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.alpha, self.beta, self.gamma = alpha, as_schedule(beta), gamma
        self.sampling: Sampling = sampling

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, mi, tc and kl_dims; kl_z, their sum without rec, is only logged."""
        q_z, z, rec = self.infer(batch)
        N = self.training_data.num_images if self.training_data is not None else len(z)
        everybody, own = self.joined(torch.cat([q_z.mu, q_z.logvar], dim=1))
        mi, tc, kl_dims = decompose_kl(Normal.from_params(everybody), z, N, self.sampling, own)
        return {
            "rec": Term(rec, 1.0),
            "mi": Term(mi, self.alpha),
            "tc": Term(tc, self.beta(self.step)),
            "kl_dims": Term(kl_dims, self.gamma),
            "kl_z": Term(mi + tc + kl_dims),
        }
