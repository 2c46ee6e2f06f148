"""Computations of the panels that belong to a capability of models. Imports no widget."""

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from vae_zoo.contract import Codes, EditsObjects, FindsObjects, HasClasses, HasLocalView
from vae_zoo.evaluation.suites.facets import cluster_samples
from vae_zoo.evaluation.suites.grouped import Evidence
from vae_zoo.explorer.state import Images, LoadedRun, repeated, seeded
from vae_zoo.metrics.arrays import to_numpy

LENDERS = 8  # test images whose objects lend their appearance

Row = tuple[str, np.ndarray | list[np.ndarray], list[str]]  # title, images [N, C, H, W], captions
Edit = tuple[str, int, float, float]  # action, object, x and y of its new centre as shares of the sides


def of_group(evidence: Evidence, group: int, count: int) -> tuple[Row, Row]:
    """Images decoded with their common content; and a new image of the group with its style and the content of others.

    Args:
        evidence: Evidence of the test images.
        group: 0..G-1.
        count: Images that are pooled; of the others 1, 2, ... up to it.
    """
    first = evidence.first[group]
    size = int(evidence.count[group])
    rows = evidence.of(min(count, size))[first]  # [k]
    content = evidence.pooled(rows[None]).mu.expand(len(rows), -1)
    own = evidence.decode(content, evidence.styles.mu[rows])
    images = torch.cat([evidence.images(rows), own]).numpy()
    captions = [*(f"image {i}" for i in range(len(rows))), *(f"common content, style {i}" for i in range(len(rows)))]
    new, shown, texts = evidence.images(first[None]), [], []
    for k in range(1, min(count, size - 1) + 1):
        q = evidence.pooled(evidence.of(k, skip=1)[first][None])
        drawn = evidence.decode(q.mu, evidence.styles.mu[first][None])
        error, spread = float((drawn - new).square().mean()), float((0.5 * q.logvar).exp().mean())
        shown.append(drawn)
        texts.append(f"content pooled from {k}: MSE {error:.4f}, posterior std {spread:.2f}")
    title = f"{len(rows)} images of group {group}; then each style, decoded with the content pooled from all of them"
    other = "a new image of the group, decoded from its own style and the content pooled from 1, 2, ... others"
    return (title, images, captions), (other, torch.cat([new, *shown]).numpy(), ["new image", *texts])


def in_cluster(
    run: LoadedRun, codes: Codes, facet: str, c: int, temperature: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, C, H, W] sampled in a cluster, and those of one image's codes with this facet sampled there."""
    with seeded(0):
        drawn = cluster_samples(run.model, facet, torch.full((count,), c, device=run.model.device), temperature)
    mixed = repeated(codes, count) | {facet: drawn[facet]}
    return run.decode(drawn), run.decode(mixed)


def of_classes(run: LoadedRun, codes: Codes, name: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """An image with each value of a categorical block [K, C, H, W], and a column of samples of each [K, C, n H, W]."""
    assert isinstance(run.model, HasClasses)
    classes = run.every_value(codes, name)
    moved = run.decode(run.with_classes(repeated(codes, len(classes)), classes))
    with seeded(0):
        drawn = run.model.sample_class(classes.repeat_interleave(samples, 0))
    of_each = np.split(run.decode(drawn), len(classes))
    return moved, np.stack([np.concatenate(list(column), axis=1) for column in of_each])


@torch.no_grad()
def local_and_global(images: Images, run: LoadedRun, name: str, count: int) -> list[Row]:
    """The image and its local code decoded alone; the image with the local code, then with the global code of others."""
    model = run.model
    assert isinstance(model, HasLocalView)
    codes, x = images.codes(run, name), images.image(name)
    view, explained = model.local_view(x.to(model.device)), model.decode_local(codes[model.local_block])
    shown = [x[0].numpy(), to_numpy(view)[0], to_numpy(explained)[0], run.decode(codes)[0]]
    captions = ["image", "its local view", f"what {model.local_block} alone explains", "reconstruction"]
    found: list[Row] = [(f"the image, and the view from which {model.local_block} is inferred", shown, captions)]
    others = run.data.single(torch.from_numpy(run.index[:count]))["image"]
    donors = run.encode(others)
    for block in (model.local_block, model.global_block):
        mixed = repeated(codes, len(others)) | {block: donors[block]}
        pairs = [np.concatenate([one, two], axis=1) for one, two in zip(others.numpy(), run.decode(mixed))]
        found.append((f"above: other images; below: the image with their {block}", pairs, [""] * len(pairs)))
    return found


@torch.no_grad()
def edited(run: LoadedRun, codes: Codes, edits: list[Edit]) -> Codes:
    """The codes of an image after all edits."""
    model = run.model
    assert isinstance(model, FindsObjects)

    def apply(codes: Codes, numbered: tuple[int, Edit]) -> Codes:
        step, (action, object_, x, y) = numbered
        place = torch.tensor([object_], device=model.device)
        if not isinstance(model, EditsObjects):
            return model.without_object(codes, place)
        centre = torch.tensor([[x * run.model.image_shape[2], y * run.model.image_shape[1]]], device=model.device)
        match action:
            case "remove":
                return model.without_object(codes, place)
            case "change":
                donors, places = looks(run)
                number = step % len(places)
                return model.with_look(codes, place, donors[number], places[number])
        return model.with_object_placed(codes, place, centre, keep=action == "copy")

    return reduce(apply, enumerate(edits), codes)


def looks(run: LoadedRun) -> tuple[list[Codes], list[Tensor]]:
    """Objects of test images: the codes of the image of each, and its place [1]."""
    assert isinstance(run.model, FindsObjects)
    codes = run.encode(run.data.single(torch.from_numpy(run.index[:LENDERS]))["image"])
    there = (run.model.render(codes).presence > 0.5).nonzero()
    if not len(there):  # no object is found anywhere; the first cell lends its appearance
        there = torch.zeros(1, 2, dtype=torch.long)
    of_image = [{name: code[i : i + 1] for name, code in codes.items()} for i in there[:, 0].tolist()]
    return of_image, list(there[:, 1:])
