"""FID and KID: distances between the feature distributions of generated and real images.

A distance depends on the feature network and on the number of images. `fid_judge` (features of our classifier of the data
set, vae_zoo.metrics.judge) compares models on one data set only; only `fid_inception` (TensorFlow's Inception-v3 weights,
images resized to 299x299) is comparable with published numbers.

    scores = generation_scores(data_images, model.sample(10_000), judge)            {"fid_judge": ..., "kid_judge": ...}
    scores = generation_scores(real, fake, inception_weights="pt_inception-2015-12-05-6726825d.pth")
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

log = logging.getLogger(__name__)

Features = Callable[[Tensor], Tensor]  # images [B, C, H, W] to features [B, d]
CHUNK = 256  # images per batch of the network
PER_FEATURE = 10  # images per feature that FID needs for reliable covariances


def generation_scores(
    real: Shaped[Tensor, "N C H W"],
    fake: Shaped[Tensor, "N C H W"],
    judge: nn.Module | None = None,
    *,
    inception_weights: str | Path | None = None,
    device: torch.device | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Computes FID and KID between generated and real images.

    With d features and fewer than 10 d images, FID is omitted and a message is logged.

    Args:
        real: Float in [0, 1] or uint8.
        fake: As many as real images, since the bias of both distances depends on N.
        judge: A judge of vae_zoo.metrics.judge, or any module with `features(images) -> [N, d]`.
        inception_weights: File of the Inception weights, in place of a judge.
        device: Device of Inception; None: that of the real images.
        seed: Seed of KID's subsets.

    Returns:
        {"fid_judge", "kid_judge"}, or {"fid_inception", "kid_inception"}.

    Raises:
        ValueError: Both or none of judge and inception_weights are given.
    """
    if (judge is None) == (inception_weights is None):
        raise ValueError("give either a judge or inception_weights")
    network: Any
    if inception_weights is not None:
        name, network = "inception", Inception(inception_weights, device or real.device)
    else:
        assert judge is not None
        name, network = "judge", judge.features
    features = [_features(network, images) for images in (real, fake)]
    scores = {f"kid_{name}": kid(*features, seed=seed)}
    try:
        scores[f"fid_{name}"] = fid(*features)
    except TooFewImages as error:
        log.warning("fid_%s is not computed: %s", name, error)
    return scores


class TooFewImages(ValueError):
    """A covariance of d features cannot be estimated from so few images."""


def fid(real: Float[Tensor, "N d"], fake: Float[Tensor, "N d"]) -> float:
    """Frechet distance of two Gaussians fitted to features: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Computed by torchmetrics in float64. Biased upwards by about 1 / N, so compare equal N only.

    Args:
        real: Features of real images.
        fake: Features of generated images.

    Returns:
        >= 0, best 0.

    Raises:
        TooFewImages: N < 10 d.

    Source: Heusel et al. (2017), equation 6.
    """
    _check(real, fake)
    n, d = real.shape
    if n < PER_FEATURE * d:
        raise TooFewImages(f"{d} features need {PER_FEATURE * d} images of each kind, got {n}; use more, or KID")
    metric = FrechetInceptionDistance(feature=_Given(d))
    metric.update(real.cpu().double(), real=True)
    metric.update(fake.cpu().double(), real=False)
    return float(metric.compute())


def kid(
    real: Float[Tensor, "N d"], fake: Float[Tensor, "N d"], *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Squared maximum mean discrepancy of features under the kernel (x y / d + 1)^3, mean over random subsets.

    Computed by torchmetrics. Unbiased, so about 0, and also below 0, for equal distributions at any N; with fewer than
    `subset_size` images there is one subset of all of them.

    Args:
        real: Features of real images.
        fake: Features of generated images.
        subsets: Number of subsets.
        subset_size: Images of each.
        seed: Seed of the subsets.

    Source: Binkowski et al. (2018), section 4.
    """
    _check(real, fake)
    if len(real) <= subset_size:
        subsets, subset_size = 1, len(real)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        torch.default_generator.manual_seed(seed)  # the generator that torchmetrics draws the subsets from
        metric = KernelInceptionDistance(feature=_Given(real.shape[1]), subsets=subsets, subset_size=subset_size)
        metric.update(real.cpu().double(), real=True)
        metric.update(fake.cpu().double(), real=False)
        return float(metric.compute()[0])


class Inception(nn.Module):
    """The 2,048 features of the TensorFlow Inception-v3 of 2015; needs the package torch-fidelity.

    Args:
        weights: Its file pt_inception-2015-12-05-6726825d.pth, a pickle, so from a source that you trust.
        device: Where it computes.
    """

    def __init__(self, weights: str | Path, device: torch.device):
        super().__init__()
        self.device = device
        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)

    def forward(self, images: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        """Computes the features of images of 1 or 3 channels, which are resized to 299x299."""
        images = images.to(self.device)
        pixels = (images * 255).round().byte() if images.is_floating_point() else images
        return self.network(pixels.expand(-1, 3, -1, -1))


class _Given(nn.Identity):
    """Identity as the feature network of torchmetrics, which gets features instead of images."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features


@torch.no_grad()
def _features(network: Features, images: Tensor) -> Tensor:
    return torch.cat([network(chunk).cpu() for chunk in images.split(CHUNK)])


def _check(real: Tensor, fake: Tensor) -> None:
    if real.ndim != 2 or real.shape != fake.shape:
        raise ValueError(f"need features [N, d] of equal N, got {list(real.shape)} real and {list(fake.shape)} generated")
