"""Small models of every kind in conf/model, and short runs of them on scikit-learn's digits."""

from functools import partial
from importlib import import_module

import torch
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import OmegaConf

from tests.config.test_schemas import composed
from vae_zoo import config_dir
from vae_zoo.contract import TrainingData
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, noise
from vae_zoo.nets import MLP, PatchShuffle
from vae_zoo.runs.train import prepare
from vae_zoo.training.trainer import Trainer

SMALL = {"factor_vae": {"discriminator_hidden": (16, 16)}, "split_vae": {"view": PatchShuffle(2)}}
DIMS = {name: ("content_dim", "style_dim") for name in ("group_vae", "ml_vae")}  # others have latent_dim
DIMS |= {"split_vae": ("global_dim", "local_dim")}
DISCRETE = ("joint_vae", "parted_vae", "ss_vae")  # of categorical variables: tests/models/test_discrete.py
LADDERS = ("ladder_vae", "mfcvae", "vade")  # of facets: tests/models/test_mfcvae.py
MIXTURES = ("gmvae", "split_gmvae")  # tests/models/test_gmvae.py
NESTED = ("gmvae2016",)  # clusters that are functions of a code: tests/models/test_gmvae2016.py
SPLIT_MIXTURES = ("split_vade",)  # tests/models/test_split_vade.py
SCENES = ("spair", "split_spair")  # of objects: tests/models/test_spair.py
OTHERS = (*DISCRETE, *LADDERS, *MIXTURES, *NESTED, *SPLIT_MIXTURES, *SCENES)
MODELS = sorted(p.stem for p in (config_dir() / "model").glob("[!_]*.yaml") if p.stem not in OTHERS)


def costs(model, batch):
    """The values of the terms, and the loss that they add up to."""
    terms = model.objective(batch)
    return {"loss": model.total(terms)} | {name: term.value for name, term in terms.items()}


def weights_of(model, batch):
    """Of the terms that are in the loss."""
    return {name: term.weight for name, term in model.objective(batch).items() if term.weight is not None}


def model_class(name):
    module, _, kind = OmegaConf.load(config_dir() / "model" / f"{name}.yaml")["_target_"].rpartition(".")
    return getattr(import_module(module), kind)


def build(name, image_shape=(1, 6, 6), latent_dim=3, network=None, likelihood=None, **options):
    """With weights that depend on nothing but the sizes. latent_dim: of every block."""
    torch.manual_seed(0)
    options = SMALL.get(name, {}) | dict.fromkeys(DIMS.get(name, ["latent_dim"]), latent_dim) | options
    options |= {"network": network or MLP(hidden=(16,)), "likelihood": likelihood or Bernoulli()}
    return model_class(name)(image_shape, **options)


def images(batch_size=8, image_shape=(1, 6, 6), seed=0):
    """A batch of binary noise."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(2, (batch_size, *image_shape), generator=generator).float(),
        "index": torch.arange(batch_size),
    }


def training_data(num_images, num_labelled=0):
    """What a model knows of so many training images; nobody asks for them."""

    def none(*_):
        raise AssertionError("the images are not there")

    return TrainingData(num_images, num_labelled, None, none, none)


def batch_for(name, batch_size=8, **options):
    """A batch of binary noise with all that this model needs; groups are of 1, 3, 5, ... images."""
    batch = images(batch_size, **options)
    if "group" in model_class(name).needs:
        batch["group"] = torch.arange(batch_size).sqrt().long()
        batch["num_groups"] = int(batch["group"].max()) + 1
    return batch


def check_weights_belong_to_their_image_and_draw(model):
    """Draws [k] and images [B] are folded into one axis on the way through the decoder: they must come apart again."""
    batch = images(5)
    with noise.per_image(batch["index"]):
        together = model.log_weights(batch, 3)
    assert together.shape == (3, 5) and len(together.flatten().unique()) == 15
    for i in range(5):
        with noise.per_image(batch["index"][[i]]):
            alone = model.log_weights({"image": batch["image"][[i]]}, 3)
        torch.testing.assert_close(together[:, [i]], alone)


def check_gradient_of_weight_is_that_of_its_term(make, option, term):
    """d loss(w = 2.5) - d loss(w = 0) = 2.5 d term, for every parameter.

    make: function of {option: weight} that makes the model with always the same parameters.
    """
    found = []
    for value in (0.0, 2.5):
        model = make(**{option: value}).eval()
        torch.manual_seed(1)
        terms = costs(model, images())
        everything = {"inputs": [*model.parameters()], "materialize_grads": True, "retain_graph": True}
        found.append(torch.autograd.grad(terms["loss"], **everything))
    own = torch.autograd.grad(terms[term].mean(), **everything)
    assert any(g.abs().max() > 0 for g in own)
    for off, on, g in zip(*found, own):
        torch.testing.assert_close(on - off, 2.5 * g, rtol=1e-4, atol=1e-5)


def fit(model, max_steps, batch_size=32, val_check_interval=10_000, data=None, **options):
    """The trainer after so many steps on 8x8 digits, or on `data`."""
    options = {"logger": False, "accelerator": "cpu", "limit_val_batches": 1.0} | options
    trainer = Trainer(max_steps=max_steps, val_check_interval=val_check_interval, **options)
    data = data or Digits(size=8, batch_size=batch_size)
    trainer.fit(model, datamodule=data)
    return trainer


def train_as_the_command(folder, *words, after=None):
    """The model and data of `python train.py <words>` after its training on a CPU, without validation and pictures.

    after: called with model and data when so many steps are done, {step: function}.
    """
    cfg = composed(*words, "trainer=cpu", "callbacks.figures=null", f"paths.outputs={folder}")
    trainer, model, data = prepare(folder, cfg)
    trainer.limit_val_batches = 0
    for step, function in (after or {}).items():
        trainer.callbacks.append(LambdaCallback(on_train_batch_end=partial(_at_step, step, function, data)))
    trainer.fit(model, datamodule=data)
    return model.eval(), data


def _at_step(step, function, data, trainer, model, *_):
    if model.step == step:
        function(model.eval(), data)
        model.train()
