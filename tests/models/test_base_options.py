"""Every option of every model does something: switched, it changes a term, a gradient, a bound, what is drawn, or the
weights after a few steps. The options are those of vae_zoo/config/settings.json, so that a new one is switched too.

An option that needs another one is switched beside it (BESIDE); without, it is refused (REFUSED).
"""

from functools import cache, partial
from typing import Literal, get_args, get_origin

import pytest
import torch

import vae_zoo.models
from tests.config.test_schemas import tools_settings
from tests.models.builders import fit, images, training_data
from vae_zoo.config.settings import group_of, known
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, Gaussian, noise
from vae_zoo.nets import MLP, LadderMLP, PatchShuffle, RandomAffine
from vae_zoo.schedules import Cosine, Plateau, Progressive

SIDE, K, B = 16, 10, 4
STEP = 900  # past the warm-up of presence
TARGETS = [target for target in known() if group_of(target) == "model"]
LADDERS = ("LadderVAE", "MFCVAE")
REQUIRED = {"image_shape": (1, SIDE, SIDE), "network": MLP((8,)), "likelihood": Bernoulli(), "num_classes": K}
REQUIRED |= {"view": PatchShuffle(4), "local_network": MLP((8,)), "object_network": MLP((8,)), "num_clusters": [4, 5]}
REQUIRED |= {"background_dim": 2, "facet_dims": [3, 2]} | dict.fromkeys(
    "latent_dim z_dim w_dim u_dim content_dim style_dim global_dim local_dim what_dim".split(), 3
)
SMALL = {"discriminator_hidden": (8,), "feature_dim": 12, "class_hidden": (8, 6), "z_hidden": 7, "channels": (8, 8, 8)}
SMALL |= {"features": 12, "head_hidden": (8, 6), "glimpse_size": 4, "prior_hidden": 8, "mixture_start": 2}
OTHER = {  # the second value, where its type does not say it
    "image_shape": (1, 32, SIDE),
    "network": MLP((6,)),
    "local_network": MLP((6,)),
    "object_network": MLP((6,)),
    "likelihood": Gaussian(0.3),
    "view": PatchShuffle(8),
    "facet_dims": [2, 3],
    "num_clusters": [3, 6],
    "num_classes": K + 1,
    "class_probs": [0.19, *[0.09] * (K - 1)],
    "optimizer": partial(torch.optim.SGD, lr=1e-4),
    "lr_schedule": Cosine(0.5, 0.1, 10),
    "discriminator_optimizer": partial(torch.optim.SGD, lr=1e-4),
    "supervised_optimizer": partial(torch.optim.SGD, lr=1e-4),
    "plateau": Plateau(1, patience=0, threshold=1.0, cooldown=0),
    "supervised_plateau": Plateau(1, patience=0, threshold=1.0, cooldown=0),
    "discriminator_hidden": (6,),
    "class_hidden": (8, 5),
    "channels": (8, 8, 6),
    "strides": (2, 2, 1),
    "head_hidden": (8, 5),
    "c_capacity": 1.0,  # below what the classes can hold
    "free_bits": 3.0,  # more than the classes carry here
    "presence_warmup_steps": 1000,
    "mixture_start": 1000,
    "consistency_threshold": 0.05,
    "schedule": Progressive(1000, stages=[500, 500], fade_steps=450),
    "augment": RandomAffine(rotate=80.0),
    "weights": "fixed",
    "estimator": "analytic",
    "init_images": 20,
    "max_iou": 1e-3,  # almost none, since few of these boxes overlap much
}
FADING = {"schedule": Progressive(4, stages=[2, 2], fade_steps=1)}
DISTORTED = {"augment": RandomAffine(), "consistency_weight": 1.0}
BESIDE = {
    "init": {"num_classes": [K, 3]},  # one scale for both where there is one variable
    "supervised": {"entropy_weight": 1.0},
    "augment": DISTORTED,
    "consistency_weight": DISTORTED,
    "consistency_threshold": DISTORTED,
    "swap_local": DISTORTED,
    "prior_init_at": FADING,
    "calibrate_norm": {"network": LadderMLP([[8], [6]], batch_norm=True)},
}
TRAINED = {
    "plateau",
    "supervised_plateau",
    "optimizer",
    "lr_schedule",
    "discriminator_optimizer",
    "supervised_optimizer",
    "prior_lr",
    "data_init",
}
TRAINED |= {"prior_init", "prior_init_at", "init_images", "calibrate_norm", "supervised"}  # their effect is that of training
FIRST_WEIGHTS = {"init", "variance"}  # others are switched at the same weights, where these have one shape


arguments = tools_settings().arguments


def kind_of(target):
    return getattr(vae_zoo.models, target.rpartition(".")[2])


def second_values(target, name):
    """One value beside the default, or all others of a few."""
    words, argument = known()[target]["types"][name], arguments(kind_of(target))[name]
    default = None if argument.default is argument.empty else argument.default
    if get_origin(argument.annotation) is Literal:
        return [value for value in get_args(argument.annotation) if value != default]
    if name in OTHER:
        return [OTHER[name]]
    if words == "bool":
        return [not default]
    if words.startswith(("Count", "Index")):
        return [SMALL.get(name, REQUIRED.get(name, default)) + 1]
    if words.startswith(("NonNegative", "Positive", "Finite", "Probability", "Momentum", "Variance")):
        return [0.7 * default + 0.123 if isinstance(default, float) else 0.3]
    raise AssertionError(f"give a second value of {name}: {words}")


CASES = [(t, name, value) for t in TARGETS for name in known()[t]["types"] for value in second_values(t, name)]


def build(target, options):
    torch.manual_seed(0)
    about, ladder = known()[target], "facet_dims" in known()[target]["types"]
    given = {name: value for name, value in REQUIRED.items() if name in about["required"]}
    given |= {name: value for name, value in SMALL.items() if name in about["types"]}
    given |= {"network": LadderMLP([[8], [6]])} if ladder else {}
    if ladder and options.get("network") == OTHER["network"]:
        options = options | {"network": LadderMLP([[8], [5]])}
    return kind_of(target)(**given | options)


def batch_of(model):
    """Two groups of two images, and as many labelled ones."""
    batch = images(B, model.image_shape) | {"group": torch.tensor([0, 0, 1, 1]), "num_groups": 2}
    variables = len(model.classes.sizes) if "supervised" in model.needs else 1
    label = torch.tensor([0, 2, 1, 2])[:, None].expand(-1, variables)
    return batch | {"label": label, "supervised": images(B, model.image_shape, seed=1) | {"label": label}}


def in_training(model):
    """Terms, weights and gradients of a training step."""
    model.train().trained_steps = STEP
    torch.manual_seed(0)
    batch = batch_of(model)
    terms = model.objective(batch)
    loss = model.total(terms)
    if "discriminator" in terms:
        loss = loss + terms["discriminator"].value.mean()
    if "supervised" in model.needs and hasattr(model, "supervised_terms"):
        labelled = model.supervised_terms(batch)
        loss, terms = loss + model.total(labelled), terms | labelled
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    found = {f"gradient/{name}": g for name, g in zip(named, gradients) if g is not None}
    found |= {f"weight/{name}": torch.tensor(term.weight) for name, term in terms.items() if term.weight is not None}
    return found | {f"term/{name}": term.value.detach() for name, term in terms.items()}


@torch.no_grad()
def in_evaluation(model):
    """The bound, the codes, what is drawn and what is detected."""
    batch, model = batch_of(model), model.eval()
    with noise.per_image(batch["index"]):
        found = {"decoded": model.reconstruct(batch), "terms": model.total(model.objective(batch))}
        found |= {name: q.mean for name, q in model.encode(batch).items()}
        if hasattr(model, "log_weights"):
            found["bound"] = model.log_weights(batch, 2)
    if hasattr(model, "detect"):
        found["boxes"] = torch.cat([one["boxes"] for one in model.detect(batch)])
    torch.manual_seed(0)
    return found | {"drawn": model.sample(2)}


@cache
def digits():
    return Digits(size=SIDE, batch_size=8, labelled=50)


def trained(model):
    """The weights after three steps."""
    fit(model.train(), 3, data=digits(), limit_val_batches=0)  # parts that models share may be in eval mode
    return dict(model.state_dict())


def effects(model, by_training):
    if by_training:
        return trained(model)
    model.training_data = training_data(100, 20)
    return in_training(model) | in_evaluation(model)


@cache
def baseline(target, beside, by_training):
    model = build(target, dict(BESIDE.get(beside, {})))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return state, effects(model, by_training)


def shapes(state):
    return {name: value.shape for name, value in state.items()}


def differ(found, other):
    return found.keys() != other.keys() or any(
        found[name].shape != other[name].shape or not torch.equal(found[name], other[name]) for name in found
    )


@pytest.mark.parametrize("target, name, value", CASES, ids=[f"{t.rpartition('.')[2]}.{n}" for t, n, _ in CASES])
def test_a_switched_option_has_an_effect(target, name, value):
    about, by_training = known()[target]["types"], name in TRAINED
    beside = {key: given for key, given in BESIDE.get(name, {}).items() if key in about}
    state, wanted = baseline(target, name if beside else None, by_training)
    model = build(target, beside | {name: value})
    if name not in FIRST_WEIGHTS and shapes(model.state_dict()) == shapes(state):
        model.load_state_dict(state)
    assert differ(effects(model, by_training), wanted), f"{name}={value} changes nothing; refuse it or make it work"


def test_nothing_differs_where_nothing_is_switched():
    """What the test above compares is the same twice over."""
    for target in TARGETS:
        for by_training in (False, True):
            assert not differ(effects(build(target, {}), by_training), baseline(target, None, by_training)[1]), target


REFUSED = {  # options that another one leaves without effect
    "PartedVAE.supervised": ({"supervised": False, "entropy_weight": 1.0, "augment": RandomAffine()}, "augment"),
    "PartedVAE.consistency_threshold": ({"consistency_threshold": 0.5}, "consistency_weight > 0"),
    "PartedVAE.eval_slope": ({"gate": False, "eval_slope": 8.0}, "gate=false leaves eval_slope=8 unused"),
    "MFCVAE.augment": ({"augment": RandomAffine()}, "consistency_weight=0 leaves augment unused"),
    "SplitVaDE.swap_local": ({"swap_local": True}, "consistency_weight=0 leaves swap_local unused"),
    "SplitVaDE.consistency_weight": ({"consistency_weight": 1.0}, "needs augment, .* or swap_local=true; set it"),
    "SPAIR.beta_background": ({"background_dim": 0, "beta_background": 2.0}, "leaves beta_background=2.0 unused"),
    "SPAIR.background_weight": ({"background_dim": 0, "background_weight": 2.0}, "leaves background_weight=2.0 unused"),
    "SplitSPAIR.local_to": ({"background_dim": 0, "local_to": "background"}, "needs a decoder of the background"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_without_effect_is_refused_in_a_sentence(option):
    options, sentence = REFUSED[option]
    with pytest.raises(ValueError, match=sentence):
        build(f"vae_zoo.models.{option.partition('.')[0]}", options)
