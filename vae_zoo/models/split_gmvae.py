"""SPLIT-GMVAE: GMVAE with an additional local code for colours and texture (Charakorn et al., 2020).

Generative story:  c ~ Cat(1 / K)    z_global | c ~ N(m(c), diag s(c)^2)    z_local ~ N(0, I)
                   x ~ p(x | z_global, z_local)    x_aux ~ p(x_aux | z_local)
Inference:         q(c | x)    q(z_global | x, c)    q(z_local | x_aux), independent of the cluster;  x_aux = view(x)
Minimised, in nats per image:
    loss = rec + aux_weight * rec_aux + beta * kl_z_global + beta_local * kl_z_local + alpha * kl_c
kl_z_global and kl_c are those of vae_zoo/models/gmvae.py, rec_aux and kl_z_local those of vae_zoo/models/local_branch.py.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import Classes, Count, NonNegative, Shape
from vae_zoo.contract import Batch, Block, Network, Term, Terms
from vae_zoo.distributions import Categorical, Likelihood, Normal, kl_standard, kl_standard_per_dim, log_standard_normal
from vae_zoo.models.gmvae import GMVAE
from vae_zoo.models.local_branch import HOLDS, LocalBranch, LocalView
from vae_zoo.schedules import Schedule, as_schedule


class SplitGMVAE(LocalView, GMVAE):
    """GMVAE with a local code; its z is z_global.

    Args:
        image_shape: [C, H, W].
        z_dim: Dimensions of z_global.
        num_classes: K, the number of clusters, >= 2.
        network: As in GMVAE.
        likelihood: Likelihood of both images.
        local_dim: Dimensions of z_local.
        local_network: Family of encoder and decoder of the local branch.
        view: Makes x_aux (vae_zoo.nets.views).
        beta_local: Weight of kl_z_local, >= 0, a number or a schedule of the step.
        aux_weight: Weight of rec_aux, >= 0.
        **common: As in GMVAE.
    """

    z_name = "z_global"
    free_of_class = ("z_local",)

    def __init__(
        self,
        image_shape: Shape,
        z_dim: Count,
        num_classes: Classes,
        network: Network,
        likelihood: Likelihood,
        local_dim: Count,
        local_network: Network,
        view: Callable[[Tensor], Tensor],
        beta: NonNegative | Schedule = 1.0,  # before beta_local, whose default in the YAML file refers to it
        beta_local: NonNegative | Schedule = 1.0,
        aux_weight: NonNegative = 1.0,
        **common,
    ):
        super().__init__(image_shape, z_dim, num_classes, network, likelihood, beta=beta, **common)
        self.blocks["z_local"] = Block(local_dim, "gaussian", HOLDS)
        self.decoder = network.decoder(z_dim + local_dim, likelihood.param_shape(self.image_shape))  # of both codes
        self.local = LocalBranch(self.image_shape, local_dim, view, local_network, likelihood)
        self.beta_local, self.aux_weight = as_schedule(beta_local), aux_weight

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(c | x), q(z_global | x, c) of the most probable cluster c, and q(z_local | x_aux)."""
        x = self.image(batch)
        return super().encode(batch) | {"z_local": self.local.posterior(self.local.fixed_view(x))}

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, rec_aux, kl_z_global, kl_z_local and kl_c."""
        x, (log_c, h) = batch["image"], self.infer(batch["image"])
        x_aux = self.local.view(x) if self.training else self.local.fixed_view(x)
        q_local = self.local.posterior(x_aux)
        rec, kl_z_global, z_local = self.expected(x, log_c, h, q_local)
        rec_aux = self.local.rec(x_aux, z_local)
        return {
            "rec": Term(rec, 1.0),
            "rec_aux": Term(rec_aux, self.aux_weight),
            "kl_z_global": Term(kl_z_global, self.beta(self.step)),
            "kl_z_local": Term(kl_standard(q_local), self.beta_local(self.step)),
            "kl_c": Term(self.classes.kl(log_c).sum(1), self.alpha(self.step)),
        }

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension of z_global to the prior of the most probable cluster, and of z_local to N(0, I), nats."""
        return super().kl_per_dim(posterior) | {"z_local": kl_standard_per_dim(posterior["z_local"])}

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws, nats; c is summed out of both mixtures of z_global."""
        x, (z_global, log_ratio) = batch["image"], self.draw_z(batch["image"], k)
        q_local = self.local.posterior(self.local.fixed_view(x))
        z_local = q_local.rsample((k,))  # [k, B, D]
        log_px_z = self.likelihood.log_prob_of_draws(x, self.decoder(torch.cat([z_global, z_local], dim=2).flatten(0, 1)))
        return log_px_z + log_ratio + log_standard_normal(z_local) - q_local.log_prob(z_local)
