"""Likelihoods p(x | z) of images, parameterised by the decoder's output; log-probabilities are nats per image."""

from collections.abc import Sequence
from math import exp, log, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vae_zoo.config.types import Finite, Positive

EDGE = 1e-6  # means are kept this far from 0 and 1 before their logit is computed


class Likelihood(nn.Module):
    """A family p(x | params) of distributions of images in [0, 1].

    Its params are the decoder's output [B, P, H, W], P = num_params * C: num_params numbers for each pixel and channel.
    """

    num_params = 1

    def param_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """Shape of the output that a decoder must have.

        Args:
            image_shape: [C, H, W].

        Returns:
            (num_params * C, H, W).
        """
        channels, height, width = image_shape
        return self.num_params * channels, height, width

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B P H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), summed over pixels and channels.

        Args:
            x: Images in [0, 1].
            params: The decoder's output.

        Returns:
            Nats.
        """
        raise NotImplementedError  # pragma: contract

    def log_prob_of_draws(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "kB P H W"]) -> Float[Tensor, "k B"]:
        """log p(x | params) under k draws for each image.

        Args:
            x: Images in [0, 1].
            params: The decoder's output for the k B draws, draw by draw.

        Returns:
            Nats.
        """
        k = len(params) // len(x)
        return self.log_prob(x.expand(k, *x.shape).flatten(0, 1), params).view(k, len(x))

    def mean(self, params: Float[Tensor, "B P H W"]) -> Float[Tensor, "B C H W"]:
        """Mean image in [0, 1], the one that is shown."""
        raise NotImplementedError  # pragma: contract

    def params_of(self, mean: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P H W"]:
        """Params whose mean is a given image, for models that render one.

        Args:
            mean: Images in [0, 1].

        Raises:
            NotImplementedError: The mean of a pixel does not determine its params.
        """
        raise NotImplementedError  # pragma: contract


class Bernoulli(Likelihood):
    """Bernoulli likelihood; params are logits.

    For grey values between 0 and 1 this is the usual pseudo-likelihood, not a density.
    """

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), nats: minus the cross-entropy, summed over pixels and channels."""
        return -F.binary_cross_entropy_with_logits(params.float(), x, reduction="none").flatten(1).sum(1)

    def mean(self, params: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Mean image in [0, 1]."""
        return params.float().sigmoid()

    def params_of(self, mean: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Logits of images in [0, 1]."""
        return mean.float().logit(EDGE)


class Gaussian(Likelihood):
    """Gaussian likelihood with one standard deviation for all pixels; the constant of the density is included.

    Its params are means, or with `sigmoid` their logits.

    Args:
        sigma: Standard deviation > 0 in units of the pixel range [0, 1].
        learn: Makes sigma a parameter that starts there.
        sigmoid: Whether params are logits of the means.

    Raises:
        ValueError: sigma <= 0.
    """

    def __init__(self, sigma: Positive = 0.1, learn: bool = False, sigmoid: bool = False):
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma must be > 0, got {sigma}")
        self.sigmoid = sigmoid
        logvar = torch.tensor(2 * log(sigma))
        self.logvar = nn.Parameter(logvar) if learn else nn.Buffer(logvar)

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), nats, summed over pixels and channels."""
        squared = (x - self._location(params)).square() * (-self.logvar).exp()
        return -0.5 * (squared + self.logvar + log(2 * pi)).flatten(1).sum(1)

    def mean(self, params: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Mean image, clamped to [0, 1]."""
        return self._location(params).clamp(0, 1)

    def params_of(self, mean: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Params of images in [0, 1]."""
        return mean.float().logit(EDGE) if self.sigmoid else mean.float()

    def _location(self, params: Tensor) -> Tensor:
        return params.float().sigmoid() if self.sigmoid else params.float()


class PixelwiseGaussian(Likelihood):
    """Gaussian with a variance for each pixel and channel, predicted by the decoder and bounded by a tanh.

    Its params are the means of all channels, then values v whose log-variances are bound * tanh(v).

    Args:
        bound: Largest log-variance > 0, and minus the smallest; at 1 a deviation lies between 0.61 and 1.65.

    Raises:
        ValueError: bound <= 0.

    Source: DianeBouchacourt/multi-level-vae, with bound 1.
    """

    num_params = 2

    def __init__(self, bound: Positive = 1.0):
        super().__init__()
        if bound <= 0:
            raise ValueError(f"bound must be > 0, got {bound}")
        self.bound = bound

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B P H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), nats, summed over pixels and channels."""
        mu, raw = params.float().chunk(2, dim=1)
        logvar = self.bound * raw.tanh()
        return -0.5 * ((x - mu).square() * (-logvar).exp() + logvar + log(2 * pi)).flatten(1).sum(1)

    def mean(self, params: Float[Tensor, "B P H W"]) -> Float[Tensor, "B C H W"]:
        """Mean image, clamped to [0, 1]."""
        return params.float().chunk(2, dim=1)[0].clamp(0, 1)


class Laplace(Likelihood):
    """Laplace likelihood; the constant of the density is included.

    Its params are logits of the location; with scale 1 the gradient is that of the L1 distance.

    Args:
        scale: Mean absolute deviation > 0 in units of the pixel range [0, 1].

    Raises:
        ValueError: scale <= 0.
    """

    def __init__(self, scale: Positive = 1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        self.scale = scale

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), nats, summed over pixels and channels."""
        return -((x - params.float().sigmoid()).abs() / self.scale + log(2 * self.scale)).flatten(1).sum(1)

    def mean(self, params: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Mean image in [0, 1]."""
        return params.float().sigmoid()

    def params_of(self, mean: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Logits of images in [0, 1]."""
        return mean.float().logit(EDGE)


class DiscretisedLogistic(Likelihood):
    """Logistic density integrated over the bins of 256 grey levels; the outermost bins reach to infinity.

    Its params are locations in units of [-1, 1].

    Args:
        scale: One for all pixels, in the same units, >= exp(min_log_scale).
        learn: Makes the log of the scale a parameter that starts there.
        min_log_scale: Lower bound of log scale; at -7 one bin can hold 97 % of the mass.

    Raises:
        ValueError: scale is below exp(min_log_scale).

    Source: Salimans et al. (2017), section 2.1, with one component.
    """

    def __init__(self, scale: Positive = 0.1, learn: bool = True, min_log_scale: Finite = -7.0):
        super().__init__()
        if scale < exp(min_log_scale):
            raise ValueError(f"scale must be >= exp(min_log_scale) = {exp(min_log_scale):.3g}, got {scale}")
        log_scale = torch.tensor(log(scale))
        self.log_scale = nn.Parameter(log_scale) if learn else nn.Buffer(log_scale)
        self.min_log_scale = min_log_scale

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), nats, summed over pixels and channels."""
        return discretised_logistic(x, params.float(), self.log_scale.clamp(min=self.min_log_scale)).flatten(1).sum(1)

    def mean(self, params: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Location as an image, clamped to [0, 1]."""
        return ((params.float() + 1) / 2).clamp(0, 1)

    def params_of(self, mean: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Locations of images in [0, 1]."""
        return 2 * mean.float() - 1


class PixelwiseLogistic(Likelihood):
    """DiscretisedLogistic with a scale for each pixel and channel, predicted by the decoder.

    Its params are the locations of all channels in units of [-1, 1], then the logs of their scales.

    Args:
        min_log_scale: Lower bound of log scale; without it a confident error in one pixel could cost any number of nats.
    """

    num_params = 2

    def __init__(self, min_log_scale: Finite = -7.0):
        super().__init__()
        self.min_log_scale = min_log_scale

    def log_prob(self, x: Float[Tensor, "B C H W"], params: Float[Tensor, "B P H W"]) -> Float[Tensor, " B"]:
        """log p(x | params), nats, summed over pixels and channels."""
        location, log_scale = params.float().chunk(2, dim=1)
        return discretised_logistic(x, location, log_scale.clamp(min=self.min_log_scale)).flatten(1).sum(1)

    def mean(self, params: Float[Tensor, "B P H W"]) -> Float[Tensor, "B C H W"]:
        """Location as an image, clamped to [0, 1]."""
        return ((params.float().chunk(2, dim=1)[0] + 1) / 2).clamp(0, 1)


def discretised_logistic(
    x: Float[Tensor, "*#image"], location: Float[Tensor, "*#image"], log_scale: Float[Tensor, "*#image"]
) -> Float[Tensor, "..."]:
    """Log-mass of each grey level under a logistic density.

    Args:
        x: Pixels in [0, 1], 256 levels.
        location: In units of [-1, 1].
        log_scale: Log of the scale in the same units; broadcasts.

    Returns:
        Nats of each pixel and channel.
    """
    # log(sigmoid(a) - sigmoid(b)) is computed as log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)), exact at every
    # scale: a - b is the bin's width in units of the scale
    half_bin = 1 / 255
    centred = 2 * x - 1 - location
    upper = (centred + half_bin) * (-log_scale).exp()
    lower = (centred - half_bin) * (-log_scale).exp()
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + _log1mexp(log(2 * half_bin) - log_scale)
    lowest = F.logsigmoid(upper)  # all the mass below
    highest = F.logsigmoid(-lower)  # all the mass above
    return torch.where(x < 0.5 / 255, lowest, torch.where(x > 254.5 / 255, highest, inside))


def _log1mexp(log_width: Tensor) -> Tensor:
    """log(1 - exp(-w)) from log w: for thin bins log w - w / 2, since w itself underflows if scales are huge."""
    width = log_width.exp()
    return torch.where(width < 1e-3, log_width - width / 2, torch.log(-torch.expm1(-width.clamp(min=1e-3))))
