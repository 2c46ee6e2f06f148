"""Diagonal Gaussians, computed in float32 for networks of any precision."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vae_zoo.distributions import noise


@dataclass(frozen=True)
class Normal:
    """The diagonal Gaussian N(mu, diag exp(logvar)).

    Attributes:
        mu: Means.
        logvar: Natural logarithms of the variances.
    """

    mu: Float[Tensor, "*batch D"]
    logvar: Float[Tensor, "*batch D"]

    @classmethod
    def from_params(cls, params: Float[Tensor, "... _"]) -> "Normal":
        """Makes a Gaussian of a network's output.

        Args:
            params: [..., 2 D], the means, then the log-variances; converted to float32.

        Returns:
            The Gaussian of D dimensions.
        """
        mu, logvar = params.float().chunk(2, dim=-1)
        return cls(mu, logvar)

    @classmethod
    def from_softplus(cls, params: Float[Tensor, "... _"], floor: float = 1e-4) -> "Normal":
        """Makes a Gaussian whose standard deviations come from a softplus.

        Args:
            params: [..., 2 D], the means, then the values whose softplus(.) + floor is the standard deviation.
            floor: Least standard deviation, > 0.

        Returns:
            The Gaussian of D dimensions.
        """
        mu, raw = params.float().chunk(2, dim=-1)
        return cls(mu, 2 * (F.softplus(raw) + floor).log())

    @property
    def mean(self) -> Float[Tensor, "... D"]:
        """The means, which are also the codes that an evaluation uses."""
        return self.mu

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "... D"]:
        """Draws, reparameterised.

        Args:
            sample_shape: Axes put before those of mu.

        Returns:
            [*sample_shape, ..., D].
        """
        return self.mu + noise.normal(self.mu, sample_shape) * (0.5 * self.logvar).exp()

    def sample(self) -> Float[Tensor, "... D"]:
        """Draws from torch's global generator, also inside `noise.per_image`: draws from a prior belong to no image."""
        return self.mu + torch.randn_like(self.mu) * (0.5 * self.logvar).exp()

    def log_prob(self, z: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """Log-density, summed over the dimensions.

        Args:
            z: Points; their leading axes broadcast with those of mu.

        Returns:
            Nats.
        """
        return self.log_prob_per_dim(z).sum(-1)

    def log_prob_per_dim(self, z: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Log-density of each dimension.

        Args:
            z: Points; their leading axes broadcast with those of mu.

        Returns:
            Nats.
        """
        return -0.5 * (log(2 * pi) + self.logvar + (z - self.mu).square() * (-self.logvar).exp())

    def entropy(self) -> Float[Tensor, "..."]:
        """Differential entropy -E log q, nats."""
        return 0.5 * (1 + log(2 * pi) + self.logvar).sum(-1)

    def __getitem__(self, rows) -> "Normal":
        return Normal(self.mu[rows], self.logvar[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Normal":
        """Applies one function to mu and to logvar.

        Args:
            function: Such as `torch.detach` or `lambda t: t.cpu()`; keeps the two shapes equal.

        Returns:
            The changed Gaussian.
        """
        return Normal(function(self.mu), function(self.logvar))


def kl_standard_per_dim(q: Normal) -> Float[Tensor, "... D"]:
    """KL(q || N(0, I)) of each dimension, nats.

    Source: Kingma and Welling (2014), appendix B.
    """
    return 0.5 * (q.mu.square() + q.logvar.exp() - 1 - q.logvar)


def kl_standard(q: Normal) -> Float[Tensor, "..."]:
    """KL(q || N(0, I)), summed over the dimensions, nats."""
    return kl_standard_per_dim(q).sum(-1)


def log_standard_normal(z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
    """Log-density of N(0, I), summed over the last axis, nats."""
    return -0.5 * (log(2 * pi) + z.square()).sum(-1)


def transport(z: Float[Tensor, "... D"], source: Normal, target: Normal) -> Float[Tensor, "... D"]:
    """Moves points from one Gaussian to another; each keeps its distance from the mean in standard deviations.

    This is the optimal transport map between the two.

    Args:
        z: Points; their leading axes broadcast with those of both Gaussians.
        source: Gaussian of the points.
        target: Gaussian that they move to.

    Returns:
        The moved points.
    """
    return target.mu + (z - source.mu) * (0.5 * (target.logvar - source.logvar)).exp()


def log_density_pairs(q: Normal, z: Float[Tensor, "M D"]) -> Float[Tensor, "M B D"]:
    """Log-density of each point under each Gaussian, dimension by dimension.

    Args:
        q: B Gaussians of D dimensions.
        z: Points.

    Returns:
        log q(z[i, d] | x[j]) at [i, j, d], nats.
    """
    return Normal(q.mu[None], q.logvar[None]).log_prob_per_dim(z[:, None])


def covariance(x: Float[Tensor, "N D"]) -> Float[Tensor, "D D"]:
    """Population covariance of the rows of x (divided by N)."""
    centred = x - x.mean(0)
    return (centred[:, :, None] * centred[:, None]).mean(0)  # autocast would make a matrix product in bfloat16
