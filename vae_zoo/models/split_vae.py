"""SPLIT-VAE: global and local information of an image in two codes (Charakorn et al., 2020, arXiv:2001.08957).

Generative story:  z_global ~ N(0, I)    z_local ~ N(0, I)    x ~ p(x | z_global, z_local)    x_aux ~ p(x_aux | z_local)
Inference:         q(z_global | x)    q(z_local | x_aux),  both N(mu, diag std^2),  x_aux = view(x), its patches shuffled
Minimised, in nats per image:
    loss = rec + aux_weight * rec_aux + beta_global * kl_z_global + beta_local * kl_z_local
    rec = -log p(x | z_global, z_local), rec_aux = -log p(x_aux | z_local) at one draw each,  kl_* = KL(q || N(0, I))

With all weights 1 the loss is the negative of a lower bound on log p(x, x_aux). Without rec_aux it is a bound on log p(x)
for any view; `log_weights` returns its terms. With aux_weight = 0 (the ablation) no term makes z_local explain the shuffled
image; its encoder still sees only that image (results: docs/methods/split.md).

The full text of the paper was not available: equations and networks are those of 51616/split-vae at 58b6efa; deviations are
in docs/methods/split.md.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import Count, NonNegative, Shape
from vae_zoo.contract import Batch, Block, Network, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_standard, log_standard_normal
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.models.local_branch import HOLDS, LocalBranch, LocalView
from vae_zoo.schedules import Schedule, as_schedule


class SplitVAE(LocalView, LatentVariableModel):
    """VAE with a global and a local code; implements `vae_zoo.contract.HasLocalView`.

    Args:
        image_shape: [C, H, W].
        global_dim: Dimensions of z_global.
        local_dim: Dimensions of z_local.
        network: Family of both encoders and both decoders, which share no weights (vae_zoo.nets).
        likelihood: Likelihood of both images.
        view: Makes x_aux (vae_zoo.nets.views).
        beta_global: Weight of kl_z_global, >= 0, a number or a schedule of the step.
        beta_local: Weight of kl_z_local, >= 0, a number or a schedule of the step.
        aux_weight: Weight of rec_aux, >= 0.
        **training: As in LatentVariableModel.
    """

    def __init__(
        self,
        image_shape: Shape,
        global_dim: Count,
        local_dim: Count,
        network: Network,
        likelihood: Likelihood,
        view: Callable[[Tensor], Tensor],
        beta_global: NonNegative | Schedule = 1.0,
        beta_local: NonNegative | Schedule = 1.0,
        aux_weight: NonNegative = 1.0,
        **training,
    ):
        super().__init__(image_shape, **training)
        self.blocks = {
            "z_global": Block(
                global_dim, "gaussian", "shape and layout, which are lost if the patches of the image are shuffled"
            ),
            "z_local": Block(local_dim, "gaussian", HOLDS),
        }
        self.encoder = network.encoder(self.image_shape, 2 * global_dim)
        self.decoder = network.decoder(global_dim + local_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood
        self.local = LocalBranch(self.image_shape, local_dim, view, network, likelihood)
        self.beta_global, self.beta_local, self.aux_weight = as_schedule(beta_global), as_schedule(beta_local), aux_weight

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers q(z_global | x) and q(z_local | x_aux), Gaussians of [B, D]."""
        x = self.image(batch)
        return self.infer(x, self.local.fixed_view(x))

    def infer(self, x: Float[Tensor, "B C H W"], x_aux: Float[Tensor, "B c h w"]) -> dict[str, Normal]:
        """Infers the posteriors of both codes.

        Args:
            x: Images in [0, 1].
            x_aux: Views of them, in [0, 1].

        Returns:
            {block: Gaussian of [B, D]}.
        """
        return {"z_global": Normal.from_softplus(self.encoder(x)), "z_local": self.local.posterior(x_aux)}

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, rec_aux, kl_z_global and kl_z_local."""
        x = batch["image"]
        x_aux = self.local.view(x) if self.training else self.local.fixed_view(x)
        q = self.infer(x, x_aux)
        z = {name: block.rsample() for name, block in q.items()}
        rec = -self.likelihood.log_prob(x, self.decoder(self.join(z)))  # [B]
        rec_aux = self.local.rec(x_aux, z["z_local"])
        return {
            "rec": Term(rec, 1.0),
            "rec_aux": Term(rec_aux, self.aux_weight),
            "kl_z_global": Term(kl_standard(q["z_global"]), self.beta_global(self.step)),
            "kl_z_local": Term(kl_standard(q["z_local"]), self.beta_local(self.step)),
        }

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats."""
        x, q = batch["image"], self.encode(batch)
        z = {name: block.rsample((k,)) for name, block in q.items()}  # [k, B, D] each
        params = self.decoder(self.join({name: draws.flatten(0, 1) for name, draws in z.items()}))
        log_px_z = self.likelihood.log_prob_of_draws(x, params)
        return log_px_z + sum(log_standard_normal(z[name]) - q[name].log_prob(z[name]) for name in z)
