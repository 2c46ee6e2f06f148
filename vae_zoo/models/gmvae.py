"""GMVAE: a VAE whose prior is a mixture, so that it clusters: the baseline of SPLIT (Charakorn et al., 2020).

Generative story:  c ~ Cat(1 / K)    z | c ~ N(m(c), diag s(c)^2), m and s learned    x ~ p(x | z)
Inference:         q(c | x) = softmax(logits(x))    q(z | x, c) = N(mu(x, c), diag std(x, c)^2)
Minimised, in nats per image:  loss = rec + beta * kl_z + alpha * kl_c,  rec = -log p(x | z) at one draw
    kl_z = KL(q(z | x, c) || p(z | c)),  kl_c = KL(q(c | x) || Cat(1 / K)) = log K - H(q(c | x))
In training c is a draw of the Gumbel-softmax, the same in q and p; in evaluation it is the arg max. `class_sum="exact"` sums
both terms over all K clusters instead, weighted by q(c | x), which needs K passes of the decoder.

With a soft c this is the bound of a relaxed model only; `log_weights` sums c out of both mixtures, so it gives a bound on
log p(x). kl_c penalises q(c | x) of each image, not the mean of q(c | x) over the images, so a large alpha makes every
assignment uncertain. Unused clusters are the known failure of this model; `val/classes_used` shows it.

Equations and networks are those of 51616/split-vae at 58b6efa; docs/methods/split.md has the deviations.
vae_zoo/models/gmvae2016.py is the model of Dilokthanakul et al. (2016), whose components depend on a second code w.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vae_zoo.config.types import Classes, Count, Momentum, NonNegative, Positive, Probabilities, Shape, Widths
from vae_zoo.contract import Batch, Block, Codes, Network, Term, Terms
from vae_zoo.distributions import Categorical, Likelihood, Normal, kl_normal, kl_normal_per_dim
from vae_zoo.models.discrete import MixtureLatentModel
from vae_zoo.schedules import Schedule, as_schedule

STD_BIAS = 1.0  # initial bias of the layers of standard deviations, which therefore start at softplus(1) = 1.31


class GMVAE(MixtureLatentModel):
    """VAE with a mixture of Gaussians as prior.

    Args:
        image_shape: [C, H, W].
        z_dim: Dimensions of z.
        num_classes: K, the number of clusters, >= 2.
        network: Family of encoder and decoder (vae_zoo.nets); the encoder's output is split into the inputs of both heads.
        likelihood: p(x | z).
        class_probs: p(c); None: uniform.
        class_hidden: Units of the layers before the logits, the first of them outputs of the encoder.
        z_hidden: Units of the layer before q(z | x, c), outputs of the encoder.
        dropout: Share of the units of both that is dropped in training, in [0, 1).
        temperature: Temperature of the Gumbel-softmax, > 0, a number or a schedule of the step.
        beta: Weight of kl_z, >= 0, a number or a schedule of the step.
        alpha: Weight of kl_c, >= 0, a number or a schedule of the step.
        class_sum: `sampled` or `exact`, see the docstring of the module.
        **training: As in LatentVariableModel.

    Attributes:
        z_name: Name of the block of z.
    """

    z_name = "z"

    def __init__(
        self,
        image_shape: Shape,
        z_dim: Count,
        num_classes: Classes,
        network: Network,
        likelihood: Likelihood,
        class_probs: Probabilities | None = None,
        class_hidden: Widths = (256, 128),
        z_hidden: Count = 256,
        dropout: Momentum = 0.2,
        temperature: Positive | Schedule = 0.4,
        beta: NonNegative | Schedule = 1.0,
        alpha: NonNegative | Schedule = 1.0,
        class_sum: Literal["sampled", "exact"] = "sampled",
        **training,
    ):
        super().__init__(image_shape, num_classes, class_probs, **training)
        self.blocks = {
            "c": Block(num_classes, "categorical", "a cluster found without labels"),
            self.z_name: Block(z_dim, "gaussian", "the cluster and the variation within it"),
        }
        self.encoder = network.encoder(self.image_shape, class_hidden[0] + z_hidden)
        layers = [m for i, o in zip(class_hidden, class_hidden[1:]) for m in (nn.Linear(i, o), nn.ELU())]
        self.c_head = nn.Sequential(nn.Dropout(dropout), *layers, nn.Linear(class_hidden[-1], num_classes))
        self.dropout = nn.Dropout(dropout)
        self.c_hidden = nn.Linear(num_classes, z_hidden)
        self.z_head = nn.Linear(z_hidden, 2 * z_dim)
        self.z_prior = nn.Linear(num_classes, 2 * z_dim)
        for layer in (self.z_head, self.z_prior):
            nn.init.constant_(layer.bias[z_dim:], STD_BIAS)
        self.decoder = network.decoder(z_dim, likelihood.param_shape(self.image_shape))
        self.likelihood, self.sizes = likelihood, (class_hidden[0], z_hidden)
        self.temperature, self.beta, self.alpha = map(as_schedule, (temperature, beta, alpha))
        self.class_sum = class_sum

    # ---- p and q --------------------------------------------------------------------------------------------------

    def infer(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B E"]]:
        """Infers log q(c | x), nats, and the hidden vector from which q(z | x, c) is computed."""
        h_c, h_z = F.elu(self.encoder(x)).split(self.sizes, dim=1)
        return self.classes.log_softmax(self.c_head(h_c)), self.dropout(h_z)

    def class_log_probs(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """log q(c | x) of images, nats."""
        return self.infer(x)[0]

    def posterior_z(self, h: Float[Tensor, "... E"], c: Float[Tensor, "... K"]) -> Normal:
        """q(z | x, c).

        Args:
            h: Hidden vectors of `infer`; their leading axes broadcast with those of c.
            c: Clusters, one-hot or relaxed.

        Returns:
            A Gaussian of [..., D].
        """
        return Normal.from_softplus(self.z_head(h + F.elu(self.c_hidden(c))))

    def prior_z(self, c: Float[Tensor, "... K"]) -> Normal:
        """p(z | c), a Gaussian of [..., D], of one-hot or relaxed clusters."""
        return Normal.from_softplus(self.z_prior(c))

    def draw_class(self, log_c: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Draws relaxed clusters in training; takes the most probable ones in evaluation."""
        return self.classes.relaxed(log_c, self.temperature(self.step)) if self.training else self.classes.hard(log_c)

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(c | x), and q(z | x, c) of the most probable cluster c."""
        log_c, h = self.infer(self.image(batch))
        return self.class_codes(log_c) | {self.z_name: self.posterior_z(h, self.classes.hard(log_c))}

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes z to mean images in [0, 1]; the decoder does not get the cluster."""
        return self.likelihood.mean(self.decoder(self.join(codes)[:, self.classes.num_values :]))

    def components(self, classes: Int[Tensor, "n 1"], free: Codes) -> dict[str, Normal]:
        """p(z | c) of these clusters, 0..K-1, {block: Gaussian of [n, D]}."""
        return {self.z_name: self.prior_z(self.classes.code(classes))}

    # ---- objective ------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, kl_z and kl_c."""
        x, (log_c, h) = batch["image"], self.infer(batch["image"])
        (rec, kl_z), kl_c = self.expected(x, log_c, h), self.classes.kl(log_c).sum(1)
        beta, alpha = self.beta(self.step), self.alpha(self.step)
        return {"rec": Term(rec, 1.0), "kl_z": Term(kl_z, beta), "kl_c": Term(kl_c, alpha)}

    def expected(
        self, x: Float[Tensor, "B C H W"], log_c: Float[Tensor, "B K"], h: Float[Tensor, "B E"], *others: Normal
    ) -> tuple[Float[Tensor, "B ..."], ...]:
        """rec and kl_z, expected under q(c | x).

        Args:
            x: Images in [0, 1].
            log_c: log q(c | x).
            h: Hidden vectors of `infer`.
            *others: Posteriors [B, D] of further codes, which the decoder gets after z.

        Returns:
            rec and kl_z, [B] each, nats, and a draw [B, D] of each of `others`.
        """
        if self.class_sum == "sampled":
            c = self.draw_class(log_c)
            q_z = self.posterior_z(h, c)
            z, *more = q_z.rsample(), *(q.rsample() for q in others)
            rec = -self.likelihood.log_prob(x, self.decoder(torch.cat([z, *more], dim=1)))
            return rec, kl_normal(q_z, self.prior_z(c)), *more
        one_hot, probs = torch.eye(self.classes.num_values, device=x.device), log_c.exp()
        q_z = self.posterior_z(h[:, None], one_hot)  # [B, K, D]
        z, *more = q_z.rsample(), *(q.rsample() for q in others)
        z = torch.cat([z, *(code[:, None].expand(-1, len(one_hot), -1) for code in more)], dim=2)
        log_px = self.likelihood.log_prob(x.repeat_interleave(len(one_hot), 0), self.decoder(z.flatten(0, 1)))
        rec = -(probs * log_px.view_as(probs)).sum(1)
        return rec, (probs * kl_normal(q_z, self.prior_z(one_hot))).sum(1), *more

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension of z to the prior of the most probable cluster, nats."""
        p_z = self.prior_z(self.classes.hard(posterior["c"].probs))
        return {self.z_name: kl_normal_per_dim(posterior[self.z_name], p_z)}

    def draw_z(self, x: Float[Tensor, "B C H W"], k: int) -> tuple[Float[Tensor, "k B D"], Float[Tensor, "k B"]]:
        """Draws from q(z | x) = sum_c q(c | x) q(z | x, c).

        Args:
            x: Images in [0, 1].
            k: Draws for each image.

        Returns:
            The draws, and log p(z) - log q(z | x) of each, nats.
        """
        log_c, h = self.infer(x)
        one_hot = torch.eye(self.classes.num_values, device=x.device)
        q_z, p_z = self.posterior_z(h[:, None], one_hot), self.prior_z(one_hot)  # [B, K, D], [K, D]
        z = (self.classes.draw(log_c, (k,))[..., None] * q_z.rsample((k,))).sum(-2)  # [k, B, D]
        log_q = (log_c + q_z.log_prob(z[:, :, None])).logsumexp(-1)
        log_p = (self.classes.probs.log() + p_z.log_prob(z[:, :, None])).logsumexp(-1)
        return z, log_p - log_q

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws, nats; c is summed out of both mixtures."""
        x, (z, log_ratio) = batch["image"], self.draw_z(batch["image"], k)
        return self.likelihood.log_prob_of_draws(x, self.decoder(z.flatten(0, 1))) + log_ratio
