"""p(x | z): what the decoder's output means. Images are [B, C, H, W] in [0, 1]; log-probabilities are nats an image."""

from collections.abc import Sequence
from math import exp, log, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_zoo.config.types import Finite, Positive

EDGE = 1e-6  # how near to 0 and 1 a mean may come whose logit is taken


class Likelihood(nn.Module):
    """`params` is the decoder's output [B, num_params * C, H, W], num_params numbers for each pixel and channel."""

    num_params = 1

    def param_shape(self, image_shape: Sequence[int]) -> tuple[int, int, int]:
        """Of the output that a decoder must have for images of this shape."""
        channels, height, width = image_shape
        return self.num_params * channels, height, width

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        """log p(x | params), summed over pixels and channels, nats: [B]."""
        raise NotImplementedError  # pragma: contract

    def log_prob_of_draws(self, x: Tensor, params: Tensor) -> Tensor:
        """log p(x | params) under k draws for each image, nats: x [B, C, H, W], params [k B, ...] -> [k, B]."""
        k = len(params) // len(x)
        return self.log_prob(x.expand(k, *x.shape).flatten(0, 1), params).view(k, len(x))

    def mean(self, params: Tensor) -> Tensor:
        """The image a person is shown: [B, C, H, W] in [0, 1]."""
        raise NotImplementedError  # pragma: contract

    def params_of(self, mean: Tensor) -> Tensor:
        """The params whose mean is this image in [0, 1], for models that render one; none where pixels need more numbers."""
        raise NotImplementedError  # pragma: contract


class Bernoulli(Likelihood):
    """params are logits. For grey values between 0 and 1 this is the usual pseudo-likelihood, not a density."""

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(params.float(), x, reduction="none").flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return params.float().sigmoid()

    def params_of(self, mean: Tensor) -> Tensor:
        return mean.float().logit(EDGE)


class Gaussian(Likelihood):
    """params are means, or with `sigmoid` their logits; one sigma for all pixels, fixed or learned. The constant of the
    density is included.

    sigma: standard deviation in units of the pixel range [0, 1]; `learn=True` makes it a parameter that starts there.
    """

    def __init__(self, sigma: Positive = 0.1, learn: bool = False, sigmoid: bool = False):
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma must be > 0, got {sigma}")
        self.sigmoid = sigmoid
        logvar = torch.tensor(2 * log(sigma))
        self.logvar = nn.Parameter(logvar) if learn else nn.Buffer(logvar)

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        squared = (x - self._location(params)).square() * (-self.logvar).exp()
        return -0.5 * (squared + self.logvar + log(2 * pi)).flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return self._location(params).clamp(0, 1)

    def params_of(self, mean: Tensor) -> Tensor:
        return mean.float().logit(EDGE) if self.sigmoid else mean.float()

    def _location(self, params: Tensor) -> Tensor:
        return params.float().sigmoid() if self.sigmoid else params.float()


class Laplace(Likelihood):
    """params are logits of the location; with scale 1 the gradient is that of the L1 distance. The constant is included.

    scale: mean absolute deviation in units of the pixel range [0, 1].
    """

    def __init__(self, scale: Positive = 1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        self.scale = scale

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return -((x - params.float().sigmoid()).abs() / self.scale + log(2 * self.scale)).flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return params.float().sigmoid()

    def params_of(self, mean: Tensor) -> Tensor:
        return mean.float().logit(EDGE)


class DiscretisedLogistic(Likelihood):
    """A logistic density integrated over the bins of 256 grey levels; the outermost bins reach to infinity.

    params are locations in units of [-1, 1]. scale: one for all pixels, in the same units; `learn=True` makes its log a
    parameter that starts there. min_log_scale: its lower bound; at -7 one bin can hold 97 % of the mass.
    Source: Salimans et al. (2017), section 2.1, with one component.
    """

    def __init__(self, scale: Positive = 0.1, learn: bool = True, min_log_scale: Finite = -7.0):
        super().__init__()
        if scale < exp(min_log_scale):
            raise ValueError(f"scale must be >= exp(min_log_scale) = {exp(min_log_scale):.3g}, got {scale}")
        log_scale = torch.tensor(log(scale))
        self.log_scale = nn.Parameter(log_scale) if learn else nn.Buffer(log_scale)
        self.min_log_scale = min_log_scale

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        return discretised_logistic(x, params.float(), self.log_scale.clamp(min=self.min_log_scale)).flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return ((params.float() + 1) / 2).clamp(0, 1)

    def params_of(self, mean: Tensor) -> Tensor:
        return 2 * mean.float() - 1


class PixelwiseLogistic(Likelihood):
    """DiscretisedLogistic with a scale for each pixel and channel, which the decoder gives.

    params are the locations of all channels in units of [-1, 1], then the logs of their scales. min_log_scale: their lower
    bound; without one a pixel that is known for certain would be worth any number of nats.
    """

    num_params = 2

    def __init__(self, min_log_scale: Finite = -7.0):
        super().__init__()
        self.min_log_scale = min_log_scale

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        location, log_scale = params.float().chunk(2, dim=1)
        return discretised_logistic(x, location, log_scale.clamp(min=self.min_log_scale)).flatten(1).sum(1)

    def mean(self, params: Tensor) -> Tensor:
        return ((params.float().chunk(2, dim=1)[0] + 1) / 2).clamp(0, 1)


def discretised_logistic(x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """log of the mass of each grey level, nats, elementwise; x in [0, 1] (256 levels), location on [-1, 1].

    log(sigmoid(a) - sigmoid(b)) is computed as log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)), which is exact
    at every scale: a - b is the bin's width in units of the scale.
    """
    half_bin = 1 / 255
    centred = 2 * x - 1 - location
    upper = (centred + half_bin) * (-log_scale).exp()
    lower = (centred - half_bin) * (-log_scale).exp()
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + _log1mexp(log(2 * half_bin) - log_scale)
    lowest = F.logsigmoid(upper)  # all the mass below
    highest = F.logsigmoid(-lower)  # all the mass above
    return torch.where(x < 0.5 / 255, lowest, torch.where(x > 254.5 / 255, highest, inside))


def _log1mexp(log_width: Tensor) -> Tensor:
    """log(1 - exp(-w)) from log w: for thin bins log w - w / 2, since w itself underflows where scales are huge."""
    width = log_width.exp()
    return torch.where(width < 1e-3, log_width - width / 2, torch.log(-torch.expm1(-width.clamp(min=1e-3))))
