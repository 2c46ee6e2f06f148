"""FactorVAE: a discriminator estimates the total correlation (Kim and Mnih, 2018, equation 2 and algorithm 2).

The discriminator distinguishes draws of q(z) (class 0) from draws of prod_d q(z_d) (class 1), which are made by permuting
each dimension over the batch. With logits l, tc = E[l_0 - l_1] estimates KL(q(z) || prod_d q(z_d)).
Minimised, in nats per image:  VAE  loss = rec + kl_z + gamma * tc      discriminator  cross-entropy of the two classes
Deviation: the permuted codes are those of the same batch, as in disentanglement_lib; the paper draws a second one.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.func import functional_call

from vae_zoo.config.types import NonNegative, Widths
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import kl_standard, noise
from vae_zoo.models.vae import VAE


def permute_dims(z: Float[Tensor, "N D"], scores: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Permutes each dimension over the batch: a batch of prod_d q(z_d).

    Args:
        z: Draws of q(z).
        scores: Uniform numbers, whose order in each column is the permutation.

    Source: Kim and Mnih (2018), algorithm 1.
    """
    return z.gather(0, scores.argsort(0))


class FactorVAE(VAE):
    """VAE with a penalty on the total correlation, which a discriminator estimates.

    Args:
        *args: As in VAE.
        gamma: Weight of the total correlation, >= 0.
        discriminator_hidden: Units of the discriminator's layers.
        discriminator_optimizer: Makes the optimiser of the discriminator.
        **kwargs: As in VAE.
    """

    def __init__(
        self,
        *args,
        gamma: NonNegative = 35.0,
        discriminator_hidden: Widths = (1000,) * 6,
        discriminator_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.gamma = gamma
        self.discriminator_optimizer = discriminator_optimizer
        units = [self.blocks["z"].size, *discriminator_hidden]
        layers = [m for i, o in zip(units, units[1:]) for m in (nn.Linear(i, o), nn.LeakyReLU(0.2))]
        self.discriminator = nn.Sequential(*layers, nn.Linear(units[-1], 2))

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, kl_z and tc of the VAE, and the loss of the discriminator.

        No gradient of the weighted terms reaches the discriminator, and none of the term `discriminator` reaches the VAE.

        Args:
            batch: Batch of images.
        """
        q_z, z, rec = self.infer(batch)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, frozen, z).float()  # [B, 2]
        tc = logits[:, 0] - logits[:, 1]
        return {
            "rec": Term(rec, 1.0),
            "kl_z": Term(kl_standard(q_z), 1.0),
            "tc": Term(tc, self.gamma),
            "discriminator": Term(self.discriminator_loss(z.detach())),
        }

    def discriminator_loss(self, z: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Mean cross-entropy of z against its permutation, nats; log 2 = 0.69 if they cannot be distinguished."""
        everybody, own = self.joined(torch.cat([z, noise.uniform(z)], dim=1))
        permuted = permute_dims(*everybody.chunk(2, dim=1))[own]  # permuted over all ranks
        real, permuted = self.discriminator(z).float(), self.discriminator(permuted).float()
        target = torch.zeros(len(z), dtype=torch.long, device=z.device)
        costs = F.cross_entropy(real, target, reduction="none"), F.cross_entropy(permuted, target + 1, reduction="none")
        return 0.5 * (costs[0] + costs[1])

    def configure_optimizers(self) -> Any:
        """Makes the optimisers of the VAE and of the discriminator, for Lightning."""
        vae = [p for name, p in self.named_parameters() if not name.startswith("discriminator.")]
        return self.optimizer(vae), self.discriminator_optimizer(self.discriminator.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the VAE and the discriminator on the same batch."""
        self.begin_step()
        vae_optimizer, discriminator_optimizer = cast(list[LightningOptimizer], self.optimizers())
        terms = self.objective(batch)
        loss = self.total(terms)
        self.keep(loss, terms)
        self.zero_grad()
        self.manual_backward(loss + self.mean_of_rank(terms["discriminator"].value))  # ddp needs every parameter in it
        for optimizer in (vae_optimizer, discriminator_optimizer):
            self.configure_gradient_clipping(optimizer)
        vae_optimizer.step()
        discriminator_optimizer.optimizer.step()  # unwrapped: Lightning must not count it as a step
