"""What MFCVAE must learn, with a bar that a broken model does not reach. Source of the set-up: check L7 of the reference."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import nn

from vae_zoo import noise
from vae_zoo.distributions import Gaussian, MixturePrior
from vae_zoo.models.mfcvae import MFCVAE
from vae_zoo.nets.ladder import LadderDecoder, LadderEncoder

pytestmark = pytest.mark.slow


# ---- two mixtures behind linear maps --------------------------------------------------------------------------------

RANGE = 40.0


class Affine(nn.Module):
    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x):
        return self.scale * x + self.shift


class LinearLadder:
    """Every facet sees the image itself and adds its own linear map of its code to it. The decoder is given: with maps that
    are learned the scale and the axes of a code would be anybody's choice. Inside, images are RANGE times as large as
    pixels, which lie in [0, 1], and around 0."""

    num_facets = 2

    def __init__(self, maps):
        self.maps = maps

    def encoder(self, image_shape, num_outputs):
        pixels = int(np.prod(image_shape))
        return LadderEncoder(
            [nn.Sequential(Affine(RANGE, -RANGE / 2), nn.Flatten()), nn.Identity()],
            [nn.Identity()] * 2,
            [nn.Linear(pixels, n) for n in num_outputs],
        )

    def decoder(self, num_inputs, image_shape):
        rungs = [nn.Linear(D, A.shape[0], bias=False) for D, A in zip(num_inputs, self.maps)]
        with torch.no_grad():
            for rung, A in zip(rungs, self.maps):
                rung.weight.requires_grad_(False).copy_(A)
        output = nn.Sequential(Affine(1 / RANGE, 0.5), nn.Unflatten(1, tuple(image_shape)))
        return LadderDecoder(rungs, [nn.Identity()] * 2, output, lambda r, b: r + b)


def test_two_mixtures_behind_linear_maps_are_found():
    """x = A [z_0; z_1] + noise, A known, the mixtures from the true codes, the posteriors from anywhere: only the loss tells
    the encoder which part of x is which facet's, and nothing but the KL keeps the mixtures in place."""
    rng = torch.Generator().manual_seed(0)
    means = [torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, -2.5], [2.0, 1.0], [-2.0, 1.5]])]
    N, pixels, spread, sigma = 4000, 16, 0.4, 0.3
    c = [torch.randint(3, (N,), generator=rng) for _ in means]
    z = [mu[k] + spread * torch.randn(N, 2, generator=rng) for mu, k in zip(means, c)]
    # at right angles, so that the true posterior given the cluster is diagonal, as q is
    maps = (3 * torch.linalg.qr(torch.randn(pixels, 4, generator=rng))[0]).split(2, dim=1)
    x = sum(code @ A.T for code, A in zip(z, maps)) + sigma * torch.randn(N, pixels, generator=rng)

    torch.manual_seed(0)
    model = MFCVAE((1, 4, 4), [2, 2], [3, 3], LinearLadder(maps), Gaussian(sigma / RANGE), prior_init="none")
    for name, codes in zip(model.facets, z):
        model.priors[name].init_from_codes(codes, "means+vars+weights")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    image = x.view(N, 1, 4, 4) / RANGE + 0.5
    for step in range(1500):
        noise.seed_step(0, step)
        index = torch.randint(N, (200,), generator=rng)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 1500)
        optimizer.zero_grad()
        model.objective({"image": image[index], "index": index})["loss"].backward()
        optimizer.step()

    with torch.no_grad():
        found = model.clusters(model.encode(image))
        for j, (name, mu) in enumerate(zip(model.facets, means)):
            truth = MixturePrior(3, 2, weights="fixed", variance=spread**2)
            truth.mu.copy_(mu)
            ours, best = model.priors[name].log_prob(z[j]).mean(), truth.log_prob(z[j]).mean()
            assert ours == pytest.approx(best.item(), rel=0.05)
            assert adjusted_rand_score(c[j], found[name].argmax(1)) >= 0.9
            assert adjusted_rand_score(c[1 - j], found[name].argmax(1)) < 0.1
