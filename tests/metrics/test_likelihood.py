import doctest
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from tests.models.builders import MODELS, build, costs, images
from vae_zoo.contract import Term
from vae_zoo.distributions import Gaussian, Normal, noise
from vae_zoo.metrics import likelihood
from vae_zoo.metrics.likelihood import active_units, aggregate_posterior, bounds, importance_weighted
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.models.vae import VAE

SHAPE, D, SIGMA = (1, 2, 3), 2, 0.3


class Linear:
    """x = W z + b + sigma eps, z ~ N(0, I), with its posterior up to `wrong`: a factor on its variance, moved means."""

    def __init__(self, wrong):
        generator = torch.Generator().manual_seed(0)
        self.weight = 0.5 * torch.randn(6, D, generator=generator)
        self.bias = torch.full((6,), 0.5)
        precision = torch.eye(D) + self.weight.T @ self.weight / SIGMA**2
        self.gain = precision.inverse() @ self.weight.T / SIGMA**2  # mu = gain (x - bias)
        self.logvar = precision.inverse().diagonal().log() + torch.tensor(wrong).log()
        self.shift = 0.2 * (wrong - 1)

    def encoder(self, image_shape, num_outputs):
        layer = nn.Linear(6, 2 * D)
        layer.weight.data = torch.cat([self.gain, torch.zeros(D, 6)])
        layer.bias.data = torch.cat([self.shift - self.gain @ self.bias, self.logvar])
        return nn.Sequential(nn.Flatten(), layer)

    def decoder(self, num_inputs, image_shape):
        layer = nn.Linear(D, 6)
        layer.weight.data, layer.bias.data = self.weight, self.bias
        return nn.Sequential(layer, nn.Unflatten(1, image_shape))

    def log_px(self, x):
        cov = self.weight @ self.weight.T + SIGMA**2 * torch.eye(6)
        return MultivariateNormal(self.bias.double(), cov.double()).log_prob(x.flatten(1).double())


def linear(wrong=1.5):
    network = Linear(wrong)
    return network, VAE(SHAPE, D, network, Gaussian(SIGMA)).eval()


def draw(num=64, size=32):
    x = torch.rand(num, *SHAPE, generator=torch.Generator().manual_seed(1))
    return [{"image": part, "index": i} for part, i in zip(x.split(size), torch.arange(num).split(size), strict=True)]


def exact(network, batches):
    return -float(torch.cat([network.log_px(batch["image"]) for batch in batches]).mean())


def test_the_estimate_converges_to_the_exact_likelihood_of_a_linear_gaussian_vae():
    network, model = linear()
    estimate = importance_weighted(model, draw(), 2000, chunk=400)
    assert estimate == pytest.approx(exact(network, draw()), abs=1e-2)


def test_the_bound_falls_with_k_on_average():
    network, model = linear(wrong=3.0)
    batches = draw(num=256, size=256)
    values = [sum(importance_weighted(model, batches, k, seed=s) for s in range(5)) / 5 for k in (1, 4, 16, 64)]
    assert all(more > fewer for more, fewer in pairwise(values))
    assert values[-1] > exact(network, batches) - 1e-3


@pytest.mark.parametrize("k", [3, 20])
def test_numbers_depend_neither_on_chunks_nor_on_batches(k):
    _, model = linear(wrong=3.0)
    reference = importance_weighted(model, draw(size=64), k)
    for chunk, size in ((1, 5), (7, 64), (16, 10), (1000, 64)):
        assert importance_weighted(model, draw(size=size), k, chunk=chunk) == pytest.approx(reference, abs=1e-5)
    torch.rand(1)  # the global state takes no part
    assert importance_weighted(model, draw(size=64), k) == reference != importance_weighted(model, draw(), k, seed=1)


def test_draws_are_independent_and_the_first_of_many_are_those_of_few():
    """Also between the units of an image, neighbouring images, and the draws of one call."""

    class Model:
        def log_weights(self, batch, k):
            x = batch["image"].flatten(1)[:, :1]
            first, second = noise.normal(x, (k,)), noise.normal(x, (k,))  # two blocks
            self.seen = torch.stack([first, second])[..., 0]  # [2, k, rows]
            return self.seen[0]

    model, batch = Model(), {"image": torch.rand(50, 1, 1, 1), "index": torch.arange(50)}
    few = likelihood._log_weights(model, batch, 3, 8, 0)
    many = likelihood._log_weights(model, batch, 40, 40, 0)
    assert many.shape == (40, 50) and torch.equal(many[:3], few)
    assert model.seen.numel() == 2 * 40 * 50
    assert len(model.seen.flatten().unique()) > 2 * 40 * 50 - 10  # float32 repeats a few by chance, shared noise hundreds
    assert abs(many.mean()) < 0.1 and many.std() == pytest.approx(1, abs=0.1)


def test_group_models_keep_their_groups():
    class Grouped:
        def log_weights(self, batch, k):
            sums = torch.zeros(batch["num_groups"]).index_add(0, batch["group"], batch["image"].flatten(1)[:, 0])
            return sums.expand(k, -1)

    x = torch.rand(6, 1, 1, 1)
    batch = {"image": x, "index": torch.arange(6), "group": torch.tensor([0, 0, 1, 1, 2, 2]), "num_groups": 3}
    log_w = likelihood._log_weights(Grouped(), batch, 20, 16, 0)
    torch.testing.assert_close(log_w, x.view(3, 2).sum(1).double().expand(20, 3))


def test_bounds_of_groups_are_nats_per_image():
    """Two groups of 3 and 1 images, whose content costs 5 nats each: 2.5 nats an image."""

    class Grouped(LatentVariableModel):
        blocks = {"content": None}

        def encode(self, batch):
            return {}

        def objective(self, batch):
            return {"rec": Term(batch["image"].flatten(1)[:, 0], 1.0), "kl_content": Term(torch.full((2,), 5.0), 1.0)}

        def log_weights(self, batch, k):
            sums = torch.zeros(2).index_add(0, batch["group"], batch["image"].flatten(1)[:, 0])
            return -(sums + 5).expand(k, -1)

    model, x = Grouped((1, 1, 1)), torch.rand(4, 1, 1, 1)
    batch = {"image": x, "index": torch.arange(4), "group": torch.tensor([0, 0, 0, 1]), "num_groups": 2}
    numbers, _ = bounds(model, [batch])
    rec = float(x.mean())
    assert numbers == pytest.approx({"rec": rec, "kl_content": 2.5, "elbo": -rec - 2.5, "rate": 2.5}, abs=1e-6)
    assert importance_weighted(model, [batch], 8) == pytest.approx(rec + 2.5, abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_elbo_is_distortion_and_rate_for_every_model(name):
    model = build(name).eval()
    batches = [images()]
    numbers, kl = bounds(model, batches)
    assert numbers["elbo"] == pytest.approx(-numbers["rec"] - numbers["rate"])
    assert numbers["rec"] > 0
    assert importance_weighted(model, batches, 64) <= -numbers["elbo"] + 0.5
    posterior = model.encode(batches[0])
    assert all(kl[block] == pytest.approx(part.mean(0).detach()) for block, part in model.kl_per_dim(posterior).items())


def test_kl_per_dimension_of_a_group_is_counted_once():
    model = build("ml_vae").eval()
    batch = images() | {"group": torch.tensor([0, 0, 0, 1, 2, 2, 0, 2]), "num_groups": 3}
    numbers, kl = bounds(model, [batch])
    for block in ("content", "style"):
        assert kl[block].sum() == pytest.approx(numbers[f"kl_{block}"], rel=1e-4), block


def test_the_rate_is_the_kl_on_average():
    _, model = linear()
    batches = draw(num=4096, size=4096)
    mean_kl = costs(model, batches[0])["kl_z"].mean().item()
    numbers, kl = bounds(model, batches)
    assert numbers["rate"] == pytest.approx(mean_kl, abs=0.1)
    assert numbers["kl_z"] == pytest.approx(mean_kl, abs=1e-4) and kl["z"].sum() == pytest.approx(mean_kl, abs=1e-4)


def test_active_units_count_means_that_move():
    mu = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.05, 0.2, 0.0]) + 3
    assert active_units(mu) == 2 and active_units(mu, threshold=1e-4) == 3


def test_aggregate_kl_equals_numerical_integration_in_one_dimension():
    generator = torch.Generator().manual_seed(0)
    mu, logvar = 1.5 * torch.randn(40, 1, generator=generator), torch.randn(40, 1, generator=generator) - 2
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_q = Normal(mu.double(), logvar.double()).log_prob_per_dim(z).logsumexp(0) - torch.tensor(40.0).log()
    log_p = Normal(torch.zeros(1).double(), torch.zeros(1).double()).log_prob_per_dim(z)
    kl = float(torch.trapezoid(log_q.exp() * (log_q - log_p), z))
    got = aggregate_posterior(mu, logvar, num_samples=20_000)
    assert got["kl"] == pytest.approx(kl, abs=0.02)
    assert got["total_correlation"] == pytest.approx(0, abs=1e-9)


def test_aggregate_terms_of_known_mixtures():
    """One posterior for all images: no information; four far corners: log 4 of it, and log 2 of correlation for two."""
    same = aggregate_posterior(torch.full((30, 3), 0.7), torch.zeros(30, 3), num_samples=4000)
    assert same["kl"] == pytest.approx(3 * 0.7**2 / 2, abs=0.05)
    assert same["mutual_information"] == pytest.approx(0, abs=1e-9)
    corners = torch.tensor([[-9.0, -9], [-9, 9], [9, -9], [9, 9]])
    four = aggregate_posterior(corners, torch.zeros(4, 2))
    two = aggregate_posterior(corners[[0, 3]], torch.zeros(2, 2))
    log2 = float(torch.tensor(2.0).log())
    assert four["mutual_information"] == pytest.approx(2 * log2) and two["mutual_information"] == pytest.approx(log2)
    assert four["total_correlation"] == pytest.approx(0, abs=1e-9) and two["total_correlation"] == pytest.approx(log2)
    for got in (same, four, two):
        assert got["kl"] == pytest.approx(got["total_correlation"] + got["dimension_wise_kl"])


def test_aggregate_of_many_dimensions_is_computed_in_parts(monkeypatch):
    sizes, kept = [], likelihood.log_density_pairs
    monkeypatch.setattr(likelihood, "log_density_pairs", lambda q, z: sizes.append(len(z) * q.mu.numel()) or kept(q, z))
    monkeypatch.setattr(likelihood, "ELEMENTS", 5000)
    aggregate_posterior(torch.rand(50, 20), torch.rand(50, 20), num_samples=12)
    assert max(sizes) == 5000 and sum(sizes) == 12 * 1000


def test_aggregate_does_not_depend_on_chunks_and_is_seeded():
    mu, logvar = torch.rand(50, 3), torch.rand(50, 3)
    first = aggregate_posterior(mu, logvar, num_samples=120, chunk=7)
    assert aggregate_posterior(mu, logvar, num_samples=120, chunk=500) == pytest.approx(first)
    assert aggregate_posterior(mu, logvar, num_samples=120, seed=1)["kl"] != first["kl"]


def test_refusals_and_examples():
    with pytest.raises(ValueError, match="k=0"):
        importance_weighted(linear()[1], draw(), 0)
    assert doctest.testmod(likelihood).failed == 0
