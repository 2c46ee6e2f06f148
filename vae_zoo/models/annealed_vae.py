"""AnnealedVAE: the KL is kept close to a capacity that grows during training (Burgess et al., 2018, equation 8).

Minimised, in nats per image:  loss = rec + gamma * |kl_z - C(step)|,  kl_z averaged over the batch before |.|
"""

from vae_zoo.config.types import NonNegative
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import kl_standard
from vae_zoo.models.vae import VAE
from vae_zoo.schedules import Schedule, as_schedule


class AnnealedVAE(VAE):
    """VAE whose KL is kept close to a capacity.

    Args:
        *args: As in VAE.
        gamma: Cost of a nat of difference from the capacity, >= 0.
        capacity: C in nats, >= 0, a number or a schedule of the step.
        **kwargs: As in VAE.
    """

    def __init__(self, *args, gamma: NonNegative = 100.0, capacity: NonNegative | Schedule = 25.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.gamma = gamma
        self.capacity = as_schedule(capacity)

    def objective(self, batch: Batch) -> Terms:
        """The terms rec and capacity_gap; kl_z is only logged."""
        q_z, _, rec = self.infer(batch)
        kl_z = kl_standard(q_z)
        capacity_gap = (self.batch_mean(kl_z) - self.capacity(self.step)).abs()
        return {"rec": Term(rec, 1.0), "capacity_gap": Term(capacity_gap, self.gamma), "kl_z": Term(kl_z)}
