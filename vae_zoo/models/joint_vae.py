"""JointVAE: continuous and categorical codes side by side, without labels (Dupont, 2018, arXiv:1804.00104, equation 7).

Generative story:  z ~ N(0, I)    c_j ~ Cat(pi_j)    x ~ p(x | z, c)
Inference:         h = f(x)    q(z | x) = N(mu(h), diag exp(logvar(h)))    q(c_j | x) = softmax(logits_j(h))
Minimised, in nats per image:  loss = rec + gamma * |C_z(t) - kl_z| + gamma * |min(C_c(t), sum_j H(pi_j)) - kl_c|
c is drawn from the Gumbel-softmax in training and is the arg max in evaluation; t counts steps from 1.
H(pi_j), the entropy of the prior, is the most that kl_c can be where the classes are as frequent as the prior says: log K_j
if it is uniform, as in the paper.

Deviations: network and leaky slopes are those of PartedVAE here, so that differences are the method's. The official code
(Schlumberger/joint-vae) divides the whole loss by the pixels, which Adam does not notice, and its cross-entropy by the
colour channels too; ours sums over both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_zoo.config.types import NonNegative, Positive
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import Normal, kl_standard, log_standard_normal
from vae_zoo.models.discrete import LEAK, ClassConditionalModel
from vae_zoo.schedules import Schedule, as_schedule


class JointVAE(ClassConditionalModel):
    """What is its own, see above; temperature: of the Gumbel-softmax. The rest: as in ClassConditionalModel."""

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

    def infer(self, x: Tensor) -> tuple[Normal, Tensor]:
        """q(z | x) [B, D] and log q(c | x) [B, S]."""
        h = F.leaky_relu(self.encoder(x), LEAK)
        return Normal.from_params(self.z_head(h)), self.classes.log_softmax(self.c_head(h))

    def class_log_probs(self, x: Tensor) -> Tensor:
        return self.infer(x)[1]

    def encode(self, batch: Batch | Tensor) -> dict:
        q_z, log_c = self.infer(self.image(batch))
        return {"z": q_z} | self.class_codes(log_c)

    def objective(self, batch: Batch) -> Terms:
        q_z, log_c = self.infer(batch["image"])
        c = self.classes.relaxed(log_c, self.temperature) if self.training else self.classes.hard(log_c)
        rec = -self.likelihood.log_prob(batch["image"], self.decoder(torch.cat([q_z.rsample(), c], dim=1)))
        kl_z, kl_c = kl_standard(q_z), self.classes.kl(log_c).sum(1)
        z_gap = (self.z_capacity(self.step + 1) - self.batch_mean(kl_z)).abs()
        c_gap = (min(self.c_capacity(self.step + 1), self.largest_kl_c) - self.batch_mean(kl_c)).abs()
        shown = {"kl_z": Term(kl_z), "kl_c": Term(kl_c)}
        return {"rec": Term(rec, 1.0), "z_gap": Term(z_gap, self.gamma), "c_gap": Term(c_gap, self.gamma)} | shown

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        """c is summed out: every z is decoded with every combination of classes."""
        x, q_z = batch["image"], self.infer(batch["image"])[0]
        z, codes = q_z.rsample((k,)), self.classes.combinations()  # [k, B, D], [M, S]
        pairs = z[:, :, None].expand(-1, -1, len(codes), -1), codes.expand(k, len(x), -1, -1)
        params = self.decoder(torch.cat(pairs, dim=-1).flatten(0, 2))  # [k B M, C, H, W]
        x_repeated = x.repeat_interleave(len(codes), 0).repeat(k, 1, 1, 1)
        log_px = self.likelihood.log_prob(x_repeated, params).view(k, len(x), len(codes))
        return (log_px + self.classes.log_prior(codes)).logsumexp(2) + log_standard_normal(z) - q_z.log_prob(z)
