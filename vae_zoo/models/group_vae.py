"""Group VAE (GVAE): ML-VAE that averages means and variances of a group's posteriors (Hosoya, 2019).

    q(z_content | x_G) = N(mean of mu[i], diag mean of exp(logvar[i]))

The posterior of a group of many images is therefore as wide as that of one image. Everything else is as in ml_vae.py. The
paper specifies only an average of the encoder's outputs; the mean of the variances is the form of disentanglement_lib
(GroupVAEBase).
"""

from vae_zoo.distributions.pooling import Evidence
from vae_zoo.models.ml_vae import MLVAE


class GroupVAE(MLVAE):
    """MLVAE with evidence="mean" by default.

    Args:
        *args: As in MLVAE.
        evidence: As in MLVAE.
        **kwargs: As in MLVAE.
    """

    def __init__(self, *args, evidence: Evidence = "mean", **kwargs):
        super().__init__(*args, evidence=evidence, **kwargs)
