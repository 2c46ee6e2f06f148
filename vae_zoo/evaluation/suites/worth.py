"""Are all blocks used, and is one thing in one of them? Of any model: its blocks are exchanged between images and decoded.

worth/<block>       how much the decoded image changes when this block comes from another image, over the reconstruction
                    error: E |x' - r|^2 / E |x - r|^2 of image x, reconstruction r and x' with the other block, squares
                    summed over pixels. 0: the decoder does not look at the block; no upper bound
worth_rec/<block>   how much the reconstruction error rises by that: E |x - x'|^2 / E |x - r|^2 - 1. It equals worth/<block>
                    where r is the mean of the images of its codes, and is less where the block moves the image without
                    describing it
worth               the least of all these: a model is worth what its least useful block is
separation          share of swaps in which a judge sees the class of a block's donor, the best block's less the second
                    best's: 1, one block alone decides the class, 0, two decide alike

separation alone is won by a model whose other block carries nothing, and worth alone by one whose blocks all carry the same:
only the pair says that a model has divided its code. Below UNUSED a block is called unused, and a warning says so.

The other image. Of a block that is there for what varies within a class or group (`own_block`, `free_of_class` and
`local_block` of the contract): one of the same class or group, so that a style that only repeats the class is worth nothing;
any image where none are known or all images are alone in theirs. Of every other block: any other image, since a block that
holds the class and nothing else is the same within it. A categorical block of a model with classes changes by `with_class`,
with all that hangs on the class. Codes are those of reconstructions (`model.codes`), images up to IMAGES of the split, pairs
drawn by the seed.
"""

import logging
from math import inf

import torch
from torch import Tensor

from vae_zoo.contract import Codes, HasClasses, HasLocalView, SharesGroupCode
from vae_zoo.distributions import noise
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import Result, Suite
from vae_zoo.evaluation.suites.classes import class_blocks
from vae_zoo.metrics.catalogue import UNUSED
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

IMAGES = 1000  # whose blocks are exchanged
CHUNK = 250  # decoded at once


class Worth(Suite):
    name = "worth of blocks"

    def run(self, e: Context) -> Result:
        numbers = worth(e)
        if judges_swaps(e):
            first, second, *_ = sorted(e.follows("label").values(), reverse=True)
            numbers["separation"] = first - second
        if e.split == "test":
            for name in e.model.blocks:
                if (value := numbers[f"worth/{name}"]) < UNUSED:
                    log.warning(
                        "block %s is unused: when it comes from another image, the decoded image changes by %.2g of the "
                        "reconstruction error; give it less KL weight or more capacity, or leave it out",
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
        drawn, others = model.decode(own), {}
        for kind in set(kinds.values()):
            others[kind] = _encoded(e, donors[kind][rows].clamp(min=0))[1]
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
    """Whether a judge of labels is asked: where another suite of the model asks it anyway, and at level full of all."""
    asked = isinstance(e.model, HasClasses | SharesGroupCode | HasLocalView) or e.is_at_least("full")
    if len(e.model.blocks) < 2 or not asked or not e.has_known_labels:
        return False
    parts = [e.data.first_label[index] for index in e.data.indices.values()]
    scored = e.data.first_label[torch.from_numpy(e.scored)]
    return all((part >= 0).any() for part in parts) and len(scored[scored >= 0].unique()) > 1


def varies_within(model: LatentVariableModel) -> set[str]:
    """The blocks that are there for what varies within a class or group."""
    names = set(model.free_of_class) if isinstance(model, HasClasses) else set()
    names |= {model.own_block} if isinstance(model, SharesGroupCode) else set()
    return names | ({model.local_block} if isinstance(model, HasLocalView) else set())


def pools(e: Context) -> dict[str, tuple[Tensor, Tensor]]:
    """{kind: (images that may stand in [N], what they must share [N] int64, -1: nothing is known)}."""
    images = e.data.indices[e.split]
    anything = torch.zeros(len(images), dtype=torch.int64)
    shared = anything
    if e.data.is_grouped:
        shared = e.data.group_of(images)
    elif e.data.label is not None:
        shared = e.data.first_label[images]
    sizes = shared[shared >= 0].unique(return_counts=True)[1]
    return {"any": (images, anything), "within": (images, shared if (sizes > 1).any() else anything)}


def other_images(scored: Tensor, images: Tensor, shared: Tensor, seed: int) -> Tensor:
    """For each scored image another of the images that shares the same, uniform over these [M]; -1 where there is none."""
    order = shared.argsort(stable=True)
    of_image = {image: place for place, image in enumerate(images[order].tolist())}
    place = torch.tensor([of_image[image] for image in scored.tolist()])
    values, counts = shared[order].unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)[place]  # where those that share the same begin
    count = counts.repeat_interleave(counts)[place]
    step = 1 + (torch.rand(len(place), generator=torch.Generator().manual_seed(seed)) * (count - 1)).long()
    other = images[order][first + (place - first + step) % count]
    known = values.repeat_interleave(counts)[place] >= 0
    return torch.where((count > 1) & known, other, -1)


def swapped(model: LatentVariableModel, own: Codes, other: Codes, block: str) -> Codes:
    """The own codes with this block of the other images; of a class, with all that hangs on it."""
    if not isinstance(model, HasClasses) or model.blocks[block].kind != "categorical":
        return own | {block: other[block]}
    classes = [(other if name == block else own)[name].argmax(1) for name in class_blocks(model)]
    return model.with_class(own, torch.stack(classes, dim=1))


def _encoded(e: Context, index: Tensor) -> tuple[Tensor, Codes]:
    """The images at these places, and their codes."""
    batch = e.data.single(index, e.model.device)
    with noise.per_image(batch["index"], e.seed):
        return batch["image"], e.model.codes(batch)


def _over(value: float, error: float) -> float:
    """To six decimals. Without an error, where all images are drawn exactly, no effect is worth 0 all the same."""
    return round(value / error, 6) + 0.0 if error else (inf if value else 0.0)  # beyond lies the rounding of the sums; no -0
