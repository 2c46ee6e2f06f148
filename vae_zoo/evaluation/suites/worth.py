"""Suite `worth of blocks`: is every block used, and does only one block hold the class? Blocks are swapped between images.

worth/<block>       effect of the block: change of the decoded image if this block comes from another image, divided by the
                    reconstruction error: E |x' - r|^2 / E |x - r|^2 for image x, reconstruction r and image x' with the
                    other block, squares summed over pixels. 0: the decoder ignores the block; no upper bound
worth_rec/<block>   relative increase of the reconstruction error by this swap: E |x - x'|^2 / E |x - r|^2 - 1. It equals
                    worth/<block> if r is the mean of the images of its codes, and is smaller if the block changes the image
                    without describing it
worth               the minimum of worth/<block> and worth_rec/<block> over the blocks
separation          share of swaps in which a classifier predicts the class of a block's donor, best block minus second best:
                    1: one block alone determines the class, 0: two blocks determine it equally

A model with an unused block gets a high separation, and a model whose blocks hold the same information gets a high worth.
Only both together show that the information is divided. A block with worth below UNUSED is called unused, with a warning.

Choice of the other image: for a block of the variation within a class or group (`own_block`, `free_of_class` and
`local_block` of the contract), an image of the same class or group, so that a style block that only repeats the class has no
effect; any image if classes are unknown or have one image each. For every other block: any other image, since a block that
holds only the class is constant within a class. A categorical block of a model with classes is changed by `with_class`,
together with the codes that depend on the class. Codes are those of reconstructions (`model.codes`). At most IMAGES images
of the split are used; pairs are sampled by the seed.
"""

import logging
from math import inf

import torch
from jaxtyping import Int
from torch import Tensor

from vae_zoo.contract import Codes, HasClasses, HasLocalView, SharesGroupCode
from vae_zoo.distributions import noise
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Result, Suite
from vae_zoo.evaluation.suites.classes import class_blocks
from vae_zoo.metrics.catalogue import UNUSED
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

IMAGES = 1000  # number of images whose blocks are swapped
CHUNK = 250  # images per batch


class Worth(Suite):
    """Worth of each block and separation; the docstring of the module defines them."""

    name = "worth of blocks"

    def run(self, e: Context) -> Result:
        """Computes the numbers, and warns of unused blocks."""
        if len(e.scored) < 2:
            raise DoesNotApply("a swap needs two images")
        numbers = worth(e)
        if judges_swaps(e):
            first, second, *_ = sorted(e.follows("label").values(), reverse=True)
            numbers["separation"] = first - second
        if e.split == "test":
            for name in e.model.blocks:
                if (value := numbers[f"worth/{name}"]) < UNUSED:
                    log.warning(
                        "block %s is unused: if it comes from another image, the decoded image changes by only %.2g of the "
                        "reconstruction error; lower its KL weight, increase its capacity, or remove it",
                        name,
                        value,
                    )
        return Result(numbers)


@torch.no_grad()
def worth(e: Context) -> dict[str, float]:
    """worth/<block>, worth_rec/<block> of each block, and `worth`."""
    model, scored = e.model, torch.from_numpy(e.scored[:IMAGES])
    donors = {kind: other_images(scored, *pool, e.seed) for kind, pool in pools(e).items()}
    kinds = {name: "within" if name in varies_within(model) else "any" for name in model.blocks}
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in model.blocks}  # changed, swapped error, own error
    for rows in torch.arange(len(scored)).split(CHUNK):
        x, own = _encoded(e, scored[rows])
        drawn = model.decode(own)
        others = {kind: _encoded(e, donors[kind][rows].clamp(min=0))[1] for kind in set(kinds.values())}
        for name, kind in kinds.items():
            image, there = model.decode(swapped(model, own, others[kind], name)), donors[kind][rows] >= 0
            for place, (a, b) in enumerate(((image, drawn), (x, image), (x, drawn))):
                sums[name][place] += float((a - b)[there].square().sum(dtype=torch.float32).cpu())
    numbers = {}
    for name, (changed, error, own_error) in ((name, part.tolist()) for name, part in sums.items()):
        numbers[f"worth/{name}"] = _over(changed, own_error)
        numbers[f"worth_rec/{name}"] = _over(error - own_error, own_error)
    return numbers | {"worth": min(numbers.values())}


def judges_swaps(e: Context) -> bool:
    """Whether to use a classifier of the labels: if another suite uses it anyway, and for all models at level full."""
    asked = isinstance(e.model, HasClasses | SharesGroupCode | HasLocalView) or e.is_at_least("full")
    return len(e.model.blocks) > 1 and asked and e.can_judge


def varies_within(model: LatentVariableModel) -> set[str]:
    """The blocks meant to hold the variation within a class or group."""
    names = set(model.free_of_class) if isinstance(model, HasClasses) else set()
    names |= {model.own_block} if isinstance(model, SharesGroupCode) else set()
    return names | ({model.local_block} if isinstance(model, HasLocalView) else set())


def pools(e: Context) -> dict[str, tuple[Int[Tensor, " N"], Int[Tensor, " N"]]]:
    """The images that a block of each kind may come from, and their class or group, -1 = unknown.

    Args:
        e: Context of the evaluation.

    Returns:
        {kind: (images, class or group that must be equal)}.
    """
    images = e.data.indices[e.split]
    anything = torch.zeros(len(images), dtype=torch.int64)
    shared = anything
    if e.data.is_grouped:
        shared = e.data.group_of(images)
    elif e.data.label is not None:
        shared = e.data.first_label[images]
    sizes = shared[shared >= 0].unique(return_counts=True)[1]
    are_paired = sizes[sizes > 1].sum() >= len(images) / 2  # else the number would be that of a few pairs
    return {"any": (images, anything), "within": (images, shared if are_paired else anything)}


def other_images(
    scored: Int[Tensor, " M"], images: Int[Tensor, " N"], shared: Int[Tensor, " N"], seed: int
) -> Int[Tensor, " M"]:
    """Draws for each scored image another image with the same class or group.

    Args:
        scored: The images, which are among `images`.
        images: The candidates.
        shared: Class or group of the candidates, -1 = unknown.
        seed: Seed of the draws.

    Returns:
        The other images, -1 if there is none.
    """
    order = shared.argsort(stable=True)
    of_image = {image: place for place, image in enumerate(images[order].tolist())}
    place = torch.tensor([of_image[image] for image in scored.tolist()])
    values, counts = shared[order].unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)[place]  # start of each class or group
    count = counts.repeat_interleave(counts)[place]
    step = 1 + (torch.rand(len(place), generator=torch.Generator().manual_seed(seed)) * (count - 1)).long()
    other = images[order][first + (place - first + step) % count]
    known = values.repeat_interleave(counts)[place] >= 0
    return torch.where((count > 1) & known, other, -1)


def swapped(model: LatentVariableModel, own: Codes, other: Codes, block: str) -> Codes:
    """Replaces one block of codes; for a class block, all codes that depend on the class.

    Args:
        model: Model of the codes.
        own: Codes of images.
        other: Codes of as many others.
        block: Name of the block.
    """
    if not isinstance(model, HasClasses) or model.blocks[block].kind != "categorical":
        return own | {block: other[block]}
    classes = [(other if name == block else own)[name].argmax(1) for name in class_blocks(model)]
    return model.with_class(own, torch.stack(classes, dim=1))


def _encoded(e: Context, index: Tensor) -> tuple[Tensor, Codes]:
    """The images at these indices, and their codes."""
    batch = e.data.single(index, e.model.device)
    with noise.per_image(batch["index"], e.seed):
        return batch["image"], e.model.codes(batch)


def _over(value: float, error: float) -> float:
    """The ratio, rounded to six decimals; infinite for perfect reconstructions, but 0 if the block has no effect."""
    return round(value / error, 6) + 0.0 if error else (inf if value else 0.0)  # the rest is rounding of sums; no -0
