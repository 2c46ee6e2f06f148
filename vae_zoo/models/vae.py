"""VAE with one Gaussian code, the base of the baselines that change only its regulariser (Kingma and Welling, 2014).

Generative story:  z ~ N(0, I),  x ~ p(x | z)          Inference:  q(z | x) = N(mu(x), diag exp(logvar(x)))
Minimised, in nats per image:  loss = rec + kl_z,  rec = -log p(x | z) at one draw of q,  kl_z = KL(q(z | x) || N(0, I))
"""

from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import Count, Shape
from vae_zoo.contract import Batch, Block, Network, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_standard, log_standard_normal
from vae_zoo.models.base import LatentVariableModel


class VAE(LatentVariableModel):
    """VAE with one Gaussian block.

    Args:
        image_shape: [C, H, W].
        latent_dim: Dimensions of z.
        network: Family of encoder and decoder (vae_zoo.nets).
        likelihood: p(x | z).
        **training: As in LatentVariableModel.
    """

    def __init__(self, image_shape: Shape, latent_dim: Count, network: Network, likelihood: Likelihood, **training):
        super().__init__(image_shape, **training)
        self.blocks = {"z": Block(latent_dim, "gaussian", "everything about the image")}
        self.encoder = network.encoder(self.image_shape, 2 * latent_dim)
        self.decoder = network.decoder(latent_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers q(z | x), a Gaussian of [B, D]."""
        return {"z": Normal.from_params(self.encoder(self.image(batch)))}

    def infer(self, batch: Batch) -> tuple[Normal, Float[Tensor, "B D"], Float[Tensor, " B"]]:
        """Infers the posterior and draws from it.

        Args:
            batch: Batch of images.

        Returns:
            q(z | x), one draw, and the reconstruction error of that draw, nats.
        """
        q_z = self.encode(batch)["z"]
        z = q_z.rsample()
        return q_z, z, -self.likelihood.log_prob(batch["image"], self.decoder(z))

    def objective(self, batch: Batch) -> Terms:
        """The terms rec and kl_z."""
        q_z, _, rec = self.infer(batch)
        return {"rec": Term(rec, 1.0), "kl_z": Term(kl_standard(q_z), 1.0)}

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats."""
        x, q_z = batch["image"], self.encode(batch)["z"]
        z = q_z.rsample((k,))  # [k, B, D]
        log_px_z = self.likelihood.log_prob_of_draws(x, self.decoder(z.flatten(0, 1)))
        return log_px_z + log_standard_normal(z) - q_z.log_prob(z)
