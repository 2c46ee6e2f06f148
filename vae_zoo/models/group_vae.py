"""Group VAE (GVAE): ML-VAE whose groups average their images' posteriors instead of multiplying them (Hosoya, 2019).

    q(z_content | x_G) = N(mean of mu[i], diag mean of exp(logvar[i]))

so a group of many images is no surer of its content than one image. Everything else is ml_vae.py's. The paper asks only
that outputs of the encoder be averaged; the variance's mean is disentanglement_lib's form (GroupVAEBase).
"""

from vae_zoo.distributions.pooling import Evidence
from vae_zoo.models.ml_vae import MLVAE


class GroupVAE(MLVAE):
    """MLVAE with evidence="mean" by default."""

    def __init__(self, *args, evidence: Evidence = "mean", **kwargs):
        super().__init__(*args, evidence=evidence, **kwargs)
