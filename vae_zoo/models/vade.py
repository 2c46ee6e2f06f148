"""VaDE: clusters in the code of a plain VAE, which is pre-trained as an autoencoder (Jiang et al., 2017, arXiv:1611.05148).

Generative story:  c ~ Cat(pi)    z | c ~ N(mu_c, diag sigma_c^2)    x ~ p(x | z)
Inference:         q(z | x) = N(mu(x), diag exp(logvar(x)))    q(c | x) ~ exp E_q(z | x) log p(c | z)
Minimised, in nats per image:
    first   loss = -log p(x | z = mu(x)), then EM fits the mixture to the codes mu(x) of training images
    after   loss = rec + kl,  kl = E_q(z | x) log q(z | x) - log sum_c pi_c exp E_q(z | x) log N(z; mu_c, sigma_c^2)
which is MFCVAE with one facet. A mixture that starts in codes which already hold the images does what a schedule does there.

Deviations: q(c | x) is the one that makes this bound largest, where the paper takes E_q(z | x) p(c | z) on the ground of a
KL that it sets to 0, and its code p(c | z) at one draw; the network is pre-trained as a whole, not layer by layer.
"""

from torch import Tensor

from vae_zoo.distributions import Normal
from vae_zoo.models.mfcvae import MFCVAE
from vae_zoo.schedules import FacetWeights


class VaDE(MFCVAE):
    """One facet. pretrain: updates as an autoencoder, or below 1 their share of `total`; the rest: as in MFCVAE."""

    def __init__(self, *args, total: int, pretrain: float = 0.25, **kwargs):
        super().__init__(*args, **kwargs)
        if len(self.blocks) != 1:
            raise ValueError(f"vade has one facet, got {len(self.blocks)} facet_dims; model=mfcvae has several")
        self.pretrain_steps = round(pretrain * total) if pretrain < 1 else int(pretrain)

    def coefficients(self, step: int) -> dict[str, FacetWeights]:
        return {"facet0": FacetWeights(1.0, *(2 * [float(step >= self.pretrain_steps)]))}

    def draw(self, q: Normal) -> Tensor:
        return q.mu if self.step < self.pretrain_steps else super().draw(q)

    def prior_init_steps(self) -> dict[str, int]:
        return dict.fromkeys(super().prior_init_steps(), self.pretrain_steps)
