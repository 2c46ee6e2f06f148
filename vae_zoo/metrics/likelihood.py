"""Likelihood bounds and aggregate posterior.

Nats per image, also if the terms and `log_weights` of a model have a row for each group of images: these are summed and
divided by the number of images. Call in eval mode.

The noise is a function of (seed, image, draw): up to rounding, results do not depend on the batch size, on the chunk or on
earlier computations, and the first draws of a large k are those of a small k. float64, on the CPU.
"""

from collections.abc import Iterable
from math import ceil, log
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vae_zoo.contract import Batch, HasBound, Model, SharesGroupCode
from vae_zoo.distributions import Normal, log_standard_normal, noise
from vae_zoo.distributions.normal import log_density_pairs
from vae_zoo.distributions.pooling import first_of_groups

ELEMENTS = 2**25  # numbers in memory at once, 256 MB
UNIT = 8  # draws that share one key of the noise, and one pass through the encoder


@torch.no_grad()
def importance_weighted(model: HasBound, batches: Iterable[Batch], k: int, chunk: int = UNIT, *, seed: int = 0) -> float:
    """Estimates -log p(x) with k draws for each image, mean over the images: test/nll_iw<k> of the tables.

    -log p(x) <= E[-log 1/k sum_i p(x, z_i) / q(z_i | x)],  z_i ~ q(z | x):  k = 1 is the negative ELBO, and the bound
    decreases to -log p(x) as k grows, so report k with it (100 during development, 5,000 for tables).

    Args:
        model: In eval mode.
        batches: Batches of the images, with `index`.
        k: Draws for each image, >= 1.
        chunk: Draws decoded at once, >= 1, in whole units of 8; memory is that of chunk x batch size images.
        seed: Seed of the noise.

    Returns:
        Nats per image.

    Raises:
        ValueError: k or chunk is below 1.

    Source: Burda et al. (2016), equation 8.
    """
    if k < 1 or chunk < 1:
        raise ValueError(f"k and chunk must be >= 1, got k={k}, chunk={chunk}")
    total, count = 0.0, 0
    for batch in batches:
        total += float((_log_weights(model, batch, k, chunk, seed).logsumexp(0) - log(k)).sum())
        count += len(batch["image"])
    return -total / count


@torch.no_grad()
def bounds(
    model: Model, batches: Iterable[Batch], *, seed: int = 0
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " D"]]]:
    """Bound, its parts and the KL of each dimension, with one draw z for each image and weights of 1.

    elbo = -(rec + rate), whatever weights the model was trained with. rec: the distortion -log p(x | z), the model's term
    of that name; rate: the rest, -elbo - rec. If all blocks are Gaussian, it is log q(z | x) - log p(z) of the same z, whose
    mean is the sum of the KL terms. elbo sums discrete variables out, while rec uses the most probable value or an average
    over values, so for models with such variables rate is not a KL. kl_<block>: the model's terms. Quantities that the model
    does not define are omitted.

    Args:
        model: In eval mode.
        batches: Batches of the images, with `index`.
        seed: Seed of the noise.

    Returns:
        {"elbo", "rec", "rate", "kl_<block>" ...}, nats per image, and the KL of each dimension {block: [D]}, nats.
    """
    sums: dict[str, float] = {}
    kl: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        with noise.per_image(batch["index"], seed):
            terms = model.objective(batch)
        found = {name: terms[name].value for name in ("rec", *(f"kl_{block}" for block in model.blocks)) if name in terms}
        if isinstance(model, HasBound):
            with noise.per_image(batch["index"], seed):
                found["elbo"] = model.log_weights(batch, 1)[0]
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value.cpu().double().sum())
        for name, value in model.kl_per_dim(model.encode(batch)).items():
            if isinstance(model, SharesGroupCode) and name == model.shared_block and "group" in batch:
                _, group = batch["group"].unique(return_inverse=True)
                value = value[first_of_groups(group, int(group.max()) + 1)]  # the group has one code
            kl[name] = kl.get(name, 0) + value.cpu().double().sum(0)
        count += len(batch["image"])
    numbers = {name: value / count for name, value in sums.items()}
    if "elbo" in numbers and "rec" in numbers:
        numbers["rate"] = -numbers["elbo"] - numbers["rec"]
    return numbers, {name: (value / count).numpy() for name, value in kl.items()}


def bits_per_dim(nats: float, image_shape: Iterable[int]) -> float:
    """Converts nats per image to bits per pixel and channel, for display.

    Args:
        nats: Nats of an image.
        image_shape: [C, H, W].

    >>> bits_per_dim(64 * log(2), [1, 8, 8])
    1.0
    """
    return nats / (log(2) * torch.Size(image_shape).numel())


def active_units(mu: Float[Tensor, "N D"], threshold: float = 0.01) -> int:
    """Number of dimensions whose posterior means vary over the images.

    Args:
        mu: Posterior means.
        threshold: Variance that must be exceeded.

    Source: Burda et al. (2016), section 5.
    """
    return int((mu.cpu().double().var(0, correction=0) > threshold).sum())


@torch.no_grad()
def aggregate_posterior(
    mu: Float[Tensor, "N D"], logvar: Float[Tensor, "N D"], *, num_samples: int = 2000, seed: int = 0, chunk: int = 64
) -> dict[str, float]:
    """Information in the aggregate posterior q(z) = 1/N sum_n N(z; mu_n, exp(logvar_n)) of N images.

    kl                  KL(q(z) || N(0, I)) = total_correlation + dimension_wise_kl: does q(z) match a standard normal
                        prior? A mixture prior is not taken into account
    total_correlation   KL(q(z) || prod_d q(z_d)): are the dimensions independent?
    dimension_wise_kl   sum_d KL(q(z_d) || N(0, 1))
    mutual_information  between z and the index n, at most log N; the rate is mutual_information + kl

    Estimator: q(z) is the exact mixture over the N images given, no minibatch weighting; the outer expectation is a
    mean over `num_samples` draws of it, spread evenly over the images. Exact for these N images; as an estimate for all
    images its q(z) is too narrow, which affects total_correlation most.

    Args:
        mu: Posterior means.
        logvar: Posterior log-variances.
        num_samples: Draws, >= 1.
        seed: Seed of the draws.
        chunk: Draws at once, at most; fewer for many images and dimensions.

    Returns:
        The four, nats.

    Source: Chen et al. (2018), equation 2.
    """
    q = Normal(mu.cpu().double(), logvar.cpu().double())
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(mu), generator=generator)
    picked = order.repeat(ceil(num_samples / len(mu)))[:num_samples]
    own = q[picked]
    eps = torch.randn(own.mu.shape, generator=generator, dtype=torch.float64)
    z = own.mu + eps * (0.5 * own.logvar).exp()  # [M, D]
    joint, marginal = [], []
    for part in z.split(max(1, min(chunk, ELEMENTS // mu.numel()))):
        pairs = log_density_pairs(q, part)  # [chunk, N, D]
        joint.append(pairs.sum(-1).logsumexp(1) - log(len(mu)))
        marginal.append(pairs.logsumexp(1).sum(-1) - log(len(mu)) * mu.shape[1])
    log_q, log_marginals, log_p = torch.cat(joint), torch.cat(marginal), log_standard_normal(z)  # [M] each
    return {
        "kl": float((log_q - log_p).mean()),
        "total_correlation": float((log_q - log_marginals).mean()),
        "dimension_wise_kl": float((log_marginals - log_p).mean()),
        "mutual_information": float((own.log_prob(z) - log_q).mean()),
    }


def _log_weights(model: HasBound, batch: Batch, k: int, chunk: int, seed: int) -> Tensor:
    """log p(x, z) - log q(z | x) of k draws, [k, B or G] float64.

    The noise of a row is a function of its index and the number of the draw within a call. So the draws are made in
    units of fixed size, and unit u of an image is a separate row whose index contains both; its low bits remain free
    for the number of the draw in noise.py.
    """
    units, parts = torch.arange(ceil(k / UNIT)), []
    for some in units.split(ceil(chunk / UNIT)):
        rows = _repeated(batch, len(some))
        index = (batch["index"].cpu() << 32) + (some[:, None] << 8)  # [u, B]
        with noise.per_image(index.flatten(), seed):
            log_w = model.log_weights(rows, min(k, UNIT))  # [UNIT, u B]
        parts.append(log_w.cpu().double().unflatten(1, (len(some), -1)).transpose(0, 1).flatten(0, 1))  # [u UNIT, B]
    return torch.cat(parts)[:k]


def _repeated(batch: Batch, times: int) -> Batch:
    """The batch repeated `times` times; groups remain separate."""
    rows: dict[str, Any] = {
        name: torch.cat([batch[name]] * times) for name in ("image", "index", "label", "factors") if name in batch
    }
    if "group" in batch:
        rows["num_groups"] = times * batch["num_groups"]
        rows["group"] = torch.cat([batch["group"] + i * batch["num_groups"] for i in range(times)])
    return cast(Batch, rows)
