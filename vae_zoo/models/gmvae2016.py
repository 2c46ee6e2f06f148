"""GMVAE of Dilokthanakul et al. (2016, arXiv:1611.02648): the components of its prior are functions of a second code w.

Generative story:  c ~ Cat(pi)    w ~ N(0, I)    z | c, w ~ N(m_c(w), diag s_c(w)^2)    x ~ p(x | z)
Inference:         q(z | x)    q(w | x), Gaussian, and the exact p(c | z, w) = pi_c p(z | c, w) / sum_k pi_k p(z | k, w)
Minimised, in nats per image:  loss = rec + beta * kl_z + kl_w + alpha * max(free_bits, kl_c), at one draw of z and w:
    rec  = -log p(x | z)                                             kl_w = KL(q(w | x) || N(0, I))
    kl_z = log q(z | x) - sum_c p(c | z, w) log p(z | c, w)          kl_c = KL(p(c | z, w) || pi)
With beta = alpha = 1 and free_bits = 0 the mean of the loss is a bound on -log p(x), since kl_z + kl_c is
log q(z | x) - log p(z | w), the mixture with c summed out. free_bits holds the mean of kl_c over the batch above a minimum;
without it kl_c merges the clusters early ("over-regularisation" in the paper).

Deviation: the paper has sum_c p(c | z, w) KL(q(z | x) || p(z | c, w)) for kl_z. That gives no bound, since p(c | z, w)
depends on the same z; the term at the drawn z gives one.

vae_zoo/models/gmvae.py is the different model of SPLIT: a network gives q(c | x), and components are constant, without w.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vae_zoo.config.types import Classes, Count, NonNegative, Probabilities, Shape
from vae_zoo.contract import Batch, Block, Codes, Network, Term, Terms
from vae_zoo.distributions import (
    Categorical,
    Likelihood,
    Normal,
    kl_normal_per_dim,
    kl_standard,
    kl_standard_per_dim,
    log_standard_normal,
)
from vae_zoo.models.discrete import MixtureLatentModel
from vae_zoo.schedules import Schedule, as_schedule


class GMVAE2016(MixtureLatentModel):
    """VAE with a mixture of Gaussians as prior whose means and variances are functions of a code w.

    Args:
        image_shape: [C, H, W].
        z_dim: Dimensions of z.
        w_dim: Dimensions of w.
        num_classes: K, the number of clusters, >= 2.
        network: Family of encoder and decoder (vae_zoo.nets).
        likelihood: p(x | z).
        class_probs: p(c); None: uniform.
        feature_dim: Outputs of the encoder, from which both posteriors are computed.
        prior_hidden: Units of the hidden layer (tanh) from w to the components.
        beta: Weight of kl_z, >= 0, a number or a schedule of the step.
        alpha: Weight of kl_c, >= 0, a number or a schedule of the step.
        free_bits: Lower bound of the batch mean of kl_c in the loss, nats, >= 0, a number or a schedule of the step.
        **training: As in LatentVariableModel.
    """

    free_of_class = ("w",)

    def __init__(
        self,
        image_shape: Shape,
        z_dim: Count,
        w_dim: Count,
        num_classes: Classes,
        network: Network,
        likelihood: Likelihood,
        class_probs: Probabilities | None = None,
        feature_dim: Count = 256,
        prior_hidden: Count = 128,
        beta: NonNegative | Schedule = 1.0,
        alpha: NonNegative | Schedule = 1.0,
        free_bits: NonNegative | Schedule = 0.0,
        **training,
    ):
        super().__init__(image_shape, num_classes, class_probs, **training)
        self.blocks = {
            "c": Block(num_classes, "categorical", "a cluster found without labels"),
            "z": Block(z_dim, "gaussian", "the cluster and the variation within it"),
            "w": Block(w_dim, "gaussian", "position and shape of the clusters"),
        }
        self.encoder = network.encoder(self.image_shape, feature_dim)
        self.z_head, self.w_head = nn.Linear(feature_dim, 2 * z_dim), nn.Linear(feature_dim, 2 * w_dim)
        layers = nn.Linear(w_dim, prior_hidden), nn.Tanh(), nn.Linear(prior_hidden, num_classes * 2 * z_dim)
        self.z_prior = nn.Sequential(*layers)
        self.decoder = network.decoder(z_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood
        self.beta, self.alpha, self.free_bits = map(as_schedule, (beta, alpha, free_bits))

    # ---- p and q --------------------------------------------------------------------------------------------------

    def infer(self, x: Float[Tensor, "B C H W"]) -> tuple[Normal, Normal]:
        """Infers q(z | x) and q(w | x)."""
        h = self.features(x)
        return Normal.from_params(self.z_head(h)), Normal.from_params(self.w_head(h))

    def prior_z(self, w: Float[Tensor, "*batch W"]) -> Normal:
        """p(z | c, w) of all K clusters, a Gaussian of [..., K, D]."""
        return Normal.from_params(self.z_prior(w).unflatten(-1, (self.classes.num_values, -1)))

    def log_joint(self, z: Float[Tensor, "*batch D"], w: Float[Tensor, "*batch W"]) -> Float[Tensor, "*batch K"]:
        """log p(c, z | w) of all K clusters, nats; its log-softmax is log p(c | z, w)."""
        return self.classes.probs.log() + self.prior_z(w).log_prob(z[..., None, :])

    def class_log_probs(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """log p(c | z, w) at the posterior means of z and w, nats."""
        q_z, q_w = self.infer(x)
        return self.classes.log_softmax(self.log_joint(q_z.mu, q_w.mu))

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(z | x) and q(w | x), and p(c | z, w) at their means."""
        q_z, q_w = self.infer(self.image(batch))
        return self.class_codes(self.classes.log_softmax(self.log_joint(q_z.mu, q_w.mu))) | {"z": q_z, "w": q_w}

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes z to mean images in [0, 1]; the decoder does not get the cluster and w."""
        self.join(codes)  # checks the shapes of all blocks
        return self.likelihood.mean(self.decoder(codes["z"]))

    def components(self, classes: Int[Tensor, "n 1"], free: Codes) -> dict[str, Normal]:
        """p(z | c, w) of one cluster, 0..K-1, for each code of w; {"z": Gaussian of [n, D]}."""
        w = free["w"]
        return {"z": self.prior_z(w)[torch.arange(len(w), device=w.device), classes[:, 0]]}

    # ---- objective ------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, kl_z, kl_w and class_information, the bounded kl_c; kl_c is only logged."""
        q_z, q_w = self.infer(batch["image"])
        z, w = q_z.rsample(), q_w.rsample()
        log_joint = self.log_joint(z, w)
        log_c = self.classes.log_softmax(log_joint)  # log p(c | z, w)
        rec = -self.likelihood.log_prob(batch["image"], self.decoder(z))
        kl_z = q_z.log_prob(z) - (log_c.exp() * (log_joint - self.classes.probs.log())).sum(1)
        kl_c = self.classes.kl(log_c).sum(1)
        bounded = self.batch_mean(kl_c).clamp(min=self.free_bits(self.step))
        return {
            "rec": Term(rec, 1.0),
            "kl_z": Term(kl_z, self.beta(self.step)),
            "kl_w": Term(kl_standard(q_w), 1.0),
            "class_information": Term(bounded, self.alpha(self.step)),
            "kl_c": Term(kl_c),
        }

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension, nats: of z to the prior of the most probable cluster at the mean of w, of w to N(0, I)."""
        q_z, q_w = posterior["z"], posterior["w"]
        p_z = self.components(posterior["c"].probs.argmax(1, keepdim=True), {"w": q_w.mu})
        return {"z": kl_normal_per_dim(q_z, p_z["z"]), "w": kl_standard_per_dim(q_w)}

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z, w) - log q(z, w | x) of k draws for each image, nats; c is summed out.

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        q_z, q_w = self.infer(batch["image"])
        z, w = q_z.rsample((k,)), q_w.rsample((k,))  # [k, B, D], [k, B, W]
        log_p = self.log_joint(z, w).logsumexp(-1) + log_standard_normal(w)
        log_px = self.likelihood.log_prob_of_draws(batch["image"], self.decoder(z.flatten(0, 1)))
        return log_px + log_p - q_z.log_prob(z) - q_w.log_prob(w)
