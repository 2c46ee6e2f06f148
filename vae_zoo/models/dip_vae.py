"""DIP-VAE I and II: a penalty pulls the aggregate posterior's covariance to the identity (Kumar et al., 2018, eq. 6 and 7).

    cov = Cov_x[mu(x)]                                    variant "i"
    cov = Cov_x[mu(x)] + E_x[diag exp(logvar(x))]         variant "ii", the covariance of q(z)
    dip_off_diagonal = sum_{i != j} cov_ij^2,   dip_diagonal = sum_i (cov_ii - 1)^2
Minimised, in nats per image:  loss = rec + kl_z + lambda_off * dip_off_diagonal + lambda_diagonal * dip_diagonal

The covariances are those of the batch (population form, divided by B, as disentanglement_lib does).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import NonNegative
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import Normal, kl_standard
from vae_zoo.distributions.normal import covariance
from vae_zoo.models.vae import VAE


def dip_penalties(q_z: Normal, variant: Literal["i", "ii"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Computes dip_off_diagonal and dip_diagonal.

    Args:
        q_z: Posteriors [B, D].
        variant: Which covariance is pulled to the identity, `i` or `ii`.

    Returns:
        The two penalties.

    Source: Kumar et al. (2018), equations 6 and 7.
    """
    cov = covariance(q_z.mu)
    if variant == "ii":
        cov = cov + q_z.logvar.exp().mean(0).diag()
    variances = cov.diagonal()
    return (cov - variances.diag()).square().sum(), (variances - 1).square().sum()


class DIPVAE(VAE):
    """VAE with penalties on the covariance of the aggregate posterior.

    Args:
        *args: As in VAE.
        variant: `i` or `ii`.
        lambda_off: Weight of the penalty of the off-diagonal entries, >= 0.
        lambda_diagonal: Weight of the penalty of the diagonal, >= 0.
        **kwargs: As in VAE.
    """

    def __init__(
        self,
        *args,
        variant: Literal["i", "ii"] = "ii",
        lambda_off: NonNegative = 10.0,
        lambda_diagonal: NonNegative = 10.0,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.variant: Literal["i", "ii"] = variant
        self.lambda_off, self.lambda_diagonal = lambda_off, lambda_diagonal

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, kl_z, dip_off_diagonal and dip_diagonal."""
        q_z, _, rec = self.infer(batch)
        everybody = self.joined(torch.cat([q_z.mu, q_z.logvar], dim=1)).rows
        off_diagonal, diagonal = dip_penalties(Normal.from_params(everybody), self.variant)
        return {
            "rec": Term(rec, 1.0),
            "kl_z": Term(kl_standard(q_z), 1.0),
            "dip_off_diagonal": Term(off_diagonal, self.lambda_off),
            "dip_diagonal": Term(diagonal, self.lambda_diagonal),
        }
