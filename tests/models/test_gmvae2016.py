"""GMVAE of 2016: the contract of models/base.py and discrete.py, and its bound against integration."""

from functools import partial
from math import log

import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MixtureSameFamily, kl_divergence
from torch.distributions import Normal as TorchNormal

from tests.models.builders import (
    check_gradient_of_weight_is_that_of_its_term,
    check_weights_belong_to_their_image_and_draw,
    costs,
    fit,
    images,
    weights_of,
)
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli
from vae_zoo.metrics import clustering
from vae_zoo.models import GMVAE2016
from vae_zoo.nets import MLP

K, D, W = 4, 3, 2


def build(image_shape=(1, 6, 6), **options):
    """Components that differ, so that clusters matter."""
    torch.manual_seed(0)
    options = {"z_dim": D, "w_dim": W, "num_classes": K, "feature_dim": 12, "prior_hidden": 8} | options
    model = GMVAE2016(image_shape, network=MLP((16,)), likelihood=Bernoulli(), **options)
    with torch.no_grad():
        model.z_prior[2].weight.mul_(4)
    return model


def components(model, w):
    """p(z | c, w) of each cluster by torch.distributions, [..., K] of D dimensions."""
    mu, logvar = model.z_prior(w).unflatten(-1, (K, 2 * model.blocks["z"].size)).chunk(2, -1)
    return Independent(TorchNormal(mu, (0.5 * logvar).exp()), 1)


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_codes_and_images_have_the_shapes_and_ranges_of_the_contract():
    model = build().eval()
    posterior = model.encode(images(4))
    assert posterior.keys() == model.blocks.keys() == model.sample_prior(2).keys()
    assert {b: kl.shape for b, kl in model.kl_per_dim(posterior).items()} == {"z": (4, D), "w": (4, W)}
    for block, q in posterior.items():
        assert q.mean.shape == (4, model.blocks[block].size) == model.sample_prior(4)[block].shape
    image = model.sample(4)
    assert image.shape == (4, 1, 6, 6) and 0 <= image.min() < image.max() <= 1
    assert model.reconstruct(images(4)).shape == (4, 1, 6, 6)
    with pytest.raises(ValueError, match=r"decode needs a code \[B, 2\] for block 'w'"):
        model.decode({"c": torch.eye(K), "z": torch.zeros(K, D)})


OPTIONS = {"beta": "kl_z", "alpha": "class_information"}


@pytest.mark.parametrize("option, term", OPTIONS.items())
def test_gradient_of_each_weight_is_that_of_its_term(option, term):
    check_gradient_of_weight_is_that_of_its_term(build, option, term)


def test_loss_is_the_sum_of_the_weighted_terms():
    model = build(beta=2.0, alpha=3.0)
    torch.manual_seed(1)
    terms = costs(model, images())
    torch.manual_seed(1)
    weights = weights_of(model, images())
    assert weights == {"rec": 1.0, "kl_z": 2.0, "kl_w": 1.0, "class_information": 3.0}
    torch.testing.assert_close(terms["loss"], sum(w * terms[term].mean() for term, w in weights.items()))


def test_free_bits_hold_the_information_of_the_cluster_and_stop_its_gradient():
    """Below the minimum the term is the minimum, without a gradient; above it, it is kl_c."""
    for minimum in (0.0, 100.0):
        model = build(free_bits=minimum).eval()
        torch.manual_seed(1)
        terms = costs(model, images())
        assert terms["class_information"].item() == pytest.approx(max(minimum, terms["kl_c"].mean().item()))
        grads = torch.autograd.grad(terms["class_information"], [*model.parameters()], materialize_grads=True)
        assert any(g.abs().max() > 0 for g in grads) == (minimum == 0)


def test_weights_belong_to_their_image_and_draw():
    check_weights_belong_to_their_image_and_draw(build().eval())


def test_draws_and_terms_stay_in_float32_under_autocast():
    model = build()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        values = [*costs(model, images()).values(), model.log_weights(images(), 2)]
    assert {value.dtype for value in values} == {torch.float32}


def test_loss_falls_and_clusters_are_counted():
    recs, logged = [], {}
    model = build(image_shape=(1, 8, 8))
    model.log_values = logged.update
    with torch.no_grad():
        recs.append(costs(model, images(32, (1, 8, 8)))["rec"].mean())
    fit(model, 30, data=Digits(size=8, batch_size=32), val_check_interval=30)
    recs.append(model.terms["rec"].value.mean())
    assert recs[1] < recs[0] and 1 <= logged["val/classes_used"] <= K


class Prototypes(DataModule):
    """Images of 64 pixels, each a prototype of four with a fifth of the pixels inverted; which one is the class."""

    def __init__(self):
        super().__init__((1, 8, 8), batch_size=50, val_size=200, test_size=500)

    def load(self):
        rng = np.random.default_rng(0)
        prototypes, label = rng.random((4, 8, 8)) < 0.5, rng.integers(4, size=2000)
        images = prototypes[label] ^ (rng.random((2000, 8, 8)) < 0.2)
        return Arrays((255 * images[:, None]).astype(np.uint8), label=label, num_classes=4)


@pytest.mark.slow
@pytest.mark.parametrize("equal", [False, True], ids=["model", "equal components"])
def test_finds_the_prototypes_unless_all_components_are_equal(equal):
    """Labels are not seen, so only a mixture that separates can pass; one whose components stay equal has .25 to .5. With
    free_bits=0 two seeds of three find all four."""
    torch.manual_seed(0)
    sizes = {"z_dim": 4, "w_dim": 2, "num_classes": 4, "feature_dim": 64, "prior_hidden": 32, "free_bits": 1.0}
    options = {"network": MLP((64,)), "likelihood": Bernoulli(), "optimizer": partial(torch.optim.Adam, lr=3e-3)}
    model, data = GMVAE2016((1, 8, 8), **sizes, **options), Prototypes()
    if equal:
        model.z_prior[-1].weight.data.zero_()
        model.z_prior[-1].bias.data.zero_()
        model.z_prior.requires_grad_(False)
    fit(model, 600, data=data)
    rows = data.indices["test"]
    with torch.no_grad():
        found = model.eval().class_log_probs(data.single(rows)["image"]).argmax(1).numpy()
    label = data.label[rows].numpy()
    accuracy = clustering.scores(found, label, (found, label))["cluster_accuracy_hungarian"]
    assert accuracy <= 0.5 if equal else accuracy >= 0.95, accuracy


# ---- mathematics ----------------------------------------------------------------------------------------------------


def test_terms_are_those_of_torch_distributions():
    """With all weights 1, kl_z + kl_c is log q(z | x) - log p(z | w) of the mixture, and kl_w a divergence."""
    model, batch, seen = build().eval(), images(), []
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.z_prior.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    torch.manual_seed(2)
    with torch.no_grad():
        terms, (q_z, q_w) = costs(model, batch), model.infer(batch["image"])
        w, z = seen
        parts = components(model, w)
        mixture = MixtureSameFamily(TorchCategorical(torch.ones(8, K)), parts)
        log_c = (parts.log_prob(z[:, None]) - log(K)).log_softmax(1)
    log_q = TorchNormal(q_z.mu, (0.5 * q_z.logvar).exp()).log_prob(z).sum(1)
    torch.testing.assert_close(terms["kl_z"] + terms["kl_c"], log_q - mixture.log_prob(z), rtol=1e-4, atol=1e-4)
    uniform = TorchCategorical(torch.ones(8, K))
    torch.testing.assert_close(terms["kl_c"], kl_divergence(TorchCategorical(logits=log_c), uniform), rtol=1e-4, atol=1e-5)
    kl_w = kl_divergence(TorchNormal(q_w.mu, (0.5 * q_w.logvar).exp()), TorchNormal(0, 1)).sum(1)
    torch.testing.assert_close(terms["kl_w"], kl_w)
    assert terms["kl_c"].max() > 0.01, "else the clusters are one"


def test_bound_and_its_weights_agree_with_integration():
    """log p(x) by integration over z and w, which knows no posterior; the loss lies above -log p(x)."""
    model, batch = build(z_dim=1, w_dim=1).eval(), images(2)
    grid = torch.linspace(-9, 9, 301)
    z, w = torch.cartesian_prod(grid, grid).T[..., None]
    with torch.no_grad():
        mixture = MixtureSameFamily(TorchCategorical(torch.ones(len(w), K)), components(model, w))
        log_p = mixture.log_prob(z) + TorchNormal(0, 1).log_prob(w[:, 0]) + 2 * (grid[1] - grid[0]).log()
        assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-3), "the grid covers the prior"
        params = model.decoder(grid[:, None]).repeat_interleave(len(grid), 0)
        for x in batch["image"]:
            exact = (model.likelihood.log_prob(x.expand(len(z), -1, -1, -1), params) + log_p).logsumexp(0).item()
            torch.manual_seed(0)
            log_w = model.log_weights({"image": x[None]}, 50_000)[:, 0]
            assert log_w.logsumexp(0) - log(len(log_w)) == pytest.approx(exact, abs=0.02)
            loss = costs(model, {"image": x.expand(20_000, -1, -1, -1)})["loss"].item()
            assert loss == pytest.approx(-log_w.mean().item(), abs=0.05) and loss > -exact + 0.1


def test_moved_codes_keep_their_distance_in_deviations_and_draws_have_their_clusters_mean():
    model = build().eval()
    with torch.no_grad():
        codes, to = model.codes(images(5)), torch.full((5, 1), 2)
        moved = model.with_class(codes, to)
        old, new = (components(model, codes["w"]).base_dist for _ in range(2))
        own = codes["c"].argmax(1)
        rows = torch.arange(5)
        before = (codes["z"] - old.loc[rows, own]) / old.scale[rows, own]
        torch.testing.assert_close((moved["z"] - new.loc[:, 2]) / new.scale[:, 2], before, rtol=1e-4, atol=1e-4)
        assert torch.equal(moved["w"], codes["w"]) and (moved["c"].argmax(1) == 2).all()
        torch.testing.assert_close(model.with_class(moved, own[:, None])["z"], codes["z"], rtol=1e-4, atol=1e-4)
        drawn = model.sample_class(torch.full((20_000, 1), 1))
        part = components(model, drawn["w"]).base_dist
        means, centres = model.class_means(to), components(model, torch.zeros(5, codes["w"].shape[1])).base_dist.loc
        torch.testing.assert_close(means, {"z": centres[:, 2]})
        error = (drawn["z"] - part.loc[:, 1]) / part.scale[:, 1]
    torch.testing.assert_close(error.mean(0), torch.zeros(D), rtol=0, atol=0.03)
    torch.testing.assert_close(error.std(0), torch.ones(D), rtol=0.03, atol=0)
