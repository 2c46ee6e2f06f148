"""Figures for any model: reconstructions, prior samples, traversals, KL, swaps of blocks."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import norm

from vae_zoo.contract import Batch, Codes, HasClasses
from vae_zoo.distributions import noise
from vae_zoo.evaluation.context import central
from vae_zoo.evaluation.suite import Frames, Picture
from vae_zoo.evaluation.suites import classes
from vae_zoo.evaluation.suites.worth import swapped
from vae_zoo.figures import reconstructions, samples, swap_grid, traversal_animation, traversals
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.models.base import LatentVariableModel

SPAN = np.linspace(-2, 2, 9)  # values of a traversal, in prior standard deviations

NEAR = 100  # number of nearby images that define the range of a traversal; at least 1/20 of all images

Spans = dict[str, Float[np.ndarray, "D _"]]  # {block: [D, len(SPAN)]}: values of the traversal of each dimension


def stills(model: LatentVariableModel, batch: Batch, spans: Spans | None = None) -> Iterator[tuple[str, Picture]]:
    """Draws the figures of a model, at a cost that training can afford.

    Args:
        model: In eval mode.
        batch: About 16 images to show, with `index`.
        spans: Values of the traversals; None: those of SPAN.

    Yields:
        Name and figure.
    """
    with torch.no_grad(), torch.random.fork_rng(), noise.per_image(batch["index"]):
        torch.manual_seed(0)  # the same prior samples at every step
        codes = model.codes(batch)
        yield "reconstructions", reconstructions(to_numpy(batch["image"]), to_numpy(model.decode(codes)))
        yield "samples", samples(to_numpy(model.decode(model.sample_prior(64))))
        for name in traversable(model):
            images, labels = traverse(model, batch, name, spans)
            yield f"traversals_{name}", traversals(images, labels, SPAN if _gaussian(model, name) else None)
        if len(model.blocks) > 1:
            for name in model.blocks:
                yield f"swap_{name}", swap(model, batch, name)
        yield from classes.pictures(model, batch)


def animations(model: LatentVariableModel, batch: Batch, spans: Spans | None = None) -> Iterator[tuple[str, Frames]]:
    """Draws animations of the traversals.

    Args:
        model: In eval mode.
        batch: Images, with `index`.
        spans: Values of the traversals; None: those of SPAN.

    Yields:
        Name and frames.
    """
    with torch.no_grad(), noise.per_image(batch["index"]):
        for name in traversable(model):
            yield f"traversals_{name}", traversal_animation(*traverse(model, batch, name, spans))


def traversable(model: LatentVariableModel) -> list[str]:
    """The blocks that have a traversal; those of the classes have their own figures."""
    kinds = ("gaussian",) if isinstance(model, HasClasses) else ("gaussian", "categorical")  # classes have their own figure
    return [name for name, block in model.blocks.items() if block.kind in kinds]


def spans_of(codes: dict[str, Float[np.ndarray, "N _"]]) -> Spans:
    """Values of the traversal of each dimension, near the central image.

    They are quantiles of the dimension over the images whose other dimensions are nearest, at the probabilities of SPAN in a
    Gaussian. If codes are not independent, a traversal of the prior would leave the region of real images.

    Args:
        codes: Codes of each Gaussian block.
    """
    joint = np.hstack(list(codes.values()))  # [N, sum of D]
    squares = (joint - joint[np.square(joint).sum(1).argmin()]) ** 2
    near = min(len(joint), max(NEAR, len(joint) // 20))
    found = []
    for d, column in enumerate(joint.T):
        others = squares.sum(1) - squares[:, d]
        found.append(np.quantile(column[np.argpartition(others, near - 1)[:near]], norm.cdf(SPAN)))
    return dict(zip(codes, np.split(np.array(found), np.cumsum([part.shape[1] for part in codes.values()])[:-1])))


def traverse(
    model: LatentVariableModel, batch: Batch, block: str, spans: Spans | None = None, num_rows: int = 10
) -> tuple[Float[np.ndarray, "_ _ C H W"], list[str]]:
    """Decodes a traversal of a block.

    Gaussian: the dimensions with the largest KL, in this order, take the values of SPAN or of `spans`, starting from the
    code of `central`. Categorical: one row for each of the first images, one column per category.

    Args:
        model: In eval mode.
        batch: Images.
        block: Name of the block.
        spans: Values of the traversals; None: those of SPAN.
        num_rows: Largest number of dimensions or images.

    Returns:
        Images by row and column, and the labels of the rows.
    """
    codes = model.codes(batch)
    if not _gaussian(model, block):
        size, rows = model.blocks[block].size, min(num_rows, len(batch["image"]))
        walked = {name: code[:rows].repeat_interleave(size, 0) for name, code in codes.items()}
        walked[block] = torch.eye(size, device=walked[block].device).repeat(rows, 1)
        return _decode(model, walked, rows, size), [f"image {i}" for i in range(rows)]
    kl = model.kl_per_dim(model.encode(batch))[block].mean(0)  # [D]
    dims = kl.argsort(descending=True)[:num_rows]
    start = central([code for name, code in codes.items() if _gaussian(model, name)])
    walked = {name: code[start : start + 1].repeat(len(dims) * len(SPAN), 1) for name, code in codes.items()}
    values = np.tile(SPAN, (len(dims), 1)) if spans is None else spans[block][dims.cpu()]  # [rows, S]
    rows = torch.arange(len(walked[block]), device=dims.device)
    walked[block][rows, dims.repeat_interleave(len(SPAN))] = torch.as_tensor(values).flatten().to(walked[block])
    labels = [f"{block}[{d}]  {kl[d]:.2f} nats" for d in dims.tolist()]
    return _decode(model, walked, len(dims), len(SPAN)), labels


def swap(model: LatentVariableModel, batch: Batch, block: str, count: int = 8) -> Picture:
    """Draws a swap grid: `block` from the image of the row, all other blocks from the image of the column.

    Codes that depend on a class move with it, as in the worth of its block.

    Args:
        model: In eval mode.
        batch: Images.
        block: Name of the block.
        count: Largest number of images.
    """
    codes = {name: code[:count] for name, code in model.codes(batch).items()}
    count = len(codes[block])
    columns = {name: code.repeat(count, 1) for name, code in codes.items()}
    mixed = swapped(model, columns, {name: code.repeat_interleave(count, 0) for name, code in codes.items()}, block)
    images = to_numpy(batch["image"][:count])
    others = ", ".join(name for name in model.blocks if name != block)
    return swap_grid(images, images, _decode(model, mixed, count, count), block, others)


def _gaussian(model: LatentVariableModel, block: str) -> bool:
    return model.blocks[block].kind == "gaussian"


def _decode(model: LatentVariableModel, codes: Codes, rows: int, columns: int) -> np.ndarray:
    return to_numpy(model.decode(codes)).reshape(rows, columns, *model.image_shape)
