"""The SPLIT method as a part that any model with an encoder and a decoder can use (Charakorn et al., 2020).

Generative story:  z_local ~ N(0, I)    x_aux ~ p(x_aux | z_local)    x ~ p(x | z_local, other codes of the model)
Inference:         q(z_local | x_aux) = N(mu, diag std^2),  x_aux = view(x)
The view destroys the information that z_local must not hold (vae_zoo.nets.views). z_local alone must explain x_aux, so it
holds what the view keeps, and the other codes hold the rest. The model adds rec_aux + beta_local * kl_z_local to its loss,
and z_local to the input of its decoder.

q(z_local | view(x)) is a valid proposal for any drawn view, so without rec_aux the usual bound on log p(x) holds.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_zoo.contract import Network
from vae_zoo.distributions import Likelihood, Normal, noise

HOLDS = "colours and texture, which remain if the patches of the image are shuffled"


class LocalBranch(nn.Module):
    """Encoder and decoder of z_local.

    Args:
        image_shape: [C, H, W] of x.
        dim: Dimensions of z_local.
        view: Makes x_aux of x [B, C, H, W].
        network: Family of the encoder and decoder, which have weights of their own.
        likelihood: p(x_aux | z_local), copied.

    Raises:
        ValueError: The view does not fit the images.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        dim: int,
        view: Callable[[Tensor], Tensor],
        network: Network,
        likelihood: Likelihood,
    ):
        super().__init__()
        self.view = view
        aux_shape = self.fixed_view(torch.zeros(1, *image_shape)).shape[1:]  # raises if the view does not fit the images
        self.encoder = network.encoder(aux_shape, 2 * dim)
        self.likelihood = copy.deepcopy(likelihood)
        self.decoder = network.decoder(dim, likelihood.param_shape(aux_shape))

    def fixed_view(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Makes x_aux with noise that is a function of the image, so that it is the same in every batch."""
        with noise.per_image(noise.key_of(x)):
            return self.view(x)

    def posterior(self, x_aux: Float[Tensor, "B c h w"]) -> Normal:
        """q(z_local | x_aux), a Gaussian of [B, D]."""
        return Normal.from_softplus(self.encoder(x_aux))

    def rec(self, x_aux: Float[Tensor, "B c h w"], z_local: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """-log p(x_aux | z_local), nats."""
        return -self.likelihood.log_prob(x_aux, self.decoder(z_local))

    def mean(self, z_local: Float[Tensor, "B D"]) -> Float[Tensor, "B c h w"]:
        """Decodes z_local to the mean of p(x_aux | z_local), in [0, 1]."""
        return self.likelihood.mean(self.decoder(z_local))


class LocalView:
    """Implementation of `vae_zoo.contract.HasLocalView` for models with a `local` branch.

    Attributes:
        local: The branch.
    """

    global_block, local_block = "z_global", "z_local"
    local: LocalBranch

    def local_view(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        """Makes the auxiliary view of images; the same for the same image."""
        return self.local.fixed_view(x)

    def decode_local(self, code: Float[Tensor, "B D"]) -> Float[Tensor, "B c h w"]:
        """Decodes local codes to the auxiliary view that they explain, in [0, 1]."""
        return self.local.mean(code)
