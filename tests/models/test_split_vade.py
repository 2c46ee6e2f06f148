"""SPLIT-VaDE: the contract of models/base.py and discrete.py, its mixture, and the start of the mixture."""

from functools import partial
from math import log

import pytest
import torch
from lightning import Callback
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MixtureSameFamily, kl_divergence
from torch.distributions import Normal as TorchNormal

from tests.models.builders import (
    build,
    check_gradient_of_weight_is_that_of_its_term,
    check_weights_belong_to_their_image_and_draw,
    costs,
    fit,
    images,
    training_data,
    weights_of,
)
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, Normal
from vae_zoo.metrics import clustering
from vae_zoo.models import SplitVaDE
from vae_zoo.nets import MLP, PatchShuffle, RandomAffine
from vae_zoo.training.trainer import Trainer
from vae_zoo.utils.errors import UserError

K, D, L = 4, 3, 2


def vade(image_shape=(1, 6, 6), **options):
    """After the start of the mixture, with components that differ."""
    torch.manual_seed(0)
    options = {"global_dim": D, "local_dim": L, "num_classes": K, "view": PatchShuffle(2), "mixture_start": 0} | options
    model = SplitVaDE(image_shape, network=MLP((16,)), likelihood=Bernoulli(), **options)
    with torch.no_grad():
        model.mixture.mu.mul_(2)
        clusters = len(model.mixture.mu)
        model.mixture.raw_scale.add_(torch.linspace(-0.4, 0.6, clusters)[:, None])
        model.mixture.logits.copy_(torch.linspace(-0.5, 0.5, clusters))
    return model


def of_torch(model):
    """The mixture of z_global by torch.distributions."""
    parts = Independent(TorchNormal(model.mixture.mu, model.mixture.scale_tril().diagonal(dim1=1, dim2=2)), 1)
    return MixtureSameFamily(TorchCategorical(logits=model.mixture.logits), parts)


def normal(q):
    return Independent(TorchNormal(q.mu, (0.5 * q.logvar).exp()), 1)


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_codes_and_images_have_the_shapes_and_ranges_of_the_contract():
    model = vade().eval()
    posterior = model.encode(images(4))
    assert posterior.keys() == model.blocks.keys() == model.sample_prior(2).keys()
    assert {b: kl.shape for b, kl in model.kl_per_dim(posterior).items()} == {"z_global": (4, D), "z_local": (4, L)}
    for block, q in posterior.items():
        assert q.mean.shape == (4, model.blocks[block].size) == model.sample_prior(4)[block].shape
    image = model.sample(4)
    assert image.shape == (4, 1, 6, 6) and 0 <= image.min() < image.max() <= 1
    assert model.reconstruct(images(4)).shape == (4, 1, 6, 6)


@pytest.mark.parametrize("start", [0, 1])
def test_weights_belong_to_their_image_and_draw(start):
    check_weights_belong_to_their_image_and_draw(vade(mixture_start=start).eval())


def test_draws_and_terms_stay_in_float32_under_autocast():
    model = vade()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        values = [*costs(model, images()).values(), model.log_weights(images(), 2)]
    assert {value.dtype for value in values} == {torch.float32}


OPTIONS = {"beta_global": "kl_z_global", "beta_local": "kl_z_local", "aux_weight": "rec_aux"}
OPTIONS |= {f"{name}_weight": f"{name}_c" for name in ("consistency", "entropy", "balance")}


@pytest.mark.parametrize("option, term", OPTIONS.items())
def test_gradient_of_each_weight_is_that_of_its_term(option, term):
    """consistency has no term without a weight, so its weight falls to a small one instead of 0."""
    copies = {"augment": partial(torch.roll, shifts=1, dims=3)} if option == "consistency_weight" else {}

    def make(**weight):
        return vade(**copies | {name: value or (1e-9 if copies else 0.0) for name, value in weight.items()})

    check_gradient_of_weight_is_that_of_its_term(make, option, term)


def test_loss_is_the_sum_of_the_weighted_terms():
    model = vade(beta_global=2.0, beta_local=3.0, aux_weight=4.0, balance_weight=5.0).eval()
    weights = weights_of(model, images())
    assert weights == {"rec": 1.0, "rec_aux": 4.0, "kl_z_global": 2.0, "kl_z_local": 3.0, "balance_c": 5.0}
    terms = costs(model, images())
    torch.testing.assert_close(terms["loss"], sum(w * terms[term].mean() for term, w in weights.items()))


# ---- mathematics ----------------------------------------------------------------------------------------------------


def test_kl_is_that_of_torch_distributions_and_above_the_divergence():
    """The closed form is E_q(c) KL(q(z | x) || p(z | c)) + KL(q(c | x) || p(c)); no other q(c) makes it smaller."""
    model, x = vade().eval(), images()["image"]
    with torch.no_grad():
        q, mixture = model.infer(x), of_torch(model)
        each = kl_divergence(normal(Normal(q.mu[:, None], q.logvar[:, None])), mixture.component_distribution)  # [B, K]
        log_c, log_pi = model.class_log_probs(x), mixture.mixture_distribution.logits

        def bound(log_c):
            return (log_c.exp() * (each + log_c - log_pi)).sum(1)

        torch.testing.assert_close(model.kl_global(q), bound(log_c), rtol=1e-4, atol=1e-4)
        for other in (torch.zeros(8, K).log_softmax(1), (2 * log_c).log_softmax(1)):
            assert (bound(other) > bound(log_c)).all()
        z = normal(q).sample((20_000,))
        divergence = (normal(q).log_prob(z) - mixture.log_prob(z)).mean(0)
    assert (model.kl_global(q) > divergence + 0.02).all() and log_c.exp().max() < 0.99


def test_before_the_mixture_the_model_is_split_vae():
    model, plain = vade(mixture_start=5), build("split_vae", latent_dim=3)
    plain = type(plain)((1, 6, 6), D, L, MLP((16,)), Bernoulli(), PatchShuffle(2))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("mixture")}, strict=False)
    for step in (0, 4):
        found = []
        for each in (model, plain):
            each.trained_steps = step
            torch.manual_seed(3)
            found.append((costs(each.eval(), images()), each.log_weights(images(), 3)))
        torch.testing.assert_close(*found)
    model.trained_steps = 6
    assert (costs(model, images())["kl_z_global"] - found[0][0]["kl_z_global"]).abs().min() > 1e-3


def test_bound_agrees_with_integration():
    """log p(x) by integration over both codes, which knows no posterior; the loss lies above -log p(x)."""
    model, batch = vade(global_dim=1, local_dim=1, aux_weight=0.0).eval(), images(2)
    grid = torch.linspace(-9, 9, 301)
    codes = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        log_p = of_torch(model).log_prob(codes[:, :1]) + TorchNormal(0, 1).log_prob(codes[:, 1])
        log_p = log_p + 2 * (grid[1] - grid[0]).log()
        assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-3), "the grid covers the prior"
        params = model.decoder(codes)
        for x in batch["image"]:
            exact = (model.likelihood.log_prob(x.expand(len(codes), -1, -1, -1), params) + log_p).logsumexp(0).item()
            torch.manual_seed(0)
            log_w = model.log_weights({"image": x[None]}, 50_000)[:, 0]
            assert log_w.logsumexp(0) - log(len(log_w)) == pytest.approx(exact, abs=0.02)
            loss = costs(model, {"image": x.expand(20_000, -1, -1, -1)})["loss"].item()
            assert loss > -log_w.mean().item() - 0.05 and loss > -exact + 0.05


def test_clusters_can_be_drawn_and_changed():
    model = vade().eval()
    with torch.no_grad():
        codes, part = model.codes(images(5)), of_torch(model).component_distribution.base_dist
        moved, own = model.with_class(codes, torch.full((5, 1), 2)), codes["c"].argmax(1)
        before = (codes["z_global"] - part.loc[own]) / part.scale[own]
        torch.testing.assert_close((moved["z_global"] - part.loc[2]) / part.scale[2], before, rtol=1e-4, atol=1e-4)
        assert torch.equal(moved["z_local"], codes["z_local"]) and (moved["c"].argmax(1) == 2).all()
        drawn = model.sample_class(torch.full((20_000, 1), 1))["z_global"]
        share = model.sample_prior(20_000)["c"].mean(0)
    torch.testing.assert_close((drawn.mean(0), drawn.std(0)), (part.loc[1], part.scale[1]), rtol=0.05, atol=0.05)
    torch.testing.assert_close(share, model.mixture.logits.softmax(0), rtol=0, atol=0.02)
    torch.testing.assert_close(model.class_means(torch.tensor([[1], [3]]))["z_global"], part.loc[[1, 3]])


# ---- the start of the mixture ---------------------------------------------------------------------------------------


def digits(start, steps, **options):
    torch.manual_seed(0)
    sizes = {"global_dim": 16, "local_dim": 1, "num_classes": 10, "view": PatchShuffle(1), "mixture_start": start}
    adam = partial(torch.optim.Adam, lr=3e-3)
    model = SplitVaDE((1, 8, 8), network=MLP((64,)), likelihood=Bernoulli(), optimizer=adam, **sizes | options)
    data = Digits(size=8, batch_size=64)
    return model, data, fit(model, steps, data=data)


def test_mixture_starts_from_the_codes_at_its_step_and_at_no_other():
    """Just after EM the mixture fits draws of q(z | x) better than N(0, I) does, and one that is not set fits worse."""

    def fitted(start):
        model, data, _ = digits(start, 61)
        with torch.no_grad():
            z = model.eval().infer(data.single(data.indices["train"])["image"]).sample()
            return [
                p.log_prob(z).mean().item()
                for p in (of_torch(model), normal(type(model.infer(torch.zeros(1, 1, 8, 8)))(*torch.zeros(2, 1, 16))))
            ]

    mixture, standard = fitted(60)
    assert mixture > standard + 0.1
    for start in (62, 1000):
        unset, standard = fitted(start)
        assert unset < standard


@pytest.mark.slow
@pytest.mark.parametrize("broken", [None, "not initialised"])
def test_finds_the_digits_unless_the_mixture_is_not_initialised(broken):
    """Labels are not seen. Measured: .59, and .13 with components that start at random, of which one takes all images."""
    if broken:
        SplitVaDE.initialise, kept = (lambda self, batch: False), SplitVaDE.initialise
    try:
        model, data, _ = digits(300, 900)
    finally:
        if broken:
            SplitVaDE.initialise = kept
    rows = data.indices["test"]
    with torch.no_grad():
        found = model.eval().class_log_probs(data.single(rows)["image"]).argmax(1).numpy()
    label = data.label[rows].numpy()
    accuracy = clustering.scores(found, label, (found, label))["cluster_accuracy_hungarian"]
    assert accuracy < 0.3 if broken else accuracy > 0.5, accuracy


@pytest.mark.parametrize("at", [3, 4, 5])
def test_resume_is_exact_before_at_and_after_the_start_of_the_mixture(tmp_path, at):
    """at: the step of the checkpoint; the mixture starts before the update of step 4."""
    whole, *_ = digits(4, 8)
    digits(4, at)[2].save_checkpoint(tmp_path / "last.ckpt")
    rest, data = digits(4, 0)[:2]
    trainer = Trainer(max_steps=8, val_check_interval=10_000, logger=False, accelerator="cpu", limit_val_batches=0)
    trainer.fit(rest, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 8
    assert [key for key, value in whole.state_dict().items() if not torch.equal(value, rest.state_dict()[key])] == []


def test_given_probabilities_of_the_clusters_stay():
    probs = [0.55, *[0.05] * 9]
    model, *_ = digits(2, 4, class_probs=probs)
    torch.testing.assert_close(model.mixture.log_weights().exp(), torch.tensor(probs))
    assert not model.mixture.logits.requires_grad and model.mixture.mu.norm(dim=1).min() > 0


def test_invariance_waits_for_the_mixture():
    weights = {"augment": RandomAffine(), "consistency_weight": 2.0, "balance_weight": 1.0}
    model = vade(mixture_start=3, **weights)
    early = costs(model, images()).keys()
    model.trained_steps = 3
    assert {*costs(model, images())} - {*early} == {"consistency_c", "entropy_c", "balance_c"}


def test_fewer_images_than_clusters_are_refused():
    for images_, taken, remedy in ((3, None, "use more training images"), (100, 3, "raise model.init_images")):
        with pytest.raises(UserError, match=f"model.num_classes must be at most 3, .* got 4; lower it, or {remedy}"):
            vade(init_images=taken).learn_from(training_data(images_))


def test_validation_before_the_update_that_starts_the_mixture_has_the_standard_normal_prior():
    """It sees the step of this update, but the mixture has still its first values."""
    model = vade(mixture_start=2, init_images=64)
    model.mixture.mu.data.fill_(30.0)  # nothing like a code
    seen = {}

    class Watch(Callback):
        def on_validation_end(self, trainer, module):
            seen[module.step] = module.is_early()

    values = {}
    model.log_values = lambda found: values.setdefault(model.step, {}).update(found)
    fit(model, 3, val_check_interval=1, callbacks=[Watch()], data=Digits(size=6, batch_size=32))
    assert seen == {1: True, 2: True, 3: False}
    assert values[2]["val/kl_z_global"] < 50, "30 is 450 nats from 0"


def test_before_the_mixture_starts_samples_and_kl_per_dimension_are_those_of_the_standard_normal():
    model = vade(mixture_start=5).eval()
    model.mixture.mu.data.fill_(30.0)
    codes = model.sample_prior(2000)
    assert abs(codes["z_global"].mean()) < 0.1 and abs(codes["z_global"].std() - 1) < 0.1
    batch = images(4)
    q = model.encode(batch)
    per_dim = model.kl_per_dim(q)["z_global"].sum(1)
    torch.testing.assert_close(
        per_dim, kl_divergence(normal(q["z_global"]), normal(Normal(torch.zeros(4, D), torch.zeros(4, D))))
    )


def test_a_run_that_ends_before_the_mixture_starts_says_so(caplog):
    for start, told in ((3, True), (1, False)):
        caplog.clear()
        fit(vade(mixture_start=start, init_images=64), 3, data=Digits(size=6, batch_size=32))
        assert ("the clusters are not trained in this run, since model.mixture_start=3" in caplog.text) == told


def test_adam_counts_no_steps_of_the_mixture_before_it_starts():
    model = vade(mixture_start=2, init_images=64)
    state = fit(model, 5, data=Digits(size=6, batch_size=32)).optimizers[0].state
    late = {p for p in model.mixture.parameters() if p.requires_grad}
    assert late and {int(state[p]["step"]) for p in late} == {3}
    assert {int(state[p]["step"]) for p in model.parameters() if p.requires_grad and p not in late} == {5}


def test_averaged_weights_hold_nothing_of_the_mixture_before_it_was_initialised():
    model = vade(mixture_start=2, init_images=64)
    model.mixture.mu.data.fill_(30.0)  # nothing like a code
    fit(model, 3, ema_decay=0.9, data=Digits(size=6, batch_size=32))
    assert model.mixture.mu.abs().max() < 10, "0.9 of 30 would be left"
