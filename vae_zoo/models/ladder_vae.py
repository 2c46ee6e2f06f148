"""Ladder VAE: one code for each depth of the network, independent a priori (Zhao et al., 2017, arXiv:1702.08396).

Generative story:  z_j ~ N(0, I), j = 0 .. J-1 from the shallowest;  x ~ p(x | z_0 .. z_{J-1}), z_j entering at depth j
Inference:         q(z_j | x) = N(mu_j(x), diag exp(logvar_j(x))) at depth j of one encoder
Minimised, in nats per image:
    loss = rec + sum_j gamma_j * kl_j,   rec = -log p(x | z) at one draw,  kl_j = KL(q(z_j | x) || N(0, I))
A code holds information that the network can compute at its depth: strokes and colours near the pixels, kinds of objects in
deep layers. With a `schedule` the deepest facet is trained first and the others are faded in one after the other: alpha_j
weights their rungs in the decoder, gamma_j their KL (Li et al., 2020, arXiv:2002.10549). A facet that has not entered (both
0) is not part of the model: it is not decoded and does not count in any bound.

Deviation from the code of the progressive ladder: the encoder's rungs are not faded in, and one run with one optimiser goes
through all stages, both as in MFCVAE's code.
"""

import logging

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from vae_zoo.config.types import FacetCounts, Shape
from vae_zoo.contract import Batch, Block, Codes, LadderNetwork, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_standard, log_standard_normal, noise
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.nets.ladder import init_from_batch
from vae_zoo.schedules import FacetWeights, Progressive
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.memory import to_device

log = logging.getLogger(__name__)

COLLAPSED, AFTER = 0.5, 1000  # a KL below COLLAPSED nats is reported AFTER updates since it began to count


class LadderVAE(LatentVariableModel):
    """VAE with one code for each depth of the network.

    Args:
        image_shape: [C, H, W].
        facet_dims: Dimensions of each facet, the shallowest first.
        network: Ladder of as many facets (vae_zoo.nets.ladder).
        likelihood: p(x | z).
        schedule: Weights of the facets by the step; None: all facets are trained from the first update.
        data_init: Whether the initial weights are computed from the first batch, so that on it each channel of a layer has
            mean 0 and standard deviation 0.1 (Salimans and Kingma, 2016).
        **training: As in LatentVariableModel.

    Raises:
        ValueError: The network is not a ladder, or network or schedule have another number of facets.
    """

    def __init__(
        self,
        image_shape: Shape,
        facet_dims: FacetCounts,
        network: LadderNetwork,
        likelihood: Likelihood,
        schedule: Progressive | None = None,
        data_init: bool = False,
        **training,
    ):
        super().__init__(image_shape, **training)
        J, of_network = len(facet_dims), getattr(network, "num_facets", None)
        if of_network is None:
            raise ValueError(
                f"this model needs a ladder network, got network={type(network).__name__}; choose "
                f"model/network=fc_vlae, conv_vlae or vade"
            )
        if of_network != J:
            raise ValueError(
                f"facet_dims={[*facet_dims]} has {J} facets, but the network has {of_network}; give both the same number"
            )
        if schedule is not None:
            schedule.begins(J)  # raises if it is made for another number
        where = {0: ", nearest to the pixels", J - 1: ", the deepest"} if J > 1 else {}
        self.blocks = {
            f"facet{j}": Block(D, "gaussian", f"features at depth {j + 1} of {J}{where.get(j, '')}")
            for j, D in enumerate(facet_dims)
        }
        self.encoder = network.encoder(self.image_shape, [2 * D for D in facet_dims])
        self.decoder = network.decoder(facet_dims, likelihood.param_shape(self.image_shape))
        self.likelihood, self.schedule, self.data_init = likelihood, schedule, data_init
        self._warned: set[str] = set()

    def begins(self) -> dict[str, int]:
        """The step from which the KL of each facet counts."""
        if self.schedule is None:
            return dict.fromkeys(self.blocks, 0)
        return dict(zip(self.blocks, self.schedule.begins(len(self.blocks))))

    def coefficients(self, step: int) -> dict[str, FacetWeights]:
        """alpha, gamma_z and gamma_c of each facet at a step."""
        if self.schedule is None:
            return dict.fromkeys(self.blocks, FacetWeights(1.0, 1.0, 1.0))
        return dict(zip(self.blocks, self.schedule(step, len(self.blocks))))

    def current(self) -> dict[str, FacetWeights]:
        """The coefficients at the current step; before the update with which a facet enters, evaluation lacks this facet."""
        is_before = not self.training and self.step > 0 and self.step in self.begins().values()
        return self.coefficients(self.step - 1 if is_before else self.step)

    def entered(self) -> list[str]:
        """The facets that the decoder gets at the current step."""
        return [name for name, weights in self.current().items() if weights.alpha > 0]

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers q(z_j | x) of each facet, a Gaussian of [B, D]."""
        return dict(zip(self.blocks, map(Normal.from_params, self.encoder(self.image(batch)))))

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes codes of all facets to mean images in [0, 1]; codes of facets that have not entered have no effect."""
        self.join(codes)  # raises if a code is missing or has another size
        return self.likelihood.mean(self.decode_params(codes))

    def decode_params(self, codes: Codes) -> Float[Tensor, "B P H W"]:
        """Parameters of p(x | z); the codes of facets that have not entered may be left out."""
        alpha = [weights.alpha for weights in self.current().values()]
        z = [codes[name] if a > 0 else None for name, a in zip(self.blocks, alpha)]
        return self.decoder(z, to_device(torch.tensor(alpha), self.device))

    def objective(self, batch: Batch) -> Terms:
        """The terms rec and kl_facet<j>; the latter have no weight for facets that have not entered."""
        q, z, rec = self.infer(batch)
        terms, weights = {"rec": Term(rec, 1.0)}, self.current()
        for name in z:  # a weight of 0 becomes None: no gradient instead of a zero gradient
            terms[f"kl_{name}"] = Term(kl_standard(q[name]), weights[name].gamma_z or None)
        return terms

    def infer(self, batch: Batch) -> tuple[dict[str, Normal], Codes, Float[Tensor, " B"]]:
        """Infers the posteriors and draws from them.

        Args:
            batch: Batch of images.

        Returns:
            All posteriors, a draw [B, D] of each facet that is decoded or has a weight, and the reconstruction error, nats.
        """
        q = self.encode(batch)
        z = {name: q[name].rsample() for name, w in self.current().items() if max(w) > 0}
        return q, z, -self.likelihood.log_prob(batch["image"], self.decode_params(z))

    def log_prior(self, name: str, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z) of a facet.

        Args:
            name: Name of the facet.
            z: Codes.

        Returns:
            Nats.
        """
        return log_standard_normal(z)

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats.

        Facets that have not entered are left out: the image does not depend on them, so their best posterior is the prior.

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        x, q = batch["image"], self.encode(batch)
        z = {name: q[name].rsample((k,)) for name in self.entered()}  # [k, B, D] each
        params = self.decode_params({name: draws.flatten(0, 1) for name, draws in z.items()})
        log_px_z = self.likelihood.log_prob_of_draws(x, params)
        return log_px_z + sum(self.log_prior(name, z[name]) - q[name].log_prob(z[name]) for name in z)

    # ---- training -------------------------------------------------------------------------------------------------

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Checks a trainer before anything is written.

        Args:
            trainer: Trainer of the model.

        Raises:
            UserError: Its strategy needs gradients of facets that have not entered.
        """
        strategy = trainer.strategy
        waits = isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters", False)
        if waits and self.schedule is not None:
            raise UserError(
                "trainer.strategy=ddp needs gradients of all weights, but facets that have not entered have none; set "
                "trainer.strategy=ddp_find_unused_parameters_true"
            )

    def initialise(self, batch: Batch) -> bool:
        """Sets the values that are due at the current step from images.

        Args:
            batch: Batch of this process.

        Returns:
            Whether anything was set.
        """
        if not self.data_init or self.step > 0:
            return False
        noise.seed_step(getattr(self.trainer, "seed", 0), self.step, device=self.device)
        everything_in = torch.ones(len(self.blocks), device=self.device)
        init_from_batch(
            (self.encoder, self.decoder),
            lambda: self.decoder([q.rsample() for q in self.encode(batch).values()], everything_in),
        )
        return True

    def on_validation_epoch_end(self) -> None:
        """Warns once about each facet that has collapsed: 1000 updates after its KL began to count, this is still low."""
        super().on_validation_epoch_end()
        weights = self.coefficients(self.step)
        for name, begin in self.begins().items():
            if self.step < begin + AFTER or weights[name].gamma_z < 1 or name in self._warned:
                continue
            total, count = (self._sums[f"{key}/kl_{name}"] for key in ("term", "items"))
            if total < COLLAPSED * count:
                log.warning(
                    "%s collapses: its KL is %.2f nats; lower its KL weight at the start (model.schedule.gamma_fade_steps) "
                    "or, with model/network=fc_vlae, increase its weight in the decoder (model.network.gate)",
                    name,
                    total / count,
                )
                self._warned.add(name)
