"""Diagonal Gaussians, in float32 whatever the precision of the network that gave them."""

from dataclasses import dataclass
from math import log, pi

import torch.nn.functional as F
from torch import Tensor

from vae_zoo.distributions import noise


@dataclass(frozen=True)
class Normal:
    """N(mu, diag exp(logvar)); mu, logvar: [..., D]."""

    mu: Tensor
    logvar: Tensor

    @classmethod
    def from_params(cls, params: Tensor) -> "Normal":
        """params [..., 2 D]: the means, then the log-variances."""
        mu, logvar = params.float().chunk(2, dim=-1)
        return cls(mu, logvar)

    @classmethod
    def from_softplus(cls, params: Tensor, floor: float = 1e-4) -> "Normal":
        """params [..., 2 D]: the means, then what gives the standard deviations, softplus(.) + floor."""
        mu, raw = params.float().chunk(2, dim=-1)
        return cls(mu, 2 * (F.softplus(raw) + floor).log())

    @property
    def mean(self) -> Tensor:
        return self.mu

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Reparameterised draws [*sample_shape, ..., D]."""
        return self.mu + noise.normal(self.mu, sample_shape) * (0.5 * self.logvar).exp()

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z [..., D], summed over D, nats: [...]."""
        return self.log_prob_per_dim(z).sum(-1)

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        return -0.5 * (log(2 * pi) + self.logvar + (z - self.mu).square() * (-self.logvar).exp())

    def entropy(self) -> Tensor:
        """-E log q, nats: [...]."""
        return 0.5 * (1 + log(2 * pi) + self.logvar).sum(-1)

    def __getitem__(self, rows) -> "Normal":
        return Normal(self.mu[rows], self.logvar[rows])

    def map(self, function) -> "Normal":
        """The same function on mu and logvar: `.map(torch.detach)`, `.map(lambda t: t.cpu())`."""
        return Normal(function(self.mu), function(self.logvar))


def kl_standard_per_dim(q: Normal) -> Tensor:
    """KL(q || N(0, I)) of each dimension, nats, [..., D]. Source: Kingma and Welling (2014), appendix B."""
    return 0.5 * (q.mu.square() + q.logvar.exp() - 1 - q.logvar)


def kl_standard(q: Normal) -> Tensor:
    """KL(q || N(0, I)), nats, [...]."""
    return kl_standard_per_dim(q).sum(-1)


def log_standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) summed over the last dimension, nats, [...]."""
    return -0.5 * (log(2 * pi) + z.square()).sum(-1)


def log_density_pairs(q: Normal, z: Tensor) -> Tensor:
    """log q(z[i] | x[j]) of every dimension, for all pairs: z [M, D], q [B, D] -> [M, B, D] nats."""
    return Normal(q.mu[None], q.logvar[None]).log_prob_per_dim(z[:, None])


def covariance(x: Tensor) -> Tensor:
    """Population covariance of the rows of x [N, D]: [D, D]."""
    centred = x - x.mean(0)
    return (centred[:, :, None] * centred[:, None]).mean(0)  # autocast would make a matrix product in bfloat16
