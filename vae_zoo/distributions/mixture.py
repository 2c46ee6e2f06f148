"""Mixtures of Gaussians: a prior p(z) = sum_c p(c) p(z | c), a table of components, and how far components overlap."""

from math import log, pi
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vae_zoo.distributions.normal import Normal

SHARPNESS = 10.0  # beta of the softplus that makes standard deviations and variances positive
FLOOR = 1e-6  # of a variance: without one a component may shrink onto a point


class MixturePrior(nn.Module):
    """The prior p(z) = sum_c p(c) N(z; mu_c, Sigma_c) of K components in D dimensions, in float32.

    Means start at N(0, 2 / (D + K)), covariances at 0; init_from_codes replaces them by those of codes.

    Args:
        num_components: K.
        dim: D.
        covariance: `diagonal`, softplus(raw) + 1e-6, or `full`, L L^T with softplus(raw) + 1e-3 on L's diagonal and raw
            below.
        weights: p(c), `learned` through a softmax that starts uniform, or `fixed` at its first values.
        variance: First value of the variances, > 1e-6.

    Raises:
        ValueError: variance is too small.

    Source: FabianFalck/mfcvae.
    """

    def __init__(
        self,
        num_components: int,
        dim: int,
        covariance: Literal["diagonal", "full"] = "diagonal",
        weights: Literal["fixed", "learned"] = "learned",
        variance: float = 0.01,
    ):
        super().__init__()
        if variance <= FLOOR:
            raise ValueError(f"the variance of a component must be > {FLOOR}, got {variance}")
        K, D = num_components, dim
        self.full = covariance == "full"
        logits = torch.zeros(K)
        self.logits = nn.Parameter(logits) if weights == "learned" else nn.Buffer(logits)
        self.mu = nn.Parameter(torch.randn(K, D) * (2 / (D + K)) ** 0.5)
        self.raw_scale = nn.Parameter(torch.empty(K, D, D) if self.full else torch.empty(K, D))
        with torch.no_grad():
            self._set_variances(torch.full((K, D), float(variance)))

    # ---- components ---------------------------------------------------------------------------------------------------

    def log_weights(self) -> Float[Tensor, " K"]:
        """log p(c), nats."""
        return self.logits.log_softmax(0)

    def scale_tril(self) -> Float[Tensor, "K D D"]:
        """The Cholesky factors L of Sigma = L L^T."""
        if not self.full:
            return self._variances().sqrt().diag_embed()
        diagonal = _softplus(self.raw_scale.diagonal(dim1=1, dim2=2)) + FLOOR**0.5
        return self.raw_scale.tril(-1) + diagonal.diag_embed()

    def _variances(self) -> Tensor:
        return _softplus(self.raw_scale) + FLOOR  # [K, D], diagonal covariance

    def _set_variances(self, variances: Tensor) -> None:
        """variances [K, D] > FLOOR; correlations become 0."""
        if self.full:
            self.raw_scale.copy_(_inverse_softplus(variances.sqrt() - FLOOR**0.5).diag_embed())
        else:
            self.raw_scale.copy_(_inverse_softplus(variances - FLOOR))

    # ---- densities ----------------------------------------------------------------------------------------------------

    def log_joint(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        """log p(c) + log N(z; mu_c, Sigma_c) of each component, nats."""
        return self.log_weights() + self.log_prob_per_dim(z).sum(-1)

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z), nats."""
        return self.log_joint(z).logsumexp(-1)

    def responsibilities(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K"]:
        """p(c | z) of each component, in [0, 1]."""
        return self.log_joint(z).softmax(-1)

    def expected_log_joint(self, q: Normal) -> Float[Tensor, "... K"]:
        """E_q(z) [log p(c) + log N(z; mu_c, Sigma_c)] of each component.

        It equals log_joint(m) - 1/2 tr(Sigma_c^-1 S) for q = N(m, S). Its softmax over c is the q(c) that minimises
        E_q(z) KL(q(c) || p(c | z)), and its logsumexp replaces log p(z) in the bound with this q(c).

        Args:
            q: Gaussians of D dimensions.

        Returns:
            Nats.
        """
        return self.log_weights() + self.expected_log_prob_per_dim(q).sum(-1)

    def log_prob_per_dim(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch K D"]:
        """log p(z_d | z_1 .. z_{d-1}, c), nats; their sum over d is log N(z; mu_c, Sigma_c)."""
        if not self.full:
            return Normal(self.mu, self._variances().log()).log_prob_per_dim(z[..., None, :])
        scale, inverse = self._cholesky()
        with torch.autocast(z.device.type, enabled=False):
            whitened = torch.einsum("...d,ked->...ke", z, inverse) - torch.einsum("kd,ked->ke", self.mu, inverse)
        return -0.5 * (log(2 * pi) + whitened.square()) - scale.diagonal(dim1=1, dim2=2).log()

    def expected_log_prob_per_dim(self, q: Normal) -> Float[Tensor, "... K D"]:
        """Expectation of `log_prob_per_dim` under Gaussians of D dimensions, nats."""
        variances = q.logvar.exp()
        if not self.full:
            spread = variances[..., None, :] / self._variances()
        else:
            with torch.autocast(variances.device.type, enabled=False):
                spread = torch.einsum("...d,ked->...ke", variances, self._cholesky()[1].square())
        return self.log_prob_per_dim(q.mu) - 0.5 * spread

    def _cholesky(self) -> tuple[Tensor, Tensor]:
        """L and its inverse, [K, D, D]: one matrix product with it is faster than to solve for every z."""
        scale = self.scale_tril()
        identity = torch.eye(scale.shape[-1], device=scale.device, dtype=scale.dtype).expand_as(scale)
        return scale, torch.linalg.solve_triangular(scale, identity, upper=False)

    # ---- draws, first values, overlap ---------------------------------------------------------------------------------

    def sample(self, c: Int[Tensor, " n"], temperature: float = 1.0) -> Float[Tensor, "n D"]:
        """Draws of given components.

        Args:
            c: Components, 0..K-1.
            temperature: Factor on the standard deviations, >= 0.
        """
        eps = torch.randn_like(self.mu[c])
        return self.mu[c] + temperature * torch.einsum("ned,nd->ne", self.scale_tril()[c], eps)

    @torch.no_grad()
    def init_from_codes(
        self, codes: Float[Tensor, "N D"], mode: Literal["means", "means+vars+weights"], seed: int = 0
    ) -> None:
        """Initialises the components from a mixture of diagonal Gaussians that EM fits to codes.

        Args:
            codes: N >= K codes.
            mode: Parameters that are initialised.
            seed: Seed of EM's start.
        """
        from sklearn.mixture import GaussianMixture  # whose import takes a second

        fitted = GaussianMixture(len(self.mu), covariance_type="diag", random_state=seed).fit(codes.double().cpu().numpy())
        means, variances, weights = (
            torch.from_numpy(a).to(self.mu) for a in (fitted.means_, fitted.covariances_, fitted.weights_)
        )
        self.mu.copy_(means)
        if mode == "means+vars+weights":
            self._set_variances(variances.clamp(min=2 * FLOOR))
            self.logits.copy_(weights.log())

    def bhattacharyya(self) -> Float[Tensor, "K K"]:
        """Bhattacharyya coefficient of every pair of components, in (0, 1]: 1 if they are equal."""
        if not self.full:
            p = Normal(self.mu, self._variances().log())
            return bhattacharyya(p[:, None], p[None])
        scale = self.scale_tril()
        covariance = scale @ scale.mT
        between = torch.linalg.cholesky(0.5 * (covariance[:, None] + covariance))  # [K, K, D, D]
        apart = torch.linalg.solve_triangular(between, (self.mu[:, None] - self.mu)[..., None], upper=False)[..., 0]
        half_log_det = scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # [K]
        distance = 0.125 * apart.square().sum(-1) + between.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (-(distance - 0.5 * (half_log_det[:, None] + half_log_det))).exp()


def _softplus(raw: Tensor) -> Tensor:
    return F.softplus(raw, beta=SHARPNESS)


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-SHARPNESS * value)) / SHARPNESS  # never overflows, as log(exp(.) - 1) does


class ComponentTable(nn.Module):
    """K Gaussians in D dimensions with learned means and log-variances.

    Log-variances are 2 tanh(raw) - 1, in (-3, 1): a component can neither collapse nor cover everything. Means and `raw`
    start at N(0, 1).

    Args:
        num_components: K.
        dim: D.

    Source: sinahmr/parted-vae.
    """

    def __init__(self, num_components: int, dim: int):
        super().__init__()
        self.mu = nn.Parameter(torch.randn(num_components, dim))
        self.raw_logvar = nn.Parameter(torch.randn(num_components, dim))

    def forward(self) -> Normal:
        """The Gaussians, mu and logvar [K, D]."""
        return Normal(self.mu, 2 * self.raw_logvar.tanh() - 1)


def kl_normal_per_dim(q: Normal, p: Normal) -> Float[Tensor, "... D"]:
    """KL(q || p) of each dimension, nats; leading axes broadcast."""
    return 0.5 * (p.logvar - q.logvar - 1 + (q.logvar - p.logvar).exp() + (q.mu - p.mu).square() * (-p.logvar).exp())


def kl_normal(q: Normal, p: Normal) -> Float[Tensor, "..."]:
    """KL(q || p), summed over the dimensions, nats; leading axes broadcast."""
    return kl_normal_per_dim(q, p).sum(-1)


def bhattacharyya(p: Normal, q: Normal) -> Float[Tensor, "..."]:
    """Bhattacharyya coefficient of two Gaussians, the integral of sqrt(p q), in (0, 1]: 1 if they are equal.

    It is exp(-DB), DB = 1/8 sum_d (mu_p - mu_q)^2 / v + 1/2 [sum_d log v - 1/2 sum_d (logvar_p + logvar_q)],
    v = (exp(logvar_p) + exp(logvar_q)) / 2; leading axes broadcast.
    """
    log_v = torch.logaddexp(p.logvar, q.logvar) - log(2)
    distance = 0.125 * (p.mu - q.mu).square() * (-log_v).exp() + 0.5 * (log_v - 0.5 * (p.logvar + q.logvar))
    return (-distance.sum(-1)).exp()
