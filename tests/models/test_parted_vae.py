"""The mathematics of PartedVAE in closed form, and the official code's terms on its own weights."""

import json
from dataclasses import replace
from functools import partial
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.builders import costs, fit, images, weights_of
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, Normal, bhattacharyya, kl_normal, noise
from vae_zoo.models.parted_vae import PartedVAE
from vae_zoo.nets import MLP, Conv, RandomAffine
from vae_zoo.schedules import Linear, Plateau

CONV32 = Conv(channels=[32, 64, 64], hidden=[], decoder_channels=[64, 32, 32], decoder_hidden=[256], leak=0.1)
CONV64 = Conv(channels=[32, 32, 64, 64], hidden=[], decoder_hidden=[256], leak=0.1)
CONV218 = Conv(
    channels=[32, 32, 64, 64, 64],
    hidden=[],
    decoder_channels=[64, 64, 64, 32, 32],
    decoder_hidden=[256],
    padding=[(0, 2), (1, 2), (0, 2), (0, 1), (0, 0)],
    leak=0.1,
)
FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "partedvae_loss"  # 2.5 MB: too large for git


def parted(num_classes=3, z_dim=3, u_dim=2, image_shape=(1, 6, 6), network=None, **options):
    torch.manual_seed(0)
    options = {"feature_dim": 16} | options
    return PartedVAE(image_shape, z_dim, u_dim, num_classes, network or MLP(hidden=(16,)), Bernoulli(), **options)


def digits(labelled):
    return Digits(size=8, batch_size=32, labelled=labelled)


def labelled(num_variables=1, num_classes=3, batch_size=8, **options):
    batch = images(batch_size, **options)
    shape = (batch_size,) if num_variables == 1 else (batch_size, num_variables)
    label = torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(1))
    return batch | {"supervised": images(batch_size, seed=1, **options) | {"label": label}}


# ---- the official code ----------------------------------------------------------------------------------------------


def official_model(name):
    """The model of the fixture, and what its own code gave. Source: sinahmr/parted-vae at 261f065 (MIT)."""
    if not FIXTURE.with_suffix(".npz").is_file():
        pytest.skip(f"no {FIXTURE}.npz")
    about = json.loads(FIXTURE.with_suffix(".json").read_text())[name]
    arrays = np.load(FIXTURE.with_suffix(".npz"))
    theirs = {k.removeprefix(f"{name}/"): torch.from_numpy(arrays[k]).float() for k in arrays if k.startswith(f"{name}/")}
    sizes, d = about["latent_spec"]["c"], about["latent_spec"]["single_u"]
    model = PartedVAE(
        (1, 32, 32),
        about["latent_spec"]["z"],
        d,
        sizes,
        CONV32,
        Bernoulli(),
        class_probs=sum(about["priors"], []),
        z_capacity=Linear(0.0, 7.0, 1000),
        u_capacity=Linear(0.0, 7.0, 1000),
        eval_slope=8.0,
    )
    state = {
        "u_prior.mu": theirs["u_prior_means"],
        "u_prior.raw_logvar": theirs["u_prior_logvars_before_tanh"],
        "z_head.weight": torch.cat([theirs["z_mean_fc.weight"], theirs["z_logvar_fc.weight"]]),
        "z_head.bias": torch.cat([theirs["z_mean_fc.bias"], theirs["z_logvar_fc.bias"]]),
        "c_head.weight": theirs["h_to_c_logit_fc.weight"],
        "c_head.bias": theirs["h_to_c_logit_fc.bias"],
        "past_c": model.past_c,
    }
    for kind in ("weight", "bias"):
        for ours, other in {0: "img_to_features.0", 2: "img_to_features.2", 4: "img_to_features.4"}.items():
            state[f"encoder.{ours}.{kind}"] = theirs[f"{other}.{kind}"]
        state[f"encoder.7.{kind}"] = theirs[f"features_to_hidden.0.{kind}"]
        for ours, other in {0: "latent_to_features.0", 2: "latent_to_features.2"}.items():
            state[f"decoder.{ours}.{kind}"] = theirs[f"{other}.{kind}"]
        for ours, other in {5: "features_to_img.0", 7: "features_to_img.2", 9: "features_to_img.4"}.items():
            state[f"decoder.{ours}.{kind}"] = theirs[f"{other}.{kind}"]
    gate = theirs["c_to_a_logit_pc.weight"].view(len(sizes), 256, -1)  # [J, 256, S], 0 where s is of another variable
    state["gate_weight"] = torch.stack([gate[j, :, s] for s, j in enumerate(model.classes.variable)])
    state["gate_bias"] = theirs["c_to_a_logit_pc.bias"].view(len(sizes), 256)
    heads = [theirs[f"h_dot_a_to_u_{part}_pc.weight"].view(len(sizes), d, len(sizes), 256) for part in ("mean", "logvar")]
    state["u_weight"] = torch.stack([torch.cat([head[j, :, j] for head in heads]).T for j in range(len(sizes))])
    biases = [theirs[f"h_dot_a_to_u_{part}_pc.bias"].view(len(sizes), d) for part in ("mean", "logvar")]
    state["u_bias"] = torch.cat(biases, dim=1)
    model.load_state_dict(state)
    model.trained_steps = 99  # iteration 100, counted from 1
    return model.eval(), theirs, about["terms"]


@pytest.mark.parametrize("name", ["one", "three"])
def test_terms_are_those_of_the_official_code(name, monkeypatch):
    model, theirs, terms = official_model(name)
    monkeypatch.setattr(noise, "normal", lambda like, shape=(): torch.zeros(*shape, *like.shape))  # the means, as theirs
    q = model.encode(theirs["x"])
    log_c = model.class_log_probs(theirs["x"])
    ours = {"log_c": log_c, "mu_z": q["z"].mu, "logvar_z": q["z"].logvar, "mu_u": q["u"].mu, "logvar_u": q["u"].logvar}
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-5)
    got, weights = costs(model, {"image": theirs["x"]}), weights_of(model, {"image": theirs["x"]})
    assert got["loss"].item() == pytest.approx(terms["total"], rel=1e-4)
    pairs = {"rec": "rec", "z_gap": "z_term", "u_gap": "u_term", "prior_c": "c_term"}
    for ours, other in (pairs | {"entropy_c": "entropy_term", "overlap": "bc_term"}).items():
        assert weights[ours] * got[ours].mean().item() == pytest.approx(terms[other], rel=1e-4), ours
    for ours, other in {"kl_z": "kl_z", "kl_u": "kl_u", "prior_c": "kl_c", "entropy_c": "entropy_c"}.items():
        assert got[ours].mean().item() == pytest.approx(terms[other], rel=1e-4), ours


@pytest.mark.parametrize(
    "shape, network, dims, sizes, published",
    [
        ((1, 64, 64), CONV64, (5, 1), [3], 762_966),
        ((1, 32, 32), CONV32, (6, 10), [10], 692_435),
        # the official layers of several variables count weights that are masked: 7 of 8 parts of each
        ((3, 218, 178), CONV218, (10, 1), [4, 3, 2, 3, 2, 2, 2, 2], 1_276_003 - 256 * 7 * 20 - 2 * 256 * 7 * 8),
    ],
    ids=["dsprites", "mnist", "celeba"],
)
def test_networks_have_the_shapes_and_sizes_of_the_published_ones(shape, network, dims, sizes, published):
    model = PartedVAE(shape, *dims, sizes, network, Bernoulli()).eval()
    assert sum(p.numel() for p in model.parameters()) == published
    x = torch.rand(2, *shape)
    assert model.reconstruct(x).shape == (2, *shape)
    assert torch.equal(model.reconstruct(x), model.reconstruct(x))
    if shape[1] == 218:
        assert network.encoder(shape, 256)[:-2](x).shape == (2, 64, 5, 5)


# ---- closed forms ---------------------------------------------------------------------------------------------------


def table(mu, variance):
    mu = torch.tensor(mu, dtype=torch.float64)
    return Normal(mu.requires_grad_(), torch.tensor(variance, dtype=torch.float64).log().requires_grad_())


@pytest.mark.parametrize(
    "mus, variances, value, by_mu, by_logvar",
    [
        (([0.0], [0.0]), ([1.0], [1.0]), 1.0, ([0.0], [0.0]), ([0.0], [0.0])),
        (([0.0], [2.0]), ([1.0], [1.0]), exp(-0.5), ([0.303265], [-0.303265]), ([0.151633], [0.151633])),
        (([0.0], [0.0]), ([1.0], [4.0]), 0.894427, ([0.0], [0.0]), ([0.134164], [-0.134164])),
        (([0.0, 0.0], [1.0, 2.0]), ([1.0, 1.0], [4.0, 0.25]), 0.341932, ([0.034193, 0.273546], None), (None, None)),
    ],
)
def test_bhattacharyya_coefficient_and_its_gradients(mus, variances, value, by_mu, by_logvar):
    p, q = (table(mu, variance) for mu, variance in zip(mus, variances))
    coefficient = bhattacharyya(p, q)
    assert coefficient.item() == pytest.approx(value, abs=1e-6)
    assert bhattacharyya(q, p).item() == pytest.approx(value, abs=1e-6)
    shifted = [Normal(t.mu + 3, t.logvar) for t in (p, q)]
    assert bhattacharyya(*shifted).item() == pytest.approx(value, abs=1e-6)
    found = torch.autograd.grad(coefficient, (p.mu, q.mu, p.logvar, q.logvar))
    for gradient, wanted in zip(found, (*by_mu, *by_logvar)):
        if wanted is not None:
            torch.testing.assert_close(gradient, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)


def test_bhattacharyya_coefficient_is_the_integral():
    p, q = table([0.3], [0.7]), table([-1.1], [2.5])
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    integral = (0.5 * (p.log_prob(x) + q.log_prob(x))).exp().sum() * 60 / 60_000
    torch.testing.assert_close(bhattacharyya(p, q), integral, rtol=0, atol=1e-8)


@pytest.mark.parametrize("theta, distance", [(0.1, 4.2919), (0.15, 3.8958), (0.2, 3.5882)])
def test_distance_at_which_equal_components_are_apart_enough(theta, distance):
    assert bhattacharyya(table([0.0], [1.0]), table([distance], [1.0])).item() == pytest.approx(theta, abs=1e-5)


@pytest.mark.parametrize("sizes, num_pairs", [([3], 3), ([10], 45), ([4, 3, 2, 3, 2, 2, 2, 2], 17)])
def test_only_components_of_one_variable_are_kept_apart(sizes, num_pairs):
    model = parted(sizes, u_dim=1)
    assert model.pairs.shape == (2, num_pairs)
    variable = model.classes.variable
    assert (variable[model.pairs[0]] == variable[model.pairs[1]]).all() and (model.pairs[0] > model.pairs[1]).all()
    with torch.no_grad():  # those of each variable far apart, those of different variables on top of each other
        model.u_prior.mu.copy_(10.0 * (torch.arange(sum(sizes)) - model.classes.first[variable])[:, None])
    overlap = costs(model, images())["overlap"]
    gradients = torch.autograd.grad(overlap, [*model.u_prior.parameters()])
    assert overlap == 0 and all((g == 0).all() for g in gradients)
    with torch.no_grad():
        model.u_prior.mu.zero_()
        model.u_prior.raw_logvar.zero_()
    assert costs(model, images())["overlap"].item() == pytest.approx(num_pairs * (1 - model.weights.overlap_threshold))


def test_kl_to_components():
    q = table([1.0], [0.25])
    components = table([[0.0], [3.0]], [[1.0], [4.0]])
    kl = kl_normal(q, components)
    torch.testing.assert_close(kl, torch.tensor([0.818147, 1.417544], dtype=torch.float64), rtol=0, atol=1e-6)
    assert (0.5 * kl.sum()).item() == pytest.approx(1.117846, abs=1e-6)
    a, b = (Normal(torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 4, dtype=torch.float64)) for _ in "ab")
    normals = [torch.distributions.Normal(t.mu, (0.5 * t.logvar).exp()) for t in (a, b)]
    torch.testing.assert_close(kl_normal(a, b), torch.distributions.kl_divergence(*normals).sum(-1))
    assert kl_normal(a, a).abs().max() < 1e-12


def test_kl_of_u_is_averaged_over_the_values_of_each_variable():
    model = parted([3, 2])
    h, log_c = model.features(images()["image"]), model.class_log_probs(images()["image"])
    q_u = model.posterior_u(h, log_c.exp())
    wanted = torch.zeros(8)
    for s, j in enumerate(model.classes.variable.tolist()):
        p = torch.distributions.Normal(model.u_prior.mu[s], (0.5 * model.u_prior().logvar[s]).exp())
        q = torch.distributions.Normal(q_u.mu[:, j], (0.5 * q_u.logvar[:, j]).exp())
        wanted += log_c[:, s].exp() * torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(model.kl_u(h, log_c, q_u), wanted)


def test_exact_and_sampled_kl_of_u_are_one_where_the_class_is_sure():
    sampled, exact = parted([3, 2]), parted([3, 2], u_kl="exact")
    h = sampled.features(images()["image"])
    log_c = (sampled.classes.hard(sampled.c_head(h)) + 1e-30).log()
    q_u = sampled.posterior_u(h, log_c.exp())
    torch.testing.assert_close(exact.kl_u(h, log_c, q_u), sampled.kl_u(h, log_c, q_u))
    log_c = sampled.class_log_probs(images()["image"])
    assert (exact.kl_u(h, log_c, q_u) - sampled.kl_u(h, log_c, q_u)).abs().max() > 1e-4


def test_log_variances_of_components_are_bounded():
    model = parted(3, u_dim=1)
    with torch.no_grad():
        model.u_prior.raw_logvar.copy_(torch.tensor([[0.0], [20.0], [-20.0]]))
    assert model.u_prior().logvar.flatten().tolist() == pytest.approx([-1, 1, -3])


def test_components_part_from_any_start_and_overlap_without_the_penalty():
    for seed in range(5):
        model = parted(3, u_dim=1, overlap_threshold=0.1)
        torch.manual_seed(seed)
        with torch.no_grad():
            model.u_prior.mu.normal_(), model.u_prior.raw_logvar.normal_()
        optimizer = torch.optim.Adam(model.u_prior.parameters(), lr=5e-2)

        def coefficients(model=model):
            p_u = model.u_prior()
            return bhattacharyya(p_u[model.pairs[0]], p_u[model.pairs[1]])

        first = coefficients().max().item()
        for _ in range(200):
            optimizer.zero_grad()
            (coefficients() - 0.1).relu().sum().backward()
            optimizer.step()
        assert first > 0.1 and coefficients().max() <= 0.1 + 1e-4


def test_capacities_and_slope_at_the_steps_of_the_presets():
    """Functions of the step alone: step t is the one after t - 1 main batches."""
    ramp = {"z_capacity": Linear(0.0, 7.0, 100_000), "gate_slope": Linear(1.0, 8.0, 35_000)}
    model = parted(**ramp)
    for steps, value in ((0, 7e-5), (49_999, 3.5), (99_999, 7.0), (999_999, 7.0)):
        model.trained_steps = steps
        kl_z = costs(model, images())["kl_z"].mean()
        assert costs(model, images())["z_gap"].item() == pytest.approx(abs(value - kl_z.item()), abs=1e-5)
    for steps, slope in ((0, 1.0002), (17_499, 4.5), (34_999, 8.0), (10**6, 8.0)):
        model.trained_steps = steps
        assert model.slope() == pytest.approx(slope) and model.eval().slope() == pytest.approx(slope)
        model.gate = replace(model.gate, eval_slope=8.0)
        assert model.slope() == 8 and model.train().slope() == pytest.approx(slope)
        model.gate = replace(model.gate, eval_slope=None)


# ---- structure ------------------------------------------------------------------------------------------------------


def test_each_u_is_read_through_its_own_class_alone():
    model = parted([3, 2, 4], u_dim=2)
    h = model.features(images()["image"]).detach()
    c = torch.rand(8, 9, requires_grad=True)
    for j in range(3):
        (by_c,) = torch.autograd.grad(model.posterior_u(h, c).mu[:, j].sum(), c)
        own = model.classes.variable == j
        assert (by_c[:, own].abs() > 0).all() and (by_c[:, ~own] == 0).all()


def test_class_reaches_the_image_through_u_alone():
    model = parted(3)
    codes = model.sample_prior(4)
    other = codes | {"c": codes["c"].roll(1, 1)}
    assert torch.equal(model.decode(codes), model.decode(other))
    with pytest.raises(ValueError, match=r"a code \[B, 3\] for block 'c'"):
        model.decode({name: codes[name] for name in "zu"})


def test_gate_can_be_taken_away():
    model = parted(3, gate=False)
    h = model.features(images()["image"])
    first, second = (model.posterior_u(h, model.classes.code(torch.full((8, 1), k))).mu for k in (0, 1))
    assert torch.equal(first, second)


def test_posterior_of_each_value_is_the_posterior_at_that_value():
    model = parted([3, 2])
    h = model.features(images()["image"])
    each = model.posterior_of_each_value(h)
    for k in model.classes.combinations():
        q = model.posterior_u(h, k.expand(8, -1))
        for s in k.nonzero()[:, 0].tolist():
            torch.testing.assert_close(each.mu[:, s], q.mu[:, model.classes.variable[s]])
            torch.testing.assert_close(each.logvar[:, s], q.logvar[:, model.classes.variable[s]])


def test_changing_the_class_keeps_z_and_the_place_in_the_component():
    model = parted([3, 2])
    codes = {name: q.mean for name, q in model.encode(images()).items()}
    old = torch.stack([codes[name].argmax(1) for name in ("c1", "c2")], 1)
    new = (old + 1) % torch.tensor([3, 2])
    changed = model.with_class(codes, new)
    assert torch.equal(changed["z"], codes["z"])
    p = model.u_prior()
    for codes_, classes in ((codes, old), (changed, new)):
        at = p[classes + model.classes.first]
        codes_["place"] = (codes_["u"].view(8, 2, 2) - at.mu) / (0.5 * at.logvar).exp()
    torch.testing.assert_close(changed["place"], codes["place"], rtol=1e-4, atol=1e-4)
    back = model.with_class({name: changed[name] for name in model.blocks}, old)
    torch.testing.assert_close(back["u"], codes["u"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "argument, term",
    [
        ("z_gamma", "z_gap"),
        ("u_gamma", "u_gap"),
        ("prior_weight", "prior_c"),
        ("entropy_weight", "entropy_c"),
        ("overlap_weight", "overlap"),
    ],
)
def test_a_weight_reaches_its_own_term_and_no_other(argument, term):
    def run(weight):
        model = parted([3, 2], **{argument: weight})
        torch.manual_seed(1)
        terms, parameters = costs(model, images()), list(model.parameters())
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        return terms, {t: torch.autograd.grad(terms[t].mean(), parameters, **options) for t in ("loss", term)}

    (off, off_gradients), (on, on_gradients) = run(0.0), run(2.5)
    assert all(torch.equal(off[t], on[t]) for t in off if t != "loss")
    torch.testing.assert_close(on["loss"] - off["loss"], 2.5 * on[term].mean(), rtol=1e-3, atol=1e-3)
    for with_weight, without, own in zip(on_gradients["loss"], off_gradients["loss"], on_gradients[term]):
        torch.testing.assert_close(with_weight - without, 2.5 * own, rtol=1e-3, atol=1e-3)


# ---- the bound ------------------------------------------------------------------------------------------------------


def test_bound_sums_the_classes_out():
    """Against the sum over all combinations written out, for the same draws."""
    model, batch, k = parted([3, 2], class_probs=[0.5, 0.3, 0.2, 0.9, 0.1]), images(4), 3
    seen = {}
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.update(codes=inputs[0], params=output))
    with torch.no_grad():
        log_w = model.log_weights(batch, k)
        h, log_c = model.features(batch["image"]), model.class_log_probs(batch["image"])
        z, u = seen["codes"].view(k, 4, -1).split([3, 4], dim=2)
        log_q = log_p = torch.full((k, 4), -torch.inf)
        for code in model.classes.combinations():
            q_u = model.posterior_u(h, code.expand(4, -1)).map(lambda t: t.flatten(1))
            p_u = model.u_prior()[code.nonzero()[:, 0]].map(lambda t: t.flatten())
            log_q = torch.logaddexp(log_q, (log_c @ code) + q_u.log_prob(u))
            log_p = torch.logaddexp(log_p, (model.classes.probs.log() @ code) + p_u.log_prob(u))
        q_z = model.encode(batch)["z"]
        p_z = Normal(torch.zeros(3), torch.zeros(3))
        rec = model.likelihood.log_prob(batch["image"].repeat(k, 1, 1, 1), seen["params"]).view(k, 4)
    torch.testing.assert_close(log_w, rec + p_z.log_prob(z) - q_z.log_prob(z) + log_p - log_q)


# ---- training -------------------------------------------------------------------------------------------------------


def test_a_labelled_step_changes_the_class_path_alone(monkeypatch):
    model = parted(10, image_shape=(1, 8, 8), optimizer=partial(torch.optim.SGD, lr=0.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, 2, data=digits(50))
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"encoder", "c_head"}


def test_the_labelled_step_comes_before_the_main_one_and_counts_none():
    model, calls = parted(10, image_shape=(1, 8, 8)), []
    for name in ("supervised_step", "objective"):
        monkey = getattr(model, name)
        setattr(model, name, lambda *a, monkey=monkey, name=name: (calls.append((name, model.step)), monkey(*a))[1])
    trainer = fit(model, 3, data=digits(50), limit_val_batches=0)
    assert calls == [(name, step) for step in range(3) for name in ("supervised_step", "objective")]
    assert trainer.global_step == model.step == 3 and {"ce", "rec"} <= model.terms.keys()


class Poisoned(Digits):
    """Every label but those of the first 30 training images is wrong."""

    def load(self):
        arrays = super().load()
        allowed = self._split(arrays)["train"][:30].numpy()
        wrong = (arrays.label + 1) % 10
        wrong[allowed] = arrays.label[allowed]
        arrays.label = wrong
        return arrays


def test_labels_outside_the_budget_never_reach_training():
    weights = []
    for kind in (Digits, Poisoned):
        model = parted(10, image_shape=(1, 8, 8), augment=torch.nn.Identity(), consistency_weight=1.0)
        fit(model, 4, data=kind(size=8, batch_size=32, labelled=30, label_pick="first_n"))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_unknown_labels_of_several_variables_cost_nothing():
    model, batch = parted([3, 2]), labelled(2, 2)
    log_c = model.class_log_probs(batch["supervised"]["image"])
    label = batch["supervised"]["label"]
    label[0] = -1
    label[1, 0] = -1
    rows = torch.arange(2, len(label))
    known = -log_c[rows, label[2:, 0]].sum() - log_c[rows, 3 + label[2:, 1]].sum() - log_c[1, 3 + label[1, 1]]
    torch.testing.assert_close(model.supervised_terms(batch)["ce"].value, known / len(label))


def test_consistency_asks_for_a_class_only_of_images_that_are_sure():
    model = parted(3, augment=torch.nn.Identity(), consistency_weight=1.0, consistency_threshold=0.5)
    with torch.no_grad():
        model.c_head.weight.mul_(20)
    batch = labelled()
    sure, pseudo = model.class_log_probs(batch["image"]).exp().max(1)
    assert 0 < (sure >= 0.5).sum() and (model.supervision.consistency_threshold == 0.5)
    got = model.supervised_terms(batch)["consistency"].value
    torch.testing.assert_close(got, torch.where(sure >= 0.5, -sure.log(), 0.0).mean())
    assert not torch.autograd.grad(got, model.z_head.weight, allow_unused=True)[0]


def test_collapse_is_told_and_a_setting_that_makes_it_is_refused(caplog):
    with pytest.raises(ValueError, match="entropy_weight must be at most prior_weight=.* without labels, got"):
        parted(10, supervised=False)
    model = parted(10, image_shape=(1, 8, 8), supervised=False, entropy_weight=0.0)
    with torch.no_grad():
        model.c_head.bias[0] = 20.0
    with caplog.at_level("WARNING"):
        fit(model, 1, val_check_interval=1)
    assert "the classes collapse: KL(q(c) || p(c)) over the validation images is 2.3" in caplog.text


@pytest.mark.parametrize("options", [{"augment": RandomAffine(), "consistency_weight": 1.0}, {"augment": RandomAffine()}])
def test_settings_of_the_labelled_step_are_refused_without_it(options):
    parted(**options)
    with pytest.raises(ValueError, match="augment and consistency_weight=.* have no effect with supervised=false"):
        parted(supervised=False, entropy_weight=1.0, **options)


def test_class_balance_can_be_averaged_over_past_batches():
    model = parted(3, c_momentum=0.9)
    log_c = torch.tensor([[0.8, 0.1, 0.1]]).log()
    torch.testing.assert_close(model.average(log_c).exp(), 0.9 / 3 + 0.1 * log_c[0].exp())
    torch.testing.assert_close(model.past_c, 0.9 / 3 + 0.1 * log_c[0].exp())
    model.eval().average(log_c)
    torch.testing.assert_close(model.past_c, 0.9 / 3 + 0.1 * log_c[0].exp())


def test_past_batches_take_no_weight_from_the_gradient_of_the_batch():
    """At the same average, the gradient of the prior's term is that without momentum."""
    gradients = []
    for c_momentum in (0.0, 0.9):
        model = parted(3, c_momentum=c_momentum)
        log_c = torch.tensor([[0.8, 0.1, 0.1]]).log().requires_grad_()
        model.past_c.copy_(log_c[0].exp().detach())
        gradients += torch.autograd.grad(model.classes.kl(model.average(log_c)).sum(), log_c)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0.1


@pytest.mark.parametrize("options", [{}, {"prior_lr": 0.05}, {"prior_lr": 0.0}])
def test_priors_can_learn_at_a_rate_of_their_own(options):
    model = parted(10, image_shape=(1, 8, 8), **options)
    start = model.u_prior.mu.clone()
    fit(model, 1, data=digits(50))
    assert torch.equal(model.u_prior.mu, start) == (options.get("prior_lr") == 0)
    groups = model.configure_optimizers()[0][0].param_groups
    assert [len(group["params"]) for group in groups][1] == 2
    assert groups[1]["lr"] == options.get("prior_lr", groups[0]["lr"])


def test_learning_rates_fall_on_a_plateau_of_their_own_loss(monkeypatch):
    """The loss falls by 1 a step, the cross-entropy stays: of means over 2 steps one is tolerated, the next lowers it."""
    rule = Plateau(2, patience=1, threshold=0.01, cooldown=0)
    adam = partial(torch.optim.Adam, lr=0.1)
    model = parted(
        10, image_shape=(1, 8, 8), plateau=rule, supervised_plateau=rule, supervised_optimizer=adam, optimizer=adam
    )
    lower, seen = PartedVAE.lower_rates, []

    def scripted(self, values):
        lower(self, {"loss": torch.tensor(100.0 - self.step), "ce": torch.tensor(3.0)})
        seen.append([group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups])

    monkeypatch.setattr(PartedVAE, "lower_rates", scripted)
    fit(model, 10, data=digits(50))
    assert [rates[:-1] for rates in seen] == [[0.1, 0.1]] * 10, "main weights and components"
    assert [rates[-1] for rates in seen] == [0.1] * 5 + [0.05] * 4 + [0.025]


def test_a_mean_of_a_plateau_is_over_all_its_steps():
    rule = Plateau(3)
    model = parted(10, image_shape=(1, 8, 8), plateau=rule)
    losses, means = [], []
    keep, step = model.keep, torch.optim.lr_scheduler.ReduceLROnPlateau.step
    model.keep = lambda loss, terms: (losses.append(loss.item()), keep(loss, terms))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim.lr_scheduler.ReduceLROnPlateau, "step", lambda s, mean: (means.append(mean), step(s, mean))
        )
        fit(model, 7, data=digits(50))
    assert means == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:6]) / 3], rel=1e-6)
    assert model.since_mean.tolist() == pytest.approx([losses[6]], rel=1e-6), "a checkpoint has what is not averaged yet"
    assert not any(name == "since_mean" for name in parted().state_dict()), "checkpoints without a plateau stay as they are"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"supervised": False, "entropy_weight": 1.0, "supervised_plateau": Plateau(5)}, "supervised_plateau has no effect"),
        ({"lr_schedule": Linear(1.0, 0.0, 10), "plateau": Plateau(5)}, "lr_schedule and a plateau both set"),
    ],
)
def test_a_plateau_that_cannot_act_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        parted(**options)


def test_small_layers_start_at_the_scale_of_the_masked_ones_or_at_their_own():
    sizes = [4, 3, 2, 3, 2, 2, 2, 2]
    official, own = (parted(sizes, feature_dim=256, u_dim=1, init=init) for init in ("official", "per_variable"))
    assert official.u_weight.std().item() == pytest.approx(0.0127, rel=0.05)
    assert own.u_weight.std().item() == pytest.approx(0.0361, rel=0.05)
    assert official.gate_weight.std().item() == pytest.approx(0.129, rel=0.05)
    assert own.gate_weight[-4:].std().item() == pytest.approx(1 / (2 * 3) ** 0.5, rel=0.05)


def test_prior_draws_are_of_the_classes_and_their_components():
    model = parted([2, 3], u_dim=1, class_probs=[0.8, 0.2, 0.2, 0.3, 0.5])
    torch.manual_seed(0)
    codes = model.sample_prior(40_000)
    shares = torch.cat([codes["c1"].mean(0), codes["c2"].mean(0)])
    torch.testing.assert_close(shares, model.classes.probs, rtol=0, atol=0.01)
    for k in range(2):
        u = codes["u"][codes["c1"][:, k] == 1, 0]
        assert u.mean().item() == pytest.approx(model.u_prior.mu[k, 0].item(), abs=0.04)
        assert u.var().log().item() == pytest.approx(model.u_prior().logvar[k, 0].item(), abs=0.06)


def test_entropy_and_balance_are_told_apart():
    """Half the batch sure of one class, half of another: balanced and confident, which a KL for each image is not."""
    model = parted(2)
    model.class_log_probs = None
    log_c = (torch.eye(2).repeat(4, 1) + 1e-30).log()
    assert model.classes.kl(model.average(log_c)).item() == pytest.approx(0, abs=1e-6)
    assert model.classes.entropy(log_c).sum() == pytest.approx(0, abs=1e-6)
    assert model.classes.kl(log_c).mean().item() == pytest.approx(log(2))


def test_distorted_images_do_not_enter_the_averages_of_batch_norm():
    for weight in (0.0, 1.0):
        supervision = {"augment": RandomAffine(rotate=90.0), "consistency_weight": weight}
        model = parted(network=Conv(channels=(4,), hidden=[], batch_norm=True), **supervision).train()
        (norm, *_) = [layer for layer in model.encoder.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        model.supervised_terms(labelled())
        assert norm.num_batches_tracked == 0
        model.objective(labelled())
        assert norm.num_batches_tracked == 1


def test_without_the_gate_every_weight_that_is_trained_has_a_gradient():
    model = parted(gate=False)
    model.total(model.objective(labelled())).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert parted().gate_weight.requires_grad
