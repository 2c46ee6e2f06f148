"""Categorical variables, and the contract of models/base.py held by the models that have them."""

from math import log

import pytest
import torch
import torch.nn.functional as F

from tests.models.builders import (
    DISCRETE,
    check_weights_belong_to_their_image_and_draw,
    costs,
    fit,
    images,
    model_class,
    weights_of,
)
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, CategoricalVariables, Normal, kl_standard, noise
from vae_zoo.nets import MLP
from vae_zoo.utils.errors import UserError

every_model = pytest.mark.parametrize("name", DISCRETE)
both = pytest.mark.parametrize("num_classes", [3, [3, 2]], ids=["one", "two"])


def build(name, num_classes=3, image_shape=(1, 6, 6), **options):
    torch.manual_seed(0)
    if name == "parted_vae":
        options |= {"u_dim": 2}
    options = {"z_dim": 3, "feature_dim": 16, "network": MLP(hidden=(16,)), "likelihood": Bernoulli()} | options
    return model_class(name)(image_shape, num_classes=num_classes, **options)


def labelled(model, batch_size=8):
    batch, sizes = images(batch_size), model.classes.sizes
    label = torch.stack([torch.arange(batch_size) % size for size in sizes], 1)
    label = label[:, 0] if len(sizes) == 1 else label
    return batch | {"supervised": images(batch_size, seed=1) | {"label": label}}


# ---- categorical variables ------------------------------------------------------------------------------------------

SIZES = (4, 2, 3)


@pytest.fixture
def variables():
    return CategoricalVariables(SIZES)


def test_log_softmax_is_that_of_each_variable(variables):
    logits = torch.randn(5, 9, requires_grad=True)
    log_probs = variables.log_softmax(logits)
    wanted = torch.cat([part.log_softmax(-1) for part in logits.split(SIZES, -1)], -1)
    torch.testing.assert_close(log_probs, wanted)
    torch.testing.assert_close(variables.sum(log_probs.exp()), torch.ones(5, 3))
    zero = torch.zeros(1, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(variables.log_softmax(zero)[0, [0, 4, 6]].sum(), zero)
    assert (gradient.abs() > 0).all(), "logits of exactly 0 learn"


def test_what_is_not_finite_stays_in_its_variable(variables):
    logits = torch.zeros(1, 9)
    logits[0, 1] = torch.inf
    assert variables.log_softmax(logits)[:, 4:].isfinite().all()


def test_gumbel_softmax_is_hard_when_cold_and_flat_when_hot(variables):
    torch.manual_seed(0)
    log_probs = variables.log_softmax(torch.randn(9)).expand(40_000, 9)
    cold = variables.relaxed(log_probs, 1e-3)
    assert cold.isfinite().all() and ((cold < 1e-3) | (cold > 1 - 1e-3)).double().mean() > 0.99
    torch.testing.assert_close(cold.mean(0), log_probs[0].exp(), rtol=0, atol=0.01)
    torch.testing.assert_close(variables.draw(log_probs).mean(0), log_probs[0].exp(), rtol=0, atol=0.01)
    hot = variables.relaxed(log_probs[:100], 1e4)
    torch.testing.assert_close(hot, (1 / torch.tensor(SIZES)[variables.variable]).expand(100, 9), rtol=0, atol=1e-2)
    assert (variables.sum(variables.relaxed(log_probs, 0.67)) - 1).abs().max() < 1e-5


def test_gumbel_softmax_is_torchs(variables, monkeypatch):
    log_probs = variables.log_softmax(torch.randn(3, 9))
    u = torch.rand(3, 9)
    monkeypatch.setattr(noise, "uniform", lambda like, shape=(): u)
    g = torch.distributions.Gumbel(torch.zeros(3, 9), torch.ones(3, 9)).icdf(u)
    wanted = torch.cat([(part / 0.67).softmax(-1) for part in (log_probs + g).split(SIZES, -1)], -1)
    torch.testing.assert_close(variables.relaxed(log_probs, 0.67), wanted, rtol=1e-4, atol=1e-5)


def test_codes_and_classes_are_each_others_inverse(variables):
    combinations = variables.combinations()
    assert combinations.shape == (24, 9) and len(combinations.unique(dim=0)) == 24
    classes = variables.padded(combinations, -1.0).argmax(-1)
    assert torch.equal(variables.code(classes), combinations)
    assert torch.equal(variables.hard(combinations + 0.1 * torch.rand(24, 9)), combinations)
    assert variables.code(torch.tensor([[-1, 1, -1]])).tolist() == [[0, 0, 0, 0, 0, 1, 0, 0, 0]]
    assert [part.shape[1] for part in variables.split(combinations).values()] == [*SIZES]


def test_sums_over_values_stay_in_float32_under_autocast(variables):
    log_probs, rows = variables.log_softmax(torch.randn(6, 9)), torch.randn(6, 9, 4)
    functions = variables.sum, variables.kl, variables.entropy, variables.log_prior
    wanted = [function(log_probs) for function in functions] + [variables.sum_rows(rows)]
    with torch.autocast("cpu", torch.bfloat16):
        got = [function(log_probs) for function in functions] + [variables.sum_rows(rows)]
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(got, wanted))
    torch.testing.assert_close(wanted[-1], torch.stack([part.sum(1) for part in rows.split(SIZES, 1)], 1))


@every_model
def test_terms_and_weights_stay_in_float32_under_autocast(name):
    model = build(name, [3, 2])
    batch = labelled(model)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        values = [
            *costs(model, batch).values(),
            *model.kl_per_dim(model.encode(batch)).values(),
            model.log_weights(batch, 2),
        ]
    assert {value.dtype for value in values} == {torch.float32}


def test_entropy_kl_and_cross_entropy_are_those_of_torch(variables):
    log_probs = variables.log_softmax(torch.randn(6, 9))
    labels = torch.stack([torch.randint(size, (6,)) for size in SIZES], 1)
    labels[0, 1] = -1
    cross_entropy = torch.zeros(6)
    for j, part in enumerate(log_probs.split(SIZES, -1)):
        q, p = torch.distributions.Categorical(logits=part), torch.distributions.Categorical(torch.ones(SIZES[j]))
        torch.testing.assert_close(variables.entropy(log_probs)[:, j], q.entropy())
        torch.testing.assert_close(variables.kl(log_probs)[:, j], torch.distributions.kl_divergence(q, p))
        cross_entropy += F.cross_entropy(part, labels[:, j], reduction="none", ignore_index=-1)
    torch.testing.assert_close(variables.cross_entropy(log_probs, labels), cross_entropy)


def test_sure_and_uniform_classes_have_the_known_values():
    variables = CategoricalVariables([10])
    one, uniform = torch.full((10,), -torch.inf), torch.full((10,), -log(10))
    one[3] = 0
    for log_probs, kl, entropy in ((one, log(10), 0), (uniform, 0, log(10))):
        assert variables.kl(log_probs).item() == pytest.approx(kl, abs=1e-6)
        assert variables.entropy(log_probs).item() == pytest.approx(entropy, abs=1e-6)


def test_priors_are_normalised_or_refused():
    published = CategoricalVariables([4, 2], [0.42, 0.33, 0.18, 0.06, 0.5, 0.5])
    torch.testing.assert_close(published.sum(published.probs), torch.ones(2))
    for sizes, probs, sentence in (
        ([4], [0.5, 0.3, 0.1, 0.05], "must sum to 1, got"),
        ([4], [0.5, 0.5], "needs 4 numbers"),
        ([1], None, "needs 2 values or more"),
        ([3], [0.5, 0.5, 0.0], r"needs 3 numbers > 0, one for each value, got \[0.5, 0.5, 0.0\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            CategoricalVariables(sizes, probs)


# ---- the contract ---------------------------------------------------------------------------------------------------


@every_model
@both
def test_codes_and_images_have_the_shapes_and_ranges_of_the_contract(name, num_classes):
    model = build(name, num_classes).eval()
    posterior, gaussian = model.encode(images(4)), [b for b, block in model.blocks.items() if block.kind == "gaussian"]
    assert posterior.keys() == model.blocks.keys() == model.sample_prior(2).keys()
    assert [*model.kl_per_dim(posterior)] == gaussian
    for block, q in posterior.items():
        size = model.blocks[block].size
        assert q.mean.shape == q.rsample().shape == (4, size) and model.sample_prior(7)[block].shape == (7, size)
        assert q.rsample((2,)).shape == (2, 4, size)
    for image in (
        model.decode({b: q.rsample() for b, q in posterior.items()}),
        model.reconstruct(images(4)),
        model.sample(4),
    ):
        assert image.shape == (4, 1, 6, 6) and 0 <= image.min() < image.max() <= 1
    classes = torch.zeros(4, len(model.classes.sizes), dtype=torch.long)
    codes = model.sample_class(classes)
    assert torch.equal(torch.cat([codes[b] for b in model.classes.names()], 1), model.classes.code(classes))
    assert torch.equal(model.decode(model.with_class(codes, classes)), model.decode(codes))


@every_model
def test_images_are_encoded_independently_of_their_batch(name):
    model, x = build(name), images()["image"]
    for block, q in model.encode(x).items():
        torch.testing.assert_close(q.mean, torch.cat([model.encode(image[None])[block].mean for image in x]))


@every_model
@both
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_loss_is_the_sum_of_the_weighted_terms(name, num_classes, training):
    model = build(name, num_classes).train(training)
    batch = labelled(model) if training else images()
    terms, weights = costs(model, batch), weights_of(model, batch)
    assert all(value.shape in ((), (8,)) and value.isfinite().all() for value in terms.values())
    torch.testing.assert_close(terms["loss"], sum(w * terms[term].mean() for term, w in weights.items()))
    assert set(model.named_values(model.objective(batch))) >= {f"weighted/{term}" for term in weights}


@every_model
@both
def test_weights_belong_to_their_image_and_draw(name, num_classes):
    check_weights_belong_to_their_image_and_draw(build(name, num_classes))


@every_model
@both
def test_bound_rises_with_the_draws_and_is_the_same_for_all_posteriors_of_the_class(name, num_classes):
    """log p(x) does not know q(c | x): with many draws its bound hardly moves when the class head does."""
    model, batch = build(name, num_classes), images(2)
    if name == "parted_vae":  # components that the posteriors cover, so that the estimate is a good one
        for p in model.u_prior.parameters():
            p.data.mul_(0.2)
    bounds = []
    for shift in (0.0, 1.0):
        with torch.no_grad():
            model.c_head.bias[0] += shift
            torch.manual_seed(0)
            log_w = model.log_weights(batch, 20_000)
        one, many = log_w.mean(0), log_w.logsumexp(0) - log(len(log_w))
        assert (one < many).all()
        bounds.append(many)
    torch.testing.assert_close(bounds[0], bounds[1], rtol=0, atol=0.03)


def test_bound_of_m2_sums_the_classes_out():
    model, batch, k = build("ss_vae"), images(4), 2
    seen = {}
    model.decoder.register_forward_hook(lambda module, inputs, output: seen.update(codes=inputs[0], params=output))
    with torch.no_grad():
        log_w = model.log_weights(batch, k)
        z = seen["codes"].view(k, 4, 3, -1)[:, :, 0, :3]
        h, log_c = model.features(batch["image"]), model.class_log_probs(batch["image"])
        log_q = log_p = torch.full((k, 4), -torch.inf)
        for c in range(3):
            code = F.one_hot(torch.full((4,), c), 3).float()
            rec = model.likelihood.log_prob(
                batch["image"].repeat(k, 1, 1, 1), model.decoder(torch.cat([z, code.expand(k, -1, -1)], 2).flatten(0, 1))
            ).view(k, 4)
            log_q = torch.logaddexp(log_q, log_c[:, c] + model.posterior_z(h, code).log_prob(z))
            log_p = torch.logaddexp(log_p, rec - log(3))
        p_z = Normal(torch.zeros(3), torch.zeros(3))
    torch.testing.assert_close(log_w, log_p + p_z.log_prob(z) - log_q)


def test_m2_is_minus_the_bound_in_expectation():
    """rec + kl_z + kl_c against the ELBO by brute force: draws of c, then of z."""
    model = build("ss_vae")
    one = images(1)
    many = {"image": one["image"].expand(4000, -1, -1, -1)}
    torch.manual_seed(0)
    with torch.no_grad():
        terms = costs(model, many)
        minus_elbo = (terms["rec"] + terms["kl_z"] + terms["kl_c"]).mean()
        h, log_c = model.features(many["image"]), model.class_log_probs(many["image"])
        c = model.classes.draw(log_c)
        q_z = model.posterior_z(h, c)
        z = q_z.rsample()
        log_px = model.likelihood.log_prob(many["image"], model.decoder(torch.cat([z, c], 1)))
        drawn = log_px - kl_standard(q_z) - log(3) - (c * log_c).sum(1)
    assert minus_elbo.item() == pytest.approx(-drawn.mean().item(), abs=4 * drawn.std().item() / 4000**0.5 + 0.05)


@pytest.mark.parametrize("labelled, share", [(50, 50), (None, None)], ids=["few", "all"])
def test_weights_of_m2_are_the_papers_on_the_scale_of_one_image(labelled, share):
    """J = sum_u U + sum_l L + 0.1 N mean_l ce, divided by the N images of the unlabelled stream."""
    model, data = build("ss_vae", 10, image_shape=(1, 8, 8)), Digits(size=8, batch_size=32, labelled=labelled)
    data.serve(model)
    N, batch = data.num_train, data.train_batch(0)
    weights = weights_of(model, batch)
    assert weights["labelled"] == pytest.approx((share or N) / N) and weights["ce"] == pytest.approx(0.1 * N / N)
    terms = {name: value.mean() for name, value in costs(model, batch).items()}
    unlabelled = terms["rec"] + terms["kl_z"] + terms["kl_c"]
    papers = (N * unlabelled + (share or N) * terms["labelled"] + 0.1 * N * terms["ce"]) / N
    noise_of_draws = 0.02 * papers.abs()
    assert (model.total(model.objective(batch)) - papers).abs() < noise_of_draws
    given = build("ss_vae", 10, image_shape=(1, 8, 8), labelled_weight=1.0, ce_weight=50.0)
    data.serve(given)
    assert {name: weights_of(given, batch)[name] for name in ("labelled", "ce")} == {"labelled": 1.0, "ce": 50.0}


def test_joint_vae_holds_the_capacity_of_the_classes_at_what_they_can_carry():
    model = build("joint_vae", [3, 2], c_capacity=50.0)
    terms = costs(model, images())
    assert terms["c_gap"].item() == pytest.approx(log(6) - terms["kl_c"].mean().item(), rel=1e-5)
    probs = [0.7, 0.2, 0.1, 0.9, 0.1]
    model = build("joint_vae", [3, 2], c_capacity=50.0, class_probs=probs)
    terms, entropy = costs(model, images()), -sum(p * log(p) for p in probs)
    assert terms["c_gap"].item() == pytest.approx(abs(entropy - terms["kl_c"].mean().item()), rel=1e-5)


# ---- training -------------------------------------------------------------------------------------------------------


@every_model
def test_loss_falls_and_validation_does_not_shift_training(name):
    states, recs = [], []
    for interval in (5, 10_000):
        model = build(name, 10, image_shape=(1, 8, 8))
        with torch.no_grad():
            recs.append(costs(model, images(32, (1, 8, 8)))["rec"].mean())
        fit(model, 20, data=Digits(size=8, batch_size=32, labelled=50), val_check_interval=interval)
        states.append(model.state_dict())
        recs.append(model.terms["rec"].value.mean())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert recs[1] < recs[0]


@pytest.mark.parametrize("name", ["parted_vae", "ss_vae"])
@pytest.mark.parametrize("num_classes, sentence", [(3, "set model.num_classes=10"), ([10, 2], "the data set has 1 label")])
def test_variables_that_do_not_fit_the_labels_are_refused(name, num_classes, sentence):
    with pytest.raises(UserError, match=sentence):
        fit(build(name, num_classes, image_shape=(1, 8, 8)), 1)


def test_validation_tells_how_many_classes_are_used():
    model, logged = build("parted_vae", 10, image_shape=(1, 8, 8)), {}
    model.log_values = logged.update
    with torch.no_grad():
        model.c_head.bias[2] = 30.0
    fit(model, 1, data=Digits(size=8, batch_size=32, labelled=50), val_check_interval=1)
    assert logged["val/classes_used"] == 1 and logged["val/class_balance"] == pytest.approx(log(10), abs=0.01)
    assert 0 < logged["val/accuracy"] < 0.3


def test_models_have_what_only_they_can_say():
    for name in DISCRETE:
        kind = model_class(name)
        assert hasattr(kind, "log_weights")


@every_model
@both
def test_reconstructions_and_swaps_decode_one_class_and_no_bit_of_several(name, num_classes):
    """As the objective does in evaluation; probabilities are what the classes are read by, never drawn by."""
    model, batch = build(name, num_classes).eval(), images(8)
    posterior, codes = model.encode(batch), model.codes(batch)
    for block in model.classes.names():
        probs = posterior[block].probs
        assert probs.max() < 0.9, "nothing is sure before training"
        torch.testing.assert_close(codes[block], F.one_hot(probs.argmax(1), probs.shape[1]).float())
    torch.testing.assert_close(codes["z"], posterior["z"].mu)
    torch.testing.assert_close(model.reconstruct(batch), model.decode(codes))
    if name != "parted_vae":  # whose image depends on c through u alone
        soft = model.decode({block: q.mean for block, q in posterior.items()})
        assert not torch.allclose(model.reconstruct(batch), soft, atol=1e-4)
