"""The SPLIT idea as a part that any model with an encoder and a decoder can take (Charakorn et al., 2020).

Generative story:  z_local ~ N(0, I)    x_aux ~ p(x_aux | z_local)    x ~ p(x | z_local, whatever the model has beside it)
Inference:         q(z_local | x_aux) = N(mu, diag std^2),  x_aux = view(x)
The view destroys what z_local shall not hold (vae_zoo.nets.views). z_local alone must explain x_aux, so it fills with what
is left there, and the model's other codes with the rest. The model adds rec_aux + beta_local * kl_z_local to its loss, and
z_local to what its decoder sees.

q(z_local | view(x)) is a proposal like any other, however the view was drawn: log p(x) has its usual bound, without rec_aux.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vae_zoo.contract import Network
from vae_zoo.distributions import Likelihood, Normal, noise

HOLDS = "what shuffling keeps: colours and texture"


class LocalBranch(nn.Module):
    """image_shape: of x; dim: of z_local; view: x [B, C, H, W] -> x_aux; network, likelihood: for x_aux, with weights of
    their own."""

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
        aux_shape = self.fixed_view(torch.zeros(1, *image_shape)).shape[1:]  # raises where the view does not fit the images
        self.encoder = network.encoder(aux_shape, 2 * dim)
        self.likelihood = copy.deepcopy(likelihood)
        self.decoder = network.decoder(dim, likelihood.param_shape(aux_shape))

    def fixed_view(self, x: Tensor) -> Tensor:
        """x_aux by noise that is a function of the image itself: the same whenever and in whatever batch it is asked for."""
        with noise.per_image(noise.key_of(x)):
            return self.view(x)

    def posterior(self, x_aux: Tensor) -> Normal:
        """q(z_local | x_aux), [B, D]."""
        return Normal.from_softplus(self.encoder(x_aux))

    def rec(self, x_aux: Tensor, z_local: Tensor) -> Tensor:
        """-log p(x_aux | z_local), nats: [B]."""
        return -self.likelihood.log_prob(x_aux, self.decoder(z_local))

    def mean(self, z_local: Tensor) -> Tensor:
        """The mean of p(x_aux | z_local) in [0, 1]."""
        return self.likelihood.mean(self.decoder(z_local))


class LocalView:
    """The capability of models with a `local` branch, see vae_zoo.contract.HasLocalView."""

    global_block, local_block = "z_global", "z_local"
    local: LocalBranch

    def local_view(self, x: Tensor) -> Tensor:
        return self.local.fixed_view(x)

    def decode_local(self, code: Tensor) -> Tensor:
        return self.local.mean(code)
