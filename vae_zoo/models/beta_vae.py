"""beta-VAE: a VAE with a weight on the KL (Higgins et al., 2017, equation 4).

Minimised, in nats per image:  loss = rec + beta * kl_z
"""

from vae_zoo.config.types import NonNegative
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import kl_standard
from vae_zoo.models.vae import VAE
from vae_zoo.schedules import Schedule, as_schedule


class BetaVAE(VAE):
    """VAE with a weight on the KL.

    Args:
        *args: As in VAE.
        beta: Weight of the KL, >= 0, a number or a schedule of the step.
        **kwargs: As in VAE.
    """

    def __init__(self, *args, beta: NonNegative | Schedule = 4.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.beta = as_schedule(beta)

    def objective(self, batch: Batch) -> Terms:
        """The terms rec and kl_z, the latter weighted by beta."""
        q_z, _, rec = self.infer(batch)
        return {"rec": Term(rec, 1.0), "kl_z": Term(kl_standard(q_z), self.beta(self.step))}
