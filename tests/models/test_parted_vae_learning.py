"""What PartedVAE must learn, each with a bar that a broken model does not reach. Source of the set-ups and of what was
measured: checks 12 to 19 of the reference; figures beside the bars are those of its author's own implementation."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.models.builders import costs, fit
from tests.models.test_parted_vae import CONV32
from vae_zoo.data.arrays import Arrays
from vae_zoo.data.datamodule import DataModule
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli, noise
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites import classes
from vae_zoo.models.parted_vae import PartedVAE
from vae_zoo.schedules import Linear

pytestmark = pytest.mark.slow


def mnist_weights(steps, num_classes=10, **options):
    """The weights of the official code on MNIST, capacities reached at 70 % and the gate's slope at half of the run."""
    ramps = {name: Linear(0.0, 7.0, int(0.7 * steps)) for name in ("z_capacity", "u_capacity")}
    options = {"z_dim": 6, "u_dim": 10, "gate_slope": Linear(1.0, 8.0, steps // 2)} | ramps | options
    return PartedVAE((1, 32, 32), num_classes=num_classes, network=CONV32, likelihood=Bernoulli(), **options)


def accuracy(model, data):
    index = data.indices["test"]
    with torch.no_grad():
        seen = model.eval().class_log_probs(data.batch(index)["image"]).argmax(1)
    return (seen == data.label[index]).double().mean().item()


@cache
def on_digits(seed, steps, gate=True):
    """A run with 5 labels a class, its accuracy, and the terms of its steps."""
    torch.manual_seed(seed)
    model, history = mnist_weights(steps, gate=gate), []
    step = model.training_step
    model.training_step = lambda *a: (step(*a), history.append({k: v.value.mean().item() for k, v in model.terms.items()}))[
        0
    ]
    data = Digits(size=32, batch_size=64, labelled=50, seed=seed)
    fit(model, steps, data=data, seed=seed, limit_val_batches=0)
    return SimpleNamespace(model=model, data=data, accuracy=accuracy(model, data), history=history)


@cache
def labels_alone(seed, steps):
    torch.manual_seed(seed)
    model, data = mnist_weights(steps), Digits(size=32, batch_size=64, labelled=50, seed=seed)
    return from_labels(model, data, seed, steps)


def from_labels(model, data, seed, steps):
    """Accuracy of the same encoder after as many steps on the labelled images alone."""
    data.serve(model)
    optimizer = torch.optim.Adam(model.class_parameters(), lr=5e-4)
    model.supervised_optimizer = None
    for step in range(steps):
        noise.seed_step(seed, step)
        optimizer.zero_grad()
        model.supervised_terms(data.train_batch(step))["ce"].value.backward()
        optimizer.step()
    return accuracy(model, data)


def test_reconstruction_alone_learns_a_batch_by_heart():
    torch.manual_seed(0)
    weights = ("z_gamma", "u_gamma", "prior_weight", "entropy_weight", "overlap_weight")
    model, data = mnist_weights(300, **dict.fromkeys(weights, 0.0)), Digits(size=32, batch_size=64)
    data.setup()
    batch, optimizer, rec = data.train_batch(0), torch.optim.Adam(model.parameters(), lr=5e-4), []
    for _ in range(300):
        terms = costs(model, batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        rec.append(terms["rec"].mean().item())
    assert rec[-1] < 0.7 * rec[19]


def test_unlabelled_images_help_the_class():
    """.877 with them, .823 without."""
    runs = [on_digits(seed, 400).accuracy for seed in range(3)]
    baseline = [labels_alone(seed, 400) for seed in range(3)]
    assert min(runs) >= 0.82 and np.mean(runs) >= 0.85
    assert np.mean(runs) >= np.mean(baseline) + 0.03


def test_no_class_is_lost():
    """.012; without labels these weights put all images in one class: 2.3."""
    run = on_digits(0, 400)
    with torch.no_grad():
        log_c = run.model.class_log_probs(run.data.batch(run.data.indices["test"])["image"])
    assert run.model.classes.kl(log_c.exp().mean(0).log()).item() < 0.05
    assert log_c.argmax(1).bincount(minlength=10).min() >= 0.04 * len(log_c)


@cache
def parted(seed, gate=True):
    run = on_digits(seed, 800, gate)
    return dict(classes.separation(Context(run.model, run.data, "quick")))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_u_holds_the_class_and_z_does_not(seed):
    """Worst of three seeds .649, .121, .366, .753; the best without the gate .541, .153, .304, .727."""
    numbers = parted(seed)
    assert numbers["swap_follows_u"] >= 0.58 and numbers["swap_follows_z"] <= 0.16
    assert numbers["probe/u"] - numbers["probe/z"] >= 0.28
    assert numbers["conditional_accuracy_mean"] >= 0.68


def test_the_gate_takes_the_class_out_of_z():
    """+.141 and -.146."""
    on, off = ([parted(seed, gate) for seed in range(3)] for gate in (True, False))
    difference = {key: np.mean([a[key] - b[key] for a, b in zip(on, off)]) for key in on[0]}
    assert difference["swap_follows_u"] >= 0.06 and difference["probe/z"] <= -0.06


def test_codes_carry_the_nats_that_they_are_to_carry():
    history = on_digits(0, 800).history
    last = {key: np.mean([terms[key] for terms in history[-50:]]) for key in ("z_gap", "u_gap", "rec")}
    assert last["z_gap"] < 1.5 and last["u_gap"] < 1.5
    assert last["rec"] < np.mean([terms["rec"] for terms in history[175:225]])


class LargeSprites(DataModule):
    """Squares, ellipses and hearts near the centre, 32x32 grey: 6,000 for training and validation, 1,500 for the test."""

    def __init__(self, **common):
        super().__init__((1, 32, 32), **common)

    def load(self):
        rng = np.random.default_rng(0)
        label = rng.integers(3, size=7500)
        scale, place = 0.5 + rng.integers(6, size=7500) / 10, rng.integers(32, size=(2, 7500)) / 31
        images = np.stack([_sprite(*row) for row in zip(label, scale, *place, rng.integers(40, size=7500) * np.pi / 20)])
        split = np.repeat([0, 2], [6000, 1500])
        return Arrays((255 * images[:, None]).round().astype(np.uint8), label=label, num_classes=3, split=split)


def _sprite(label, scale, px, py, angle):
    """[32, 32] in [0, 1], from 4 x 4 points a pixel."""
    radius, axis = 0.32 * (0.6 + 0.4 * scale), (np.arange(128) + 0.5) / 128
    x, y = axis[None] - 0.4 - 0.2 * px, axis[:, None] - 0.4 - 0.2 * py
    x, y = (np.cos(angle) * x + np.sin(angle) * y) / radius, (np.cos(angle) * y - np.sin(angle) * x) / radius
    if label == 0:
        inside = np.maximum(abs(x), abs(y)) < 0.9
    elif label == 1:
        inside = (x / 1.25) ** 2 + (y / 0.65) ** 2 < 1
    else:
        x, y = 1.15 * x / 1.1, -1.15 * y / 1.1
        inside = (x**2 + y**2 - 0.7) ** 3 < x**2 * y**3
    return inside.reshape(32, 4, 32, 4).mean((1, 3))


def test_shapes_are_told_apart_whatever_their_place_size_and_angle():
    """.861 with the unlabelled images, .799 without."""
    weights = {"z_gamma": 50.0, "u_gamma": 50.0, "prior_weight": 100.0, "entropy_weight": 10.0, "overlap_weight": 10.0}
    ramps = {"z_capacity": Linear(0.0, 15.0, 280), "u_capacity": Linear(0.0, 3.0, 280)}
    torch.manual_seed(0)
    model = mnist_weights(400, 3, z_dim=5, u_dim=1, overlap_threshold=0.1, **weights, **ramps)
    data = LargeSprites(labelled=300, label_pick="first_n", batch_size=64, val_size=50)
    fit(model, 400, data=data, limit_val_batches=0)
    assert accuracy(model, data) >= 0.82
