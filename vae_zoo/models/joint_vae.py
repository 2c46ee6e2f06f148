"""JointVAE: continuous and categorical codes side by side, without labels (Dupont, 2018, arXiv:1804.00104, equation 7).

Generative story:  z ~ N(0, I)    c_j ~ Cat(pi_j)    x ~ p(x | z, c)
Inference:         h = f(x)    q(z | x) = N(mu(h), diag exp(logvar(h)))    q(c_j | x) = softmax(logits_j(h))
Minimised, in nats per image:  loss = rec + gamma * |C_z(t) - kl_z| + gamma * |min(C_c(t), sum_j H(pi_j)) - kl_c|
c is drawn from the Gumbel-softmax in training and is the arg max in evaluation; t counts steps from 1.
H(pi_j), the entropy of the prior, is the largest kl_c if the classes are as frequent as under the prior: log K_j if it is
uniform, as in the paper.

Deviations: network and leaky slopes are those of PartedVAE here, so that differences are due to the method. The official
code (Schlumberger/joint-vae) divides the whole loss by the number of pixels, which does not change the steps of Adam, and
its cross-entropy by the colour channels too; ours sums over both.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_zoo.config.types import NonNegative, Positive
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import Categorical, Normal, kl_standard, log_standard_normal
from vae_zoo.models.discrete import ClassConditionalModel
from vae_zoo.schedules import Schedule, as_schedule


class JointVAE(ClassConditionalModel):
    """VAE with continuous and categorical codes, with the KL of each kept close to a capacity.

    Args:
        *args: As in ClassConditionalModel.
        z_capacity: C_z in nats, >= 0, a number or a schedule of the step.
        c_capacity: C_c in nats, >= 0, a number or a schedule of the step.
        gamma: Cost of a nat of difference from a capacity, >= 0.
        temperature: Temperature of the Gumbel-softmax, > 0.
        **common: As in ClassConditionalModel.
    """

    class_holds = "a class found without labels"

    def __init__(
        self,
        *args,
        z_capacity: NonNegative | Schedule = 5.0,
        c_capacity: NonNegative | Schedule = 5.0,
        gamma: NonNegative = 30.0,
        temperature: Positive = 0.67,
        **common,
    ):
        super().__init__(*args, **common)
        self.z_head = nn.Linear(self.c_head.in_features, 2 * self.blocks["z"].size)
        self.gamma, self.temperature = gamma, temperature
        self.z_capacity, self.c_capacity = as_schedule(z_capacity), as_schedule(c_capacity)
        self.largest_kl_c = self.classes.entropy(self.classes.probs.log()).sum().item()

    def infer(self, x: Float[Tensor, "B C H W"]) -> tuple[Normal, Float[Tensor, "B S"]]:
        """Infers q(z | x) [B, D] and log q(c | x), nats."""
        h = self.features(x)
        return Normal.from_params(self.z_head(h)), self.classes.log_softmax(self.c_head(h))

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(z | x) and q(c_j | x)."""
        q_z, log_c = self.infer(self.image(batch))
        return {"z": q_z} | self.class_codes(log_c)

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, z_gap and c_gap; kl_z and kl_c are only logged."""
        q_z, log_c = self.infer(batch["image"])
        c = self.classes.relaxed(log_c, self.temperature) if self.training else self.classes.hard(log_c)
        rec = -self.likelihood.log_prob(batch["image"], self.decoder(torch.cat([q_z.rsample(), c], dim=1)))
        kl_z, kl_c = kl_standard(q_z), self.classes.kl(log_c).sum(1)
        z_gap = (self.z_capacity(self.step + 1) - self.batch_mean(kl_z)).abs()
        c_gap = (min(self.c_capacity(self.step + 1), self.largest_kl_c) - self.batch_mean(kl_c)).abs()
        shown = {"kl_z": Term(kl_z), "kl_c": Term(kl_c)}
        return {"rec": Term(rec, 1.0), "z_gap": Term(z_gap, self.gamma), "c_gap": Term(c_gap, self.gamma)} | shown

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats; c is summed out.

        Every z is decoded with every combination of classes.

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        x, q_z = batch["image"], self.infer(batch["image"])[0]
        z, codes = q_z.rsample((k,)), self.classes.combinations().expand(len(x), -1, -1)  # [k, B, D], [B, M, S]
        log_px = self.log_likelihoods(x, z[:, :, None].expand(-1, -1, codes.shape[1], -1), codes)  # [k, B, M]
        return (log_px + self.classes.log_prior(codes)).logsumexp(2) + log_standard_normal(z) - q_z.log_prob(z)
