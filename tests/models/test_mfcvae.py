"""MFCVAE, VaDE, which is MFCVAE with other settings, and the ladder VAE: the official code's numbers on its own weights,
closed forms, facets that enter, and the contract of models/base.py held by models of facets."""

import json
from functools import partial
from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributions import Categorical, kl_divergence

from tests.annotations import unchecked
from tests.models.builders import LADDERS, check_weights_belong_to_their_image_and_draw, costs, fit, images, weights_of
from tests.training.test_trainer import configuration
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, Gaussian, Normal, kl_standard, noise
from vae_zoo.distributions.mixture import FLOOR, _inverse_softplus, _softplus
from vae_zoo.models.ladder_vae import LadderVAE
from vae_zoo.models.mfcvae import MFCVAE
from vae_zoo.models.vae import VAE
from vae_zoo.nets import LadderConv, LadderMLP, RandomAffine
from vae_zoo.runs.load import build as build_node
from vae_zoo.schedules import Progressive
from vae_zoo.training.trainer import Trainer
from vae_zoo.utils.errors import UserError

FIXTURE = Path(__file__).with_name("mfcvae_loss")
every_model = pytest.mark.parametrize("name", LADDERS)
each_covariance = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def build(name="mfcvae", num_facets=2, image_shape=(1, 6, 6), step=None, **options):
    """All facets in, unless there is a schedule; codes of 3 dimensions, the mixtures away from each other and the prior."""
    torch.manual_seed(0)
    num_facets = 1 if name == "vade" else num_facets
    network = options.pop("network", LadderMLP(hidden=[[12 + j] for j in range(num_facets)], gate=1.0))
    options = {"likelihood": Bernoulli()} | options
    if name != "ladder_vae":
        options = {"num_clusters": [4 + j for j in range(num_facets)], "variance": 0.5} | options
    if name == "vade":
        once = {"estimator": "analytic", "prior_init": "means+vars+weights", "prior_init_at": "entry"}
        options = once | {"schedule": Progressive(100, fade_steps=0, pretrain=[0])} | options
    kind = LadderVAE if name == "ladder_vae" else MFCVAE
    model = kind(image_shape, [3] * num_facets, network=network, **options)
    with torch.no_grad():
        for head in model.encoder.heads:
            head.weight.mul_(4)
    model.trained_steps = 0 if step is None else step
    return model


def progressive(total=100, stages=(40, 60), **fades):
    return Progressive(total, stages, **({"fade_steps": 20} | fades))


def digits(**options):
    return Digits(size=8, batch_size=32, **options)


def gradients(model, value):
    """By name, None where there is no path."""
    found = torch.autograd.grad(value, [*model.parameters()], retain_graph=True, allow_unused=True)
    return dict(zip(dict(model.named_parameters()), found))


def of_facet(model, j):
    """Names of the parameters that belong to facet j alone."""
    parts = (f"encoder.heads.{j}.", f"encoder.rungs.{j}.", f"decoder.rungs.{j}.", f"priors.facet{j}.")
    return [name for name, _ in model.named_parameters() if name.startswith(parts)]


# ---- the official code ----------------------------------------------------------------------------------------------


def official_model(name):
    """The model of the fixture, and what its own code gave. Source: FabianFalck/mfcvae at 9f1eca4 (MIT)."""
    terms, arrays = json.loads(FIXTURE.with_suffix(".json").read_text())[name], np.load(FIXTURE.with_suffix(".npz"))
    theirs = {k.removeprefix(f"{name}/"): torch.from_numpy(arrays[k]) for k in arrays if k.startswith(f"{name}/")}
    full = name == "full_gaussian"
    model = MFCVAE(
        (1, 6, 6),
        [3, 2],
        [5, 4],
        LadderMLP(hidden=[[20], [30]], decoder_hidden=[[18, 16], [30]]),
        Gaussian(0.6) if full else Bernoulli(),
        covariance="full" if full else "diagonal",
        schedule=Progressive(90, stages=[30, 60], fade_steps=40),  # their epoch 0 does not train
    )
    layers = {
        "encoder.backbones.0.1": "encoder.fc_backbone.0.0",
        "encoder.backbones.1.0": "encoder.fc_backbone.1.0",
        "decoder.rungs.0.0": "decoder.fc_rung.0.0",
        "decoder.rungs.1.0": "decoder.fc_backbone.1.0",
        "decoder.backbones.1.0": "decoder.fc_backbone.1.3",
        "decoder.backbones.0.0": "decoder.fc_backbone.0.0",
        "decoder.output.0": "layer_x_hat_z",
    }
    state = {f"{ours}.{kind}": theirs[f"{other}.{kind}"] for ours, other in layers.items() for kind in ("weight", "bias")}
    for j in (0, 1):
        for kind in ("weight", "bias"):
            halves = [theirs[f"fc_{part}_q_z_x_list.{j}.{kind}"] for part in ("mu", "log_sigma_square")]
            state[f"encoder.heads.{j}.{kind}"] = torch.cat(halves)
        state[f"priors.facet{j}.logits"] = theirs[f"_pi_p_c_j_list.{j}"]
        state[f"priors.facet{j}.mu"] = theirs[f"mu_p_z_j_c_j_list.{j}"].T
        if full:  # components last
            scale = theirs[f"_l_mat_p_z_j_c_j_list.{j}"].permute(2, 0, 1)
            diagonal = _inverse_softplus(_softplus(scale.diagonal(dim1=1, dim2=2)) - FLOOR**0.5)
            state[f"priors.facet{j}.raw_scale"] = scale.tril(-1) + diagonal.diag_embed()
        else:
            variance = _softplus(theirs[f"_sigma_square_p_z_j_c_j_list.{j}"].T)
            state[f"priors.facet{j}.raw_scale"] = _inverse_softplus(variance - FLOOR)
    model.load_state_dict(state | {k: v for k, v in model.state_dict().items() if k.startswith("likelihood.")})
    model.trained_steps = 40  # their epoch 5, batch 0
    return model.eval(), theirs, terms


@pytest.mark.parametrize("name", ["diag_bernoulli", "full_gaussian"])
def test_terms_are_those_of_the_official_code(name, monkeypatch):
    model, theirs, terms = official_model(name)
    model.train()  # step 40 is the update with which the shallow facet enters
    weights = list(model.coefficients(40).values())
    assert [w.alpha for w in weights] == terms["alpha_dec"]
    assert [w.gamma_z for w in weights] == [w.gamma_c for w in weights] == terms["gamma"]
    monkeypatch.setattr(noise, "normal", lambda like, shape=(): torch.zeros(*shape, *like.shape))  # the means, as theirs
    x = theirs["x"].view(-1, 1, 6, 6)
    got, q = costs(model, {"image": x}), model.encode(x)
    assert got["loss"].item() == pytest.approx(terms["loss"], rel=1e-5)
    assert -got["rec"].mean().item() == pytest.approx(terms["log_px_z"], rel=1e-5)
    parts = {"log_p_z": "E_log_pz_c", "log_p_c": "E_log_pc", "log_q_z": "E_log_qz", "log_q_c": "E_log_qc"}
    for ours, other in (parts | {"kl_z": "kl_z", "kl_c": "kl_c"}).items():
        total = sum(got[f"{ours}_facet{j}"].mean().item() for j in (0, 1))
        assert total == pytest.approx(terms[other], rel=1e-5), ours
    for j in (0, 1):
        assert torch.allclose(q[f"facet{j}"].mu, theirs[f"z{j}"], rtol=1e-5, atol=1e-6)
        assert torch.allclose(
            model.priors[f"facet{j}"].responsibilities(q[f"facet{j}"].mu), theirs[f"c_probs{j}"], atol=1e-6
        )
    params = model.decode_params({block: q[block].mu for block in q}).flatten(1)
    x_rec = params.sigmoid() if name == "diag_bernoulli" else params
    torch.testing.assert_close(x_rec, theirs["x_rec"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "shape, network, dims, clusters, published",
    [
        ((1, 28, 28), LadderMLP(decoder_hidden=[[500, 500], [2000]]), [5, 5], [25, 25], 3_078_854),
        ((3, 32, 32), LadderConv(weight_norm="encoder", output="normalised"), [22, 7], [200, 50], 2_489_277),
        ((3, 32, 32), LadderConv(weight_norm="encoder", output="normalised"), [20, 2], [60, 20], 2_272_941),
    ],
    ids=["mnist", "svhn", "shapes3d"],
)
def test_sizes_are_the_published_ones(shape, network, dims, clusters, published):
    mnist = shape[0] == 1
    options = {} if mnist else {"covariance": "full", "weights": "fixed"}
    model = MFCVAE(shape, dims, clusters, network, Bernoulli(), **options)
    fixed = 0 if mnist else sum(clusters)  # of p(c), which they count
    assert sum(p.numel() for p in model.parameters()) + fixed == published


def test_the_mnist_preset_has_the_published_size_and_schedule():
    cfg = configuration("experiment=mfcvae/mnist")
    model = build_node(cfg["model"])
    assert sum(p.numel() for p in model.parameters()) + 2 * 25 == 3_078_854  # p(c), here fixed
    assert cfg["trainer"]["max_steps"] == 47_318 and model.begins() == {"facet0": 23_600, "facet1": 0}
    assert model.coefficients(23_600 + 1)["facet0"].alpha == pytest.approx(1 / 15_000)


# ---- the objective --------------------------------------------------------------------------------------------------


def with_noise(model, batch, seed=0):
    with noise.per_image(batch["index"], seed):
        return costs(model, batch)


def by_hand(prior, q, z, detach):
    """kl_z and kl_c of the docstring, written out over the components; detach: q(c | x) as a constant."""
    components = torch.distributions.MultivariateNormal(prior.mu, scale_tril=prior.scale_tril()).log_prob(z[:, None])
    log_pi = prior.logits.log_softmax(0)
    c_probs = (components + log_pi).softmax(-1)
    c_probs = c_probs.detach() if detach else c_probs
    log_q = torch.distributions.Normal(q.mu, (0.5 * q.logvar).exp()).log_prob(z).sum(-1)
    return log_q - (c_probs * components).sum(-1), (c_probs * (c_probs.log() - log_pi)).sum(-1)


@each_covariance
def test_five_terms_and_the_marginal_are_one_loss_with_one_gradient(covariance):
    """Then q(c | x) may be detached, since it is where that loss is least; where gamma_z differs from gamma_c it may not."""
    unequal = progressive(gamma_start_z=0.3, gamma_start_c=0.7, fade_steps=1000)
    model = build(covariance=covariance, schedule=unequal, step=0)
    prior = model.priors["facet0"].double()
    mu, logvar = (torch.randn(6, 3, dtype=torch.float64, requires_grad=True) for _ in "ml")
    q = Normal(mu, logvar)
    z = q.rsample()
    inputs = [mu, logvar, *prior.parameters()]
    terms = {name: term.value for name, term in model.kl_terms("facet0", q, z).items()}
    for detach in (False, True):
        kl_z, kl_c = by_hand(prior, q, z, detach)
        torch.testing.assert_close(terms["kl_facet0"], kl_z + kl_c, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close((terms["kl_z_facet0"], terms["kl_c_facet0"]), (kl_z, kl_c), rtol=1e-6, atol=1e-9)
        for total in (terms["kl_facet0"], terms["kl_z_facet0"] + terms["kl_c_facet0"]):
            ours, theirs = (torch.autograd.grad(t.sum(), inputs, retain_graph=True) for t in (total, kl_z + kl_c))
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
        weighted = 0.3 * terms["kl_z_facet0"] + 0.7 * terms["kl_c_facet0"]
        ours = torch.autograd.grad(weighted.sum(), inputs, retain_graph=True)
        theirs = torch.autograd.grad((0.3 * kl_z + 0.7 * kl_c).sum(), inputs, retain_graph=True)
        apart = max((a - b).abs().max() for a, b in zip(ours, theirs))
        assert apart > 1e-2 if detach else apart < 1e-9


@each_covariance
def test_analytic_estimator_is_the_mean_field_bound(covariance):
    """E_q [log q(z) - log p(z, c)] + E_q(c) log q(c) by draws, q(c | x) being the best one: 5 standard errors."""
    model = build(covariance=covariance, estimator="analytic")
    prior, q = model.priors.double()["facet0"], Normal(*(torch.randn(1, 3, dtype=torch.float64) for _ in "ml"))
    terms = {name: term.value for name, term in model.kl_terms("facet0", q, q.mu).items()}
    c_probs = model.clusters({"facet0": q, "facet1": q})["facet0"]
    torch.manual_seed(0)
    z = q.rsample((50_000,))[:, 0]
    drawn = q.log_prob(z) + (c_probs * (c_probs.log() - prior.log_joint(z))).sum(-1)
    assert abs(drawn.mean() - terms["kl_facet0"].item()) < 5 * drawn.std() / 50_000**0.5 < 0.1
    sampled = q.log_prob(z) - prior.log_prob(z)
    gap = (drawn - sampled).mean()  # E KL(q(c | x) || p(c | z))
    assert gap > 0.02 and abs(terms["kl_facet0"].item() - gap - sampled.mean()) < 0.1


def test_each_facet_may_have_an_estimator_of_its_own():
    sample, analytic, mixed = (
        with_noise(build(estimator=estimator), images()) for estimator in ("sample", "analytic", ["sample", "analytic"])
    )
    assert torch.equal(mixed["kl_facet0"], sample["kl_facet0"]) and torch.equal(mixed["kl_facet1"], analytic["kl_facet1"])
    assert not torch.equal(sample["kl_facet0"], analytic["kl_facet0"])
    assert not torch.equal(sample["kl_facet1"], analytic["kl_facet1"])
    with pytest.raises(ValueError, match="estimator needs sample or analytic for each of the 2 facets, got .'sample'"):
        build(estimator=["sample"])


def test_one_facet_and_one_standard_cluster_are_the_plain_vae():
    model, batch = build(num_facets=1, num_clusters=[1], variance=1.0), images()
    with torch.no_grad():
        model.priors["facet0"].mu.zero_()
    q = model.encode(batch)["facet0"]
    torch.manual_seed(1)
    terms = costs(model, batch)
    torch.manual_seed(1)
    z = q.rsample()
    rec = F.binary_cross_entropy_with_logits(model.decode_params({"facet0": z}), batch["image"], reduction="none")
    torch.testing.assert_close(terms["rec"], rec.flatten(1).sum(1))
    sampled = q.log_prob(z) - Normal(torch.zeros(3), torch.zeros(3)).log_prob(z)
    torch.testing.assert_close(terms["kl_facet0"], sampled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["loss"], (rec.flatten(1).sum(1) + sampled).mean())
    draws = model.kl_terms("facet0", q[:1], q[:1].rsample((100_000,))[:, 0])["kl_facet0"].value
    assert abs(draws.mean() - kl_standard(q[:1])[0]) < 3 * draws.std() / 100_000**0.5
    analytic = build(num_facets=1, num_clusters=[1], variance=1.0, estimator="analytic")
    with torch.no_grad():
        analytic.priors["facet0"].mu.zero_()
    torch.testing.assert_close(costs(analytic, batch)["kl_facet0"], kl_standard(q), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(analytic.kl_per_dim({"facet0": q})["facet0"].sum(1), kl_standard(q), rtol=1e-4, atol=1e-4)


def test_facets_pay_each_for_itself_and_names_of_clusters_mean_nothing():
    model, batch = build(num_facets=3), images()
    before = with_noise(model, batch)
    kls = [before[f"kl_facet{j}"] for j in range(3)]
    torch.testing.assert_close(before["loss"], (before["rec"] + sum(kls)).mean())
    q = model.encode(batch)
    with noise.per_image(batch["index"]):
        for name in model.facets:
            z = q[name].rsample()
            torch.testing.assert_close(before[f"kl_{name}"], q[name].log_prob(z) - model.priors[name].log_prob(z))
    prior, order = model.priors["facet1"], torch.tensor([2, 4, 0, 3, 1])
    with torch.no_grad():
        for tensor in (prior.logits, prior.mu, prior.raw_scale):
            tensor.copy_(tensor[order].clone())
    torch.testing.assert_close(with_noise(model, batch), before)
    torch.testing.assert_close(model.clusters(model.encode(batch))["facet1"].sum(1), torch.ones(8))


@each_covariance
def test_kl_of_dimensions_adds_up_to_that_of_the_code_given_the_cluster(covariance):
    model, batch = build(covariance=covariance, estimator="analytic"), images()
    q = model.encode(batch)
    per_dim, clusters, terms = model.kl_per_dim(q), model.clusters(q), costs(model, batch)
    for name in model.facets:
        torch.testing.assert_close(per_dim[name].sum(1), terms[f"kl_z_{name}"], rtol=1e-4, atol=1e-4)
        entropy = -(clusters[name] * clusters[name].log()).sum(1)
        kl_c = -entropy - (clusters[name] * model.priors[name].log_weights()).sum(1)
        torch.testing.assert_close(terms[f"kl_c_{name}"], kl_c, rtol=1e-4, atol=1e-4)


# ---- facets that enter ----------------------------------------------------------------------------------------------


def test_a_facet_that_waits_is_no_part_of_the_model():
    model, batch = build(schedule=progressive(), step=39), images()
    assert model.coefficients(39)["facet0"].alpha == 0 and model.entered() == ["facet1"]
    found = gradients(model, costs(model, batch)["loss"])
    assert all(found[name] is None for name in of_facet(model, 0)), "nor does Adam count steps for it"
    assert all(found[name] is not None for name in found.keys() - {*of_facet(model, 0)})
    codes = model.sample_prior(4)
    with noise.per_image(batch["index"]):
        bound = model.log_weights(batch, 3)
    with torch.no_grad():  # whatever becomes of it
        for name, p in model.named_parameters():
            if name in of_facet(model, 0):
                p.fill_(torch.nan)
    terms = with_noise(model, batch)
    assert terms["loss"].isfinite() and not any("facet0" in term for term in terms)
    with noise.per_image(batch["index"]):
        assert torch.equal(model.log_weights(batch, 3), bound)
    assert torch.equal(model.decode(codes), model.decode(codes | {"facet0": torch.randn(4, 3)}))


def test_a_facet_whose_kl_does_not_count_yet_gets_no_gradient_from_it():
    model = build(schedule=progressive(fade_steps=0, gamma_fade_steps=10), step=40)
    assert (model.coefficients(40)["facet0"].alpha, model.coefficients(40)["facet0"].gamma_z) == (1, 0)
    found = gradients(model, costs(model, images())["loss"])
    assert all(found[name] is None for name in found if name.startswith("priors.facet0."))
    assert found["encoder.heads.0.weight"].abs().max() > 0, "but the decoder reads it"


@pytest.mark.parametrize("name", ["mfcvae", "ladder_vae"])
def test_an_entering_facet_enters_with_alpha_and_pays_gamma(name):
    model, batch = build(name, schedule=progressive(gamma_fade_steps=50), step=45), images()
    weights = model.coefficients(45)
    assert weights["facet0"].alpha == pytest.approx(5 / 20) and weights["facet0"].gamma_z == pytest.approx(5 / 50)
    terms = with_noise(model, batch)
    by_hand = terms["rec"] + 0.1 * terms["kl_facet0"] + terms["kl_facet1"]
    torch.testing.assert_close(terms["loss"], by_hand.mean())
    assert weights_of(model, batch) == pytest.approx({"rec": 1.0, "kl_facet0": 0.1, "kl_facet1": 1.0})
    later = build(name, schedule=progressive(gamma_fade_steps=50), step=60)
    assert not torch.allclose(with_noise(later, batch)["rec"], terms["rec"])


def test_a_weight_reaches_its_own_term_and_no_other():
    """gamma_z and gamma_c of the facet that enters."""
    batch = images()

    def run(z, c):
        fades = {"fade_steps": 0, "gamma_fade_steps": 10**9, "gamma_start_z": z, "gamma_start_c": c}
        model = build(schedule=progressive(**fades), step=40)
        terms = with_noise(model, batch)
        return model, terms, gradients(model, terms["loss"])

    model, terms, base = run(0.3, 0.5)
    for term, changed in (("kl_z_facet0", (0.8, 0.5)), ("kl_c_facet0", (0.3, 1.0))):
        _, other, more = run(*changed)
        assert all(torch.equal(terms[t], other[t]) for t in terms if t != "loss")
        torch.testing.assert_close(other["loss"] - terms["loss"], 0.5 * terms[term].mean(), rtol=1e-4, atol=1e-4)
        own = gradients(model, terms[term].mean())
        for name, gradient in own.items():
            if gradient is None:
                assert more[name] is None or torch.equal(more[name], base[name])
            else:
                torch.testing.assert_close(more[name] - base[name], 0.5 * gradient, rtol=1e-3, atol=1e-5)
        assert max(g.abs().max() for g in own.values() if g is not None) > 1e-3


def of_clusters(**weights):
    augment = partial(torch.roll, shifts=1, dims=3) if weights.get("consistency_weight") else None
    return build(step=3, augment=augment, **weights)


def test_terms_of_the_clusters_are_those_of_categorical_distributions():
    weights = {"consistency_weight": 2.0, "entropy_weight": 3.0, "balance_weight": 4.0}
    model, batch = of_clusters(**weights), images()
    with torch.no_grad():
        terms, K = costs(model, batch), len(model.priors["facet1"].mu)
        c, copy = (
            Categorical(model.clusters(model.encode(x))["facet1"]) for x in (batch["image"], batch["image"].roll(1, 3))
        )
        used, uniform = Categorical(c.probs.mean(0)), Categorical(torch.ones(K) / K)
    expected = {
        "consistency_facet1": kl_divergence(c, copy) + c.entropy(),
        "entropy_facet1": c.entropy(),
        "balance_facet1": kl_divergence(used, uniform),
    }
    torch.testing.assert_close({term: terms[term] for term in expected}, expected, rtol=1e-4, atol=1e-5)
    assert weights_of(model, batch) == {"rec": 1.0, "kl_facet0": 1.0, "kl_facet1": 1.0} | dict(
        zip(expected, weights.values())
    )
    assert expected["balance_facet1"] > 0.05 and min(expected["consistency_facet1"] - c.entropy()) > 0
    assert not any("balance" in term for term in costs(build(), batch))
    with pytest.raises(ValueError, match="consistency_weight > 0 needs augment"):
        build(consistency_weight=1.0)


def test_a_weight_of_the_clusters_reaches_its_own_term_and_the_deepest_facet_alone():
    batch, names = images(), ("consistency", "entropy", "balance")

    def run(**changed):
        model = of_clusters(**({f"{name}_weight": 0.5 for name in names} | changed))
        terms = with_noise(model, batch)
        return model, terms, gradients(model, terms["loss"])

    model, terms, base = run()
    shallow = [*of_facet(model, 0), *(name for name in base if name.startswith("decoder."))]
    for name in names:
        _, other, more = run(**{f"{name}_weight": 2.0})
        torch.testing.assert_close(other["loss"] - terms["loss"], 1.5 * terms[f"{name}_facet1"].mean(), rtol=1e-4, atol=1e-4)
        own = gradients(model, terms[f"{name}_facet1"].mean())
        assert all(own[parameter] is None for parameter in shallow)
        for parameter, gradient in own.items():
            if gradient is not None:
                torch.testing.assert_close(more[parameter] - base[parameter], 1.5 * gradient, rtol=1e-3, atol=1e-4)
        assert own["priors.facet1.mu"].abs().max() > 1e-4


def test_a_copy_follows_its_image_and_not_the_image_its_copy():
    """Nothing is asked of clusters that are kept: the gradient of the cross-entropy is that of the KL to a fixed target."""
    model = build(augment=nn.Identity(), consistency_weight=1.0)
    kept = gradients(model, costs(model, images())["consistency_facet1"].sum())
    assert max(gradient.abs().max() for gradient in kept.values() if gradient is not None) < 1e-5


def test_clusters_that_no_image_is_near_have_a_finite_gradient():
    model = of_clusters(balance_weight=1.0)
    with torch.no_grad():
        model.priors["facet1"].mu[1:] += 1e3
    found = gradients(model, costs(model, images())["loss"])
    assert all(gradient.isfinite().all() for gradient in found.values() if gradient is not None)


@pytest.mark.parametrize("name", ["mfcvae", "ladder_vae"])
@pytest.mark.parametrize("num_facets", [1, 2, 3])
def test_loss_is_the_sum_of_the_weighted_terms_at_every_step(name, num_facets):
    for fades in ({"fade_fraction": 0.5}, {"fade_steps": 5, "gamma_start_z": 0.2, "gamma_start_c": 0.1}):
        model = build(name, num_facets, schedule=Progressive(90, **fades))
        for step in (0, 29, 30, 35, 50, 62, 89, 500):
            model.trained_steps = step
            terms, weights = costs(model, images()), weights_of(model, images())
            assert all(value.shape in ((), (8,)) and value.isfinite().all() for value in terms.values())
            torch.testing.assert_close(terms["loss"], sum(w * terms[t].mean() for t, w in weights.items()))
            assert model.named_values(model.objective(images())).keys() >= {f"weighted/{term}" for term in weights}


def test_collapse_of_a_facet_is_told_once_and_only_when_its_kl_counts(caplog, monkeypatch):
    monkeypatch.setattr("vae_zoo.models.ladder_vae.AFTER", 2)
    model = build("ladder_vae", image_shape=(1, 8, 8), optimizer=partial(torch.optim.SGD, lr=0.0))
    with torch.no_grad():
        for p in model.encoder.heads[0].parameters():
            p.zero_()  # N(0, I) whatever is seen
    fit(model, 5, val_check_interval=1)
    told = [record.message for record in caplog.records if record.message.startswith("facet0 collapses")]
    assert len(told) == 1 and "its KL is 0.00 nats" in told[0]


# ---- first values ---------------------------------------------------------------------------------------------------


class AtStep(MFCVAE):
    """Keeps what the mixtures are before each update."""

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.history.append({name: prior.mu.detach().clone() for name, prior in self.priors.items()})


def watched(seed=0, **options):
    options = {
        "optimizer": partial(torch.optim.SGD, lr=0.0),
        "variance": 0.01,
        "schedule": progressive(20, (4, 16)),
    } | options
    model = build(image_shape=(1, 8, 8), init_images=300, **options)
    model.__class__, model.history = AtStep, []
    fit(model, 7, data=digits(seed=seed), seed=seed, limit_val_batches=0)
    return model


@pytest.mark.parametrize("when, step", [("start", 0), ("entry", 4)])
def test_mixtures_start_from_codes_at_their_step(when, step):
    first, model = build(image_shape=(1, 8, 8)).priors["facet0"].mu, watched(prior_init_at=when)
    mus = [kept["facet0"] for kept in model.history]
    assert [torch.equal(mu, first) for mu in mus] == [t < step for t in range(7)]
    assert all(torch.equal(mu, mus[step]) for mu in mus[step:]), "once"
    data = digits()
    data.setup()
    codes = model.encode(data.batch(data.indices["train"]))["facet0"].mu
    assert codes.min() <= mus[-1].min() and mus[-1].max() <= codes.max()
    nearest = (codes[:, None] - mus[-1]).square().sum(-1).argmin(1)
    centres = torch.stack([codes[nearest == k].mean(0) for k in range(4)])
    assert (centres - mus[-1]).norm(dim=1).max() < 0.5 * codes.std(0).norm(), "each lies in the middle of some codes"


def test_first_values_depend_on_the_seed_alone():
    one, same, other = watched(), watched(), watched(seed=1)
    for name in one.facets:
        assert torch.equal(one.history[-1][name], same.history[-1][name])
        assert not torch.equal(one.history[-1][name], other.history[-1][name])
    nothing = watched(prior_init="none").history
    assert torch.equal(nothing[0]["facet0"], nothing[-1]["facet0"])


def test_codes_for_the_mixture_are_those_that_evaluation_would_use():
    """A convolutional ladder whose running means are still their first values gives all images nearly the same code."""
    spread = {}
    for calibrate in (True, False):
        network = LadderConv(channels=[4, 4])
        model = build(image_shape=(1, 28, 28), network=network, calibrate_norm=calibrate, init_images=200, data_init=True)
        fit(model, 1, data=Digits(size=28, batch_size=32), limit_val_batches=0)
        spread[calibrate] = model.priors["facet1"].mu.std(0).mean().item()
    assert spread[True] > 2 * spread[False]


def test_data_init_comes_before_the_first_update_and_leaves_codes_as_wide_as_the_mixtures():
    network = LadderMLP(hidden=[[16], [16]])
    model = build(image_shape=(1, 8, 8), network=network, data_init=True, optimizer=partial(torch.optim.SGD, lr=0.0))
    data = digits()
    fit(model, 2, data=data, limit_val_batches=0)
    q = model.encode(data.train_batch(0))
    for posterior in q.values():
        torch.testing.assert_close(posterior.mu.std(0), torch.full((3,), 0.1), rtol=0, atol=1e-3)
        assert posterior.logvar.mean().abs() < 1e-3


def test_more_clusters_than_images_are_refused():
    with pytest.raises(UserError, match="model.num_clusters must be at most 1437, .* got 2000"):
        fit(build(image_shape=(1, 8, 8), num_clusters=[4, 2000]), 1)
    few = "model.num_clusters must be at most 6, .* got 7; lower it, raise model.init_images, or give model.prior_init=none"
    with pytest.raises(UserError, match=few):
        fit(build(image_shape=(1, 8, 8), num_clusters=[4, 7], init_images=6), 1)


@pytest.mark.parametrize("at", [1, 4, 5, 9])
@pytest.mark.parametrize("name", ["mfcvae", "vade"])
def test_resume_is_exact_in_a_fade_and_at_the_step_of_first_values(tmp_path, name, at):
    """at: the step of the checkpoint; facet 0 enters, and VaDE's mixture begins, before the update of step 4."""
    vade = {"schedule": Progressive(20, fade_steps=0, pretrain=[4])}
    own = vade if name == "vade" else {"schedule": progressive(20, (4, 16)), "data_init": True}

    def model():
        return build(name, image_shape=(1, 8, 8), init_images=200, prior_init_at="entry", **own)

    whole, part, rest = model(), model(), model()
    fit(whole, 12, limit_val_batches=0)
    fit(part, at, limit_val_batches=0).save_checkpoint(tmp_path / "last.ckpt")
    trainer = Trainer(max_steps=12, val_check_interval=10_000, logger=False, accelerator="cpu", limit_val_batches=0)
    trainer.fit(rest, datamodule=digits(), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 12
    assert whole.state_dict().keys() == rest.state_dict().keys()
    assert [key for key, value in whole.state_dict().items() if not torch.equal(value, rest.state_dict()[key])] == []


def test_weights_of_clusters_can_be_fixed_for_each_facet():
    model = build(weights=["fixed", "learned"])
    assert [name for name, _ in model.named_parameters() if "logits" in name] == ["priors.facet1.logits"]
    for wrong, message in (
        ({"weights": ["fixed"]}, "fixed or learned for each of the 2 facets"),
        ({"num_clusters": [3]}, "a number for each of the 2 facets"),
        ({"network": LadderMLP(hidden=[[8]])}, "has 2 facets, but the network has 1"),
        ({"schedule": progressive(stages=(1, 1, 1))}, "a number for each of the 2 facets, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**wrong)


# ---- VaDE -----------------------------------------------------------------------------------------------------------


def test_vade_is_an_autoencoder_first():
    """And nothing is learned about the mixture until it starts from the codes."""
    model, batch = build("vade", schedule=Progressive(100, fade_steps=0, pretrain=[0.25]), step=24), images()
    assert model.begins() == model.prior_init_steps() == {"facet0": 25}
    terms = costs(model, batch)
    torch.testing.assert_close(terms["loss"], terms["rec"].mean())
    found = gradients(model, terms["loss"])
    assert weights_of(model, batch) == {"rec": 1.0}
    assert {name for name, gradient in found.items() if gradient is None} == {n for n in found if n.startswith("priors.")}
    model.trained_steps = 25
    terms = costs(model, batch)
    torch.testing.assert_close(terms["loss"], (terms["rec"] + terms["kl_facet0"]).mean())


def test_vade_has_the_layers_and_stages_of_its_file():
    cfg = configuration("model=vade", "trainer.max_steps=400")
    model = build_node(cfg["model"])
    assert model.facets == ("facet0",) and model.begins() == {"facet0": 100}
    widths = [m.out_features for m in (*model.encoder.modules(), *model.decoder.modules()) if isinstance(m, nn.Linear)]
    assert widths == [500, 500, 2000, 20, 2000, 500, 500, 64 * 64]


# ---- the contract ---------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("family", ["mlp", "conv"])
def test_codes_and_images_have_the_shapes_and_ranges_of_the_contract(name, family):
    network = {"network": LadderConv(channels=[4] * (1 if name == "vade" else 2))} if family == "conv" else {}
    model = build(name, image_shape=(3, 28, 32), **network).eval()
    batch = images(4, (3, 28, 32))
    posterior = model.encode(batch)
    assert posterior.keys() == model.blocks.keys() == model.sample_prior(2).keys() == model.kl_per_dim(posterior).keys()
    assert [*model.blocks] == [f"facet{j}" for j in range(len(model.blocks))]
    for block, q in posterior.items():
        assert model.blocks[block].size == 3 and model.blocks[block].kind == "gaussian"
        assert q.mean.shape == q.rsample().shape == (4, 3) and model.sample_prior(7)[block].shape == (7, 3)
        assert model.kl_per_dim(posterior)[block].shape == (4, 3)
    for image in (model.decode(model.sample_prior(4)), model.reconstruct(batch), model.sample(4)):
        assert image.shape == (4, 3, 28, 32) and 0 <= image.min() < image.max() <= 1
    if name != "ladder_vae":
        assert model.facets == tuple(model.blocks) == tuple(model.priors)
        for block, probs in model.clusters(posterior).items():
            assert probs.shape == (4, len(model.priors[block].mu))
            torch.testing.assert_close(probs.sum(1), torch.ones(4))


@every_model
def test_wrong_images_and_codes_are_refused(name):
    model = build(name)
    with pytest.raises(ValueError, match=r"float32 of shape \[B, 1, 6, 6\], got float32 \[2, 3, 6, 6\]"):
        model.encode(torch.rand(2, 3, 6, 6))
    with pytest.raises(ValueError, match=r"a code \[B, 3\] for block 'facet0', got \[2, 4\]"):
        model.decode(dict.fromkeys(model.blocks, torch.zeros(2, 4)))


@every_model
def test_images_are_encoded_independently_of_their_batch(name):
    model, x = build(name), images()["image"]
    for block, q in model.encode(x).items():
        torch.testing.assert_close(q.mean, torch.cat([model.encode(image[None])[block].mean for image in x]))


@every_model
def test_draws_of_the_prior_have_its_moments(name):
    model = build(name)
    torch.manual_seed(0)
    for block, z in model.sample_prior(40_000).items():
        mean, covariance = torch.zeros(3), torch.eye(3)
        if name != "ladder_vae":
            prior = model.priors[block]
            weights, scale = prior.log_weights().exp(), prior.scale_tril()
            mean = weights @ prior.mu
            within = torch.einsum("k,kij->ij", weights, scale @ scale.mT)
            covariance = within + torch.einsum("k,ki,kj->ij", weights, prior.mu - mean, prior.mu - mean)
        torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.03)
        torch.testing.assert_close(z.T.cov(), covariance, rtol=0, atol=0.04)
        entropy = torch.distributions.MultivariateNormal(mean, covariance).entropy()  # no density of it has more
        assert -model.log_prior(block, z).mean() < entropy + 0.02


@every_model
def test_weights_belong_to_their_image_and_draw(name):
    check_weights_belong_to_their_image_and_draw(build(name))


@every_model
def test_one_draw_of_the_bound_is_minus_the_terms_of_that_draw(name):
    """Clusters are summed out: log p(x, z) - log q(z | x) = -(rec + sum of log q(z_j) - log p(z_j))."""
    model, batch = build(name), images()
    terms = with_noise(model, batch)
    with noise.per_image(batch["index"]):
        log_w = model.log_weights(batch, 1)[0]
    q = model.encode(batch)
    rate = 0
    with noise.per_image(batch["index"]):
        for block in model.blocks:
            z = q[block].rsample()
            rate = rate + q[block].log_prob(z) - model.log_prior(block, z)
    torch.testing.assert_close(log_w, -(terms["rec"] + rate), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["mfcvae", "ladder_vae"])
def test_bound_rises_to_the_likelihood_by_quadrature(name):
    """One facet of one dimension: log p(x) is an integral over a line."""
    torch.manual_seed(0)
    options = {"num_clusters": [3], "variance": 0.3} if name == "mfcvae" else {}
    network = LadderMLP(hidden=[[8]])
    kind = MFCVAE if name == "mfcvae" else LadderVAE
    model = kind((1, 6, 6), [1], network=network, likelihood=Bernoulli(), **options)
    batch = images(3)
    line = torch.linspace(-8, 8, 4001)[:, None]
    with torch.no_grad():
        log_p = model.log_prior("facet0", line)
        params = model.decode_params({"facet0": line})
        joint = [log_p + model.likelihood.log_prob(x.expand(4001, 1, 6, 6), params) for x in batch["image"]]
        log_px = torch.stack(joint, 1).logsumexp(0) + log(16 / 4000)
        torch.manual_seed(1)
        log_w = model.log_weights(batch, 50_000)
    assert (log_w.mean(0) < log_px).all()
    torch.testing.assert_close(log_w.logsumexp(0) - log(50_000), log_px, rtol=0, atol=0.02)


def test_ladder_vae_without_a_ladder_is_the_plain_vae():
    ladder, vae = build("ladder_vae", num_facets=1), VAE((1, 6, 6), 3, Flat(), Bernoulli())
    ours = dict(zip(vae.state_dict(), ladder.state_dict().values(), strict=True))
    vae.load_state_dict(ours)
    batch = images()
    wanted, got = with_noise(vae, batch), with_noise(ladder, batch)
    torch.testing.assert_close((got["loss"], got["kl_facet0"]), (wanted["loss"], wanted["kl_z"]))


class Flat:
    """The layers of LadderMLP(hidden=[[12]])."""

    def encoder(self, image_shape, num_outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, num_outputs))

    def decoder(self, num_inputs, image_shape):
        return nn.Sequential(nn.Linear(num_inputs, 12), nn.ReLU(), nn.Linear(12, 36), nn.Unflatten(1, (1, 6, 6)))


@every_model
def test_trainer_takes_the_steps_of_a_bare_loop(name):
    """Batches and noise by (seed, step); a facet's own Adam begins when it enters."""
    own = {"prior_init": "none"} if name != "ladder_vae" else {}
    schedule = progressive(10, (2, 8), fade_steps=3)
    own |= {} if name == "vade" else {"schedule": schedule}
    bare, ours = (build(name, image_shape=(1, 8, 8), **own) for _ in "ab")
    data = digits()
    data.setup()
    optimizer = torch.optim.Adam(bare.parameters(), lr=1e-3)
    for step in range(5):
        bare.trained_steps = step
        noise.seed_step(7, step)
        optimizer.zero_grad()
        costs(bare, data.train_batch(step))["loss"].backward()
        optimizer.step()
    fit(ours, 5, seed=7)
    for (key, got), wanted in zip(ours.state_dict().items(), bare.state_dict().values()):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, msg=key)


@every_model
def test_loss_falls_and_validation_does_not_shift_training(name):
    states, recs = [], []
    for interval in (5, 10_000):
        model = build(name, image_shape=(1, 8, 8), optimizer=partial(torch.optim.Adam, lr=3e-3))
        recs.append(costs(model, images(32, (1, 8, 8)))["rec"].mean())
        fit(model, 60, val_check_interval=interval)
        states.append(model.state_dict())
        recs.append(model.terms["rec"].value.mean())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert recs[1] < 0.85 * recs[0]


def test_precision_of_the_networks_is_not_that_of_the_terms():
    model = build(covariance="full")
    with torch.autocast("cpu", torch.bfloat16):
        terms = costs(model, images())
    assert all(value.dtype == torch.float32 for value in terms.values())


@unchecked()  # a trainer of a strategy alone
def test_ddp_that_waits_for_every_gradient_is_refused_where_facets_wait():
    model = build(schedule=progressive())
    model.check_trainer(SimpleNamespace(strategy=DDPStrategy(find_unused_parameters=True)))
    build(schedule=None).check_trainer(SimpleNamespace(strategy=DDPStrategy()))
    with pytest.raises(UserError, match="set trainer.strategy=ddp_find_unused_parameters_true"):
        model.check_trainer(SimpleNamespace(strategy=DDPStrategy()))


def test_validation_before_the_update_with_which_a_facet_enters_does_not_use_it():
    """Its mixture is initialised with this update (prior_init_at=entry)."""
    schedule = Progressive(20, fade_steps=0, pretrain=[2])
    model = build("vade", image_shape=(1, 8, 8), init_images=200, prior_init_at="entry", schedule=schedule)
    model.priors["facet0"].mu.data.fill_(30.0)
    values = {}
    model.log_values = lambda found: values.setdefault(model.step, {}).update(found)
    fit(model, 3, val_check_interval=1)
    assert values[2]["val/loss"] < values[3]["val/loss"] + 100, "30 is 450 nats from 0"


def test_distorted_images_do_not_enter_the_averages_of_batch_norm():
    averages = []
    for options in ({}, {"augment": RandomAffine(rotate=90.0), "consistency_weight": 1.0}):
        model = build(image_shape=(1, 8, 8), **options)
        model.encoder.register_module("norm", torch.nn.BatchNorm2d(1))
        encode, norm = model.encoder.forward, model.encoder.norm
        model.encoder.forward = lambda x, encode=encode, norm=norm: encode(norm(x))
        torch.manual_seed(0)
        model.train().objective(images(8, image_shape=(1, 8, 8)))
        assert norm.num_batches_tracked == 1
        averages.append(norm.running_mean.clone())
    torch.testing.assert_close(*averages)
