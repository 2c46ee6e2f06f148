"""Suite `classes`: compares categorical blocks with the labels, and tests whether the other blocks hold the class too.

Uses two methods of the capability HasClasses: `sample_class` (codes of a class from the prior) and `with_class` (the same
image with another class). If the model was trained with labels, the values of its variables are the labels; otherwise a
one-to-one map fitted on training images assigns a label to each value. A model with several variables has one number per
variable, accuracy/<block>, and their mean; numbers that need one class per image use the first variable.
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from vae_zoo.contract import Batch, HasClasses, HasClassMeans, WalksInClass
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import Numbers, Picture, Result, Suite
from vae_zoo.figures import grid
from vae_zoo.metrics import judge
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.calibration import ece
from vae_zoo.metrics.probes import linear_classifier
from vae_zoo.models.base import LatentVariableModel

USED = 0.005  # minimum share of the images for a value to count as used
PER_CLASS = 100  # images per class that the classifier gets


class Classes(Suite):
    """Metrics of the classes of a model with labelled images; the docstring of the module defines them."""

    name, capability, needs = "classes", HasClasses, frozenset({"labels"})

    def run(self, e: Context) -> Result:
        """Computes `accuracy` and `separation`."""
        return Result(dict(accuracy(e)) | dict(separation(e)))


def accuracy(e: Context) -> Numbers:
    """Accuracy, class-mean accuracy and calibration of q(c | x) on all images of the split, without training images."""
    names = class_blocks(e.model)
    index = e.data.indices[e.split].numpy()
    codes, found = e.codes.blocks(index), {}
    for column, name in enumerate(names):
        labels, probs = _labels(e, index, column), codes[name]
        if labels is None or not (labels >= 0).any():
            continue
        to_label = _to_label(e, name, column)
        if to_label.max() < 0:
            continue  # no training image has a label that could name a value
        seen = to_label[probs.argmax(1)]
        known, used = labels >= 0, np.bincount(probs.argmax(1), minlength=probs.shape[1]) >= USED * len(index)
        right = (seen == labels)[known]
        of_class = [right[labels[known] == k].mean() for k in np.unique(labels[known])]
        found[name] = {"accuracy": right.mean(), "accuracy_class_mean": np.mean(of_class), "classes_used": used.sum()}
        if to_label.min() >= 0:
            by_label = np.zeros((len(probs), max(probs.shape[1], labels.max() + 1, to_label.max() + 1)))
            by_label[:, to_label] = probs
            found[name]["ece"] = ece(by_label, labels)
    for name, values in found.items():
        if len(names) > 1:
            for key, value in values.items():
                yield f"{key}/{name}", value
    for key in next(iter(found.values()), {}):
        values = [float(v[key]) for v in found.values() if key in v]
        yield key, float(sum(values) if key == "classes_used" else np.mean(values))


def separation(e: Context) -> Numbers:
    """Accuracies that show in which block the class is: probe/<block>, swap_follows_<block>, conditional_accuracy.

    probe/<block>: linear probe. swap_follows_<block>: this block of one image is decoded with the other blocks of an image
    of another class (posterior means); how often a classifier trained on real images predicts the class of the first image.
    conditional_accuracy: how often it predicts the class from whose prior an image is decoded; a value of an unsupervised
    variable that is assigned no class counts as wrong, so that K values of C classes reach C / K. conditional_accuracy_mean:
    the same with the class-dependent Gaussian blocks at their means and z from its prior.
    """
    if not all((e.data.first_label[index] >= 0).any() for index in e.data.indices.values()):
        return  # labels exist for training images only
    train, test = (e.data.first_label[index].numpy() for index in (e.train, e.scored))
    if len(np.unique(train[train >= 0])) < 2:
        return  # fewer than two classes
    train_codes, test_codes = e.codes.blocks(e.train), e.codes.blocks(e.scored)
    gaussian = [name for name, block in e.model.blocks.items() if block.kind == "gaussian"]
    for name in gaussian:
        probe = linear_classifier().fit(train_codes[name][train >= 0], train[train >= 0])
        yield f"probe/{name}", (probe.predict(test_codes[name]) == test)[test >= 0].mean()
    if len(np.unique(test[test >= 0])) < 2:
        return
    one = e.judge_of("label")
    if e.split == "test":  # the images that it is measured on
        yield "judge_accuracy", one.accuracy
    shares = e.follows("label")
    for name in gaussian if len(gaussian) > 1 else e.model.blocks:
        yield f"swap_follows_{name}", shares[name]
    yield from _conditional(e, one, class_blocks(e.model))


@torch.no_grad()
def _conditional(e: Context, one: judge.Judge, names: list[str]) -> Numbers:
    """Uses all values of the first variable equally often; other variables are sampled from the prior."""
    assert isinstance(e.model, HasClasses)
    size, device = e.model.blocks[names[0]].size, e.model.device
    first = torch.arange(size, device=device).repeat_interleave(PER_CLASS)
    with torch.random.fork_rng():
        torch.manual_seed(e.seed)
        others = e.model.sample_prior(len(first))
        classes = torch.stack([first, *(others[name].argmax(1) for name in names[1:])], dim=1)
        codes = e.model.sample_class(classes)
    wanted = torch.from_numpy(_to_label(e, names[0], 0))[first.cpu()]
    yield "conditional_accuracy", (one.predict(e.model.decode(codes)).cpu() == wanted).double().mean().item()
    if isinstance(e.model, HasClassMeans):
        codes |= e.model.class_means(classes)
        yield "conditional_accuracy_mean", (one.predict(e.model.decode(codes)).cpu() == wanted).double().mean().item()


def pictures(model: LatentVariableModel, batch: Batch, num_columns: int = 8) -> Iterator[tuple[str, Picture]]:
    """Draws samples of each class, images moved to other classes, and traversals within each class, for each variable.

    Args:
        model: In eval mode; one without classes has no figure.
        batch: Images.
        num_columns: Number of samples of a class, and largest number of images that are moved to other classes.

    Yields:
        Name and figure.
    """
    if not isinstance(model, HasClasses):
        return
    for j, name in enumerate(class_blocks(model)):
        size, codes = model.blocks[name].size, model.codes(batch)
        old = torch.stack([codes[b].argmax(1) for b in class_blocks(model)], dim=1)  # [B, J]
        rows, values = [f"{name} = {k}" for k in range(size)], torch.arange(size, device=old.device)
        classes = old[:1].repeat(size * num_columns, 1)
        classes[:, j] = values.repeat_interleave(num_columns)
        drawn = model.sample_class(classes)
        # codes that do not depend on the class: one for each column
        shared = {b: code[:num_columns].repeat(size, 1) for b, code in drawn.items() if b in model.free_of_class}
        yield f"class_samples_{name}", grid(_grid(model, drawn | shared, size), rows, title="samples from each class")
        shown = min(num_columns, len(old))
        moved = {b: code[:shown].repeat_interleave(size + 1, 0) for b, code in codes.items()}
        to = old[:shown].repeat_interleave(size + 1, 0)
        to[:, j] = torch.cat([values[:1], values]).repeat(shown)
        decoded = _grid(model, model.with_class(moved, to), shown)
        decoded[:, 0] = batch["image"][:shown].float().cpu().numpy()
        heads = ["image", *(f"{name} = {k}" for k in range(size))]
        yield f"class_swap_{name}", grid(decoded, [""] * shown, heads, title="another class, all other codes unchanged")
        if isinstance(model, WalksInClass):
            walked, labels = model.walk_in_class(j, old[0])  # [rows, steps] codes
            yield f"class_traversals_{name}", grid(_grid(model, walked, len(labels)), labels, title="within each class")


def _grid(model: LatentVariableModel, codes: dict[str, torch.Tensor], rows: int) -> np.ndarray:
    return to_numpy(model.decode(codes)).reshape(rows, -1, *model.image_shape)


def class_blocks(model: LatentVariableModel) -> list[str]:
    """The categorical blocks that hold the class."""
    if not isinstance(model, HasClasses):
        return []
    return [name for name, block in model.blocks.items() if block.kind == "categorical"]


def _labels(e: Context, index: np.ndarray, column: int) -> np.ndarray | None:
    """Labels [N] int64; None if the data set has fewer label variables."""
    assert e.data.label is not None
    labels = e.data.label[index].numpy().reshape(len(index), -1)
    return labels[:, column] if column < labels.shape[1] else None


def _to_label(e: Context, name: str, column: int) -> np.ndarray:
    """The label assigned to each value of a variable, [K]; -1: none."""
    size = e.model.blocks[name].size
    if "supervised" in e.model.needs:
        return np.arange(size)
    values, labels = e.codes.blocks(e.train)[name].argmax(1), _labels(e, e.train, column)
    assert labels is not None
    table = np.zeros((size, labels.max() + 1))
    np.add.at(table, (values[labels >= 0], labels[labels >= 0]), 1)
    to_label = np.full(size, -1)
    rows, columns = linear_sum_assignment(-table)
    to_label[rows] = columns
    return to_label
