"""SPLIT-VaDE: SPLIT-VAE whose global code has the mixture prior of VaDE. Our extension: in no paper.

Generative story:  c ~ Cat(pi)    z_global | c ~ N(mu_c, diag sigma_c^2)    z_local ~ N(0, I)
                   x ~ p(x | z_global, z_local)    x_aux ~ p(x_aux | z_local)
Inference:         q(z_global | x)    q(z_local | x_aux),  both N(mu, diag std^2),  x_aux = view(x);  q(c | x) by Bayes' rule
Minimised, in nats per image:
    loss = rec + aux_weight * rec_aux + beta_global * kl_z_global + beta_local * kl_z_local
    kl_z_global = E_q(z, c | x) [log q(z_global | x) - log p(z_global | c)] + KL(q(c | x) || p(c)), in closed form with the
    optimal q(c | x) ~ exp E_q(z | x) log p(c | z) of vae_zoo/models/mfcvae.py; an upper bound of KL(q(z | x) || p(z))

Until `mixture_start` steps the prior of z_global is N(0, I), as in SPLIT-VAE: colours leave z_global first. Then EM on draws
from q(z_global | x) of training images initialises the mixture. (In dimensions that are not used, the means of q have no
spread, so a mixture of the means would be a bad prior; draws have the spread of q.) From then on the clusters can also be
made invariant to distortions, confident and balanced (vae_zoo/models/invariance.py).

Compared with SPLIT-GMVAE, clusters are a function of z_global alone and start from its structure. Sources: SPLIT, Charakorn
et al. (2020, arXiv:2001.08957); VaDE, Jiang et al. (2017, arXiv:1611.05148).
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vae_zoo.config.types import Classes, Count, Index, NonNegative, Probabilities, Shape
from vae_zoo.contract import Batch, Block, Codes, Network, Term, Terms, TrainingData
from vae_zoo.distributions import (
    Categorical,
    Likelihood,
    MixturePrior,
    Normal,
    kl_standard,
    kl_standard_per_dim,
    log_standard_normal,
    noise,
)
from vae_zoo.models.discrete import MixtureLatentModel
from vae_zoo.models.invariance import SwapInvariance
from vae_zoo.models.local_branch import HOLDS, LocalBranch, LocalView
from vae_zoo.nets.norm import statistics_kept
from vae_zoo.schedules import Schedule, as_schedule
from vae_zoo.utils.parts import take

log = logging.getLogger(__name__)


class SplitVaDE(LocalView, MixtureLatentModel):
    """SPLIT-VAE with clusters of z_global; implements `vae_zoo.contract.HasLocalView` and `HasClasses`.

    Args:
        image_shape: [C, H, W].
        global_dim: Dimensions of z_global.
        local_dim: Dimensions of z_local.
        num_classes: K, the number of clusters, >= 2.
        network: Family of both encoders and both decoders, which share no weights (vae_zoo.nets).
        likelihood: Likelihood of both images.
        view: Makes x_aux (vae_zoo.nets.views).
        class_probs: p(c), fixed; None: learned.
        beta_global: Weight of kl_z_global, >= 0, a number or a schedule of the step.
        beta_local: Weight of kl_z_local, >= 0, a number or a schedule of the step.
        aux_weight: Weight of rec_aux, >= 0.
        mixture_start: Steps before the mixture is initialised.
        init_images: Number of training images for this; None: all.
        **settings: Fields of SwapInvariance, from mixture_start on; the rest as in LatentVariableModel.
    """

    parts = (SwapInvariance,)
    free_of_class = ("z_local",)

    def __init__(
        self,
        image_shape: Shape,
        global_dim: Count,
        local_dim: Count,
        num_classes: Classes,
        network: Network,
        likelihood: Likelihood,
        view: Callable[[Tensor], Tensor],
        class_probs: Probabilities | None = None,
        beta_global: NonNegative | Schedule = 1.0,
        beta_local: NonNegative | Schedule = 1.0,
        aux_weight: NonNegative = 1.0,
        mixture_start: Index = 1000,
        init_images: Count | None = 10_000,
        **settings,
    ):
        invariance = take(SwapInvariance, settings)
        super().__init__(image_shape, num_classes, class_probs, **settings)
        self.invariance = invariance
        self.blocks = {
            "c": Block(num_classes, "categorical", "a cluster found without labels"),
            "z_global": Block(global_dim, "gaussian", "shape and layout: the cluster and the variation within it"),
            "z_local": Block(local_dim, "gaussian", HOLDS),
        }
        self.encoder = network.encoder(self.image_shape, 2 * global_dim)
        self.fixed_weights = class_probs is not None
        self.mixture = MixturePrior(num_classes, global_dim, "diagonal", "fixed" if class_probs else "learned", variance=1.0)
        self.mixture.logits.data.copy_(self.classes.probs.log())
        self.decoder = network.decoder(global_dim + local_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood
        self.local = LocalBranch(self.image_shape, local_dim, view, network, likelihood)
        self.beta_global, self.beta_local, self.aux_weight = as_schedule(beta_global), as_schedule(beta_local), aux_weight
        self.mixture_start, self.init_images = mixture_start, init_images

    # ---- p and q --------------------------------------------------------------------------------------------------

    def infer(self, x: Float[Tensor, "B C H W"]) -> Normal:
        """Infers q(z_global | x), a Gaussian of [B, D]."""
        return Normal.from_softplus(self.encoder(x))

    def log_clusters(self, q: Normal) -> Float[Tensor, "B K"]:
        """log q(c | x) of q(z_global | x), nats."""
        return self.classes.log_softmax(self.mixture.expected_log_joint(q))

    def class_log_probs(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """log q(c | x) of images, nats."""
        return self.log_clusters(self.infer(x))

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(c | x), q(z_global | x) and q(z_local | x_aux)."""
        x = self.image(batch)
        q_global, q_local = self.infer(x), self.local.posterior(self.local.fixed_view(x))
        return self.class_codes(self.log_clusters(q_global)) | {"z_global": q_global, "z_local": q_local}

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes z_global and z_local to mean images in [0, 1]; the decoder does not get the cluster."""
        return self.likelihood.mean(self.decoder(self.join(codes)[:, self.classes.num_values :]))

    def components(self, classes: Int[Tensor, "n 1"], free: Codes) -> dict[str, Normal]:
        """p(z_global | c) of these clusters, 0..K-1, {"z_global": Gaussian of [n, D]}."""
        scale = self.mixture.scale_tril().diagonal(dim1=1, dim2=2)
        return {"z_global": Normal(self.mixture.mu[classes[:, 0]], 2 * scale[classes[:, 0]].log())}

    def sample_prior(self, n: int) -> Codes:
        """Draws n codes of each block: clusters from p(c), z_global given these or, before mixture_start, from N(0, I)."""
        codes = self.sample_class(torch.multinomial(self.mixture.log_weights().exp(), n, True)[:, None])
        return codes | ({"z_global": torch.randn_like(codes["z_global"])} if self.is_early() else {})

    def is_early(self) -> bool:
        """Whether the prior of z_global is N(0, I): the mixture starts with the update of step mixture_start."""
        return self.step < self.mixture_start or not self.training and self.step == self.mixture_start > 0

    # ---- objective ------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, rec_aux, kl_z_global, kl_z_local and, from mixture_start on, those of Invariance."""
        x = batch["image"]
        x_aux = self.local.view(x) if self.training else self.local.fixed_view(x)
        q_global, q_local = self.infer(x), self.local.posterior(x_aux)
        z_global, z_local = q_global.rsample(), q_local.rsample()
        rec = -self.likelihood.log_prob(x, self.decoder(torch.cat([z_global, z_local], dim=1)))
        terms = {
            "rec": Term(rec, 1.0),
            "rec_aux": Term(self.local.rec(x_aux, z_local), self.aux_weight),
            "kl_z_global": Term(self.kl_global(q_global), self.beta_global(self.step)),
            "kl_z_local": Term(kl_standard(q_local), self.beta_local(self.step)),
        }
        return terms | ({} if self.is_early() else self.cluster_terms(x, q_global, z_local))

    def kl_global(self, q: Normal) -> Float[Tensor, " B"]:
        """kl_z_global of q(z_global | x), nats."""
        log_p = self.mixture.expected_log_joint(q).logsumexp(-1)
        if self.is_early():  # gradients of 0 instead of none, for which ddp would wait
            return kl_standard(q) + 0.0 * log_p
        return -q.entropy() - log_p

    def cluster_terms(self, x: Float[Tensor, "B C H W"], q: Normal, z_local: Float[Tensor, "B D"]) -> Terms:
        """The terms of Invariance.

        Args:
            x: Images in [0, 1].
            q: q(z_global | x).
            z_local: Draws of z_local; with swap_local each copy gets that of the previous image of the batch.
        """
        log_c = self.log_clusters(q)

        def copies() -> Tensor:
            copy = x
            with statistics_kept(self):
                if self.invariance.swap_local:
                    with torch.no_grad():
                        copy = self.likelihood.mean(self.decoder(torch.cat([q.mu, z_local.roll(1, 0)], dim=1)))
                return self.class_log_probs(self.invariance.distort(copy))

        terms = self.invariance.terms(self.step, log_c, self.joined(log_c).rows, copies)
        return {f"{name}_c": term for name, term in terms.items()}

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension, nats: of z_global given the cluster, averaged over q(c | x), of z_local to N(0, I)."""
        q, log_c = posterior["z_global"], self.log_clusters(posterior["z_global"])
        if self.is_early():
            return {name: kl_standard_per_dim(posterior[name]) for name in ("z_global", "z_local")}
        log_q = q.log_prob_per_dim(q.mu) - 0.5  # [B, D], expected under q itself
        given_c = log_q[:, None] - self.mixture.expected_log_prob_per_dim(q)  # [B, K, D]
        z_global = (log_c.exp()[..., None] * given_c).sum(1)
        return {"z_global": z_global, "z_local": kl_standard_per_dim(posterior["z_local"])}

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats; c is summed out.

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        x = batch["image"]
        q_global, q_local = self.infer(x), self.local.posterior(self.local.fixed_view(x))
        z_global, z_local = q_global.rsample((k,)), q_local.rsample((k,))  # [k, B, D] each
        log_px = self.likelihood.log_prob_of_draws(x, self.decoder(torch.cat([z_global, z_local], dim=2).flatten(0, 1)))
        log_p = log_standard_normal(z_global) if self.is_early() else self.mixture.log_prob(z_global)
        log_ratio = log_p - q_global.log_prob(z_global)
        return log_px + log_ratio + log_standard_normal(z_local) - q_local.log_prob(z_local)

    # ---- training -------------------------------------------------------------------------------------------------

    def learn_from(self, data: TrainingData) -> None:
        """Takes the training data.

        Args:
            data: Data of the data module.

        Raises:
            UserError: There are fewer images than clusters.
        """
        super().learn_from(data)
        self.require_images(data, self.init_images, "model.num_classes", self.classes.num_values)

    def on_fit_start(self) -> None:
        """Warns if the run ends before the mixture starts."""
        if 0 <= self.trainer.max_steps <= self.mixture_start:
            log.warning(
                "the clusters are not trained in this run, since model.mixture_start=%d is not below trainer.max_steps; "
                "lower it or increase trainer.max_steps",
                self.mixture_start,
            )

    def dormant(self) -> Iterable[nn.Parameter]:
        """The mixture until it is initialised."""
        return self.mixture.parameters() if self.is_early() else ()

    def initialise(self, batch: Batch) -> bool:
        """Initialises the mixture before the update of step mixture_start; returns whether it was due.

        Args:
            batch: Batch of this process, not used.
        """
        if self.step != self.mixture_start:
            return False
        seed = getattr(self.trainer, "seed", 0)
        noise.seed_step(seed, self.step, device=self.device)  # the same after a resume
        self.eval()
        with torch.no_grad():
            draws = [self.infer(images["image"]).sample() for images in self.training_images(self.init_images)]
        self.train()
        self.mixture.init_from_codes(torch.cat(draws), "means+vars+weights", seed)
        if self.fixed_weights:
            self.mixture.logits.data.copy_(self.classes.probs.log())
        return True
