"""Suite `local and global code`: does the global code hold the class, and is the local code used?

For models with a global and a local code. Codes are posterior means. An accuracy is the share of images in which a
classifier trained on real TRAINING images (vae_zoo.metrics.judge) predicts the label of the ORIGINAL image from the decoded
image. High values are good for rec, resample_local and swap_local; resample_global and swap_global should be at chance.

judge_accuracy              accuracy of the classifier on the real images, an upper reference for the others
accuracy_rec                reconstructions
accuracy_resample_local     z_local sampled from its prior
accuracy_resample_global    z_global sampled from its prior
accuracy_swap_local         z_local of another image
accuracy_swap_global        z_global of another image; above chance if z_local holds the class
accuracy_resample_within    z_global sampled from the prior of the image's own cluster, if the model has clusters
colour_transfer_ratio       after a swap of z_local: L1 distance of the mean colour to that of the local donor, divided by
                            the distance to the global donor (means over the images); below 1: the colour comes from
                            z_local; 1: equally far from both donors; above 1: it comes from z_global

The accuracies alone do not show that the information is separated, since a z_local that the decoder ignores also gets good
values; use the ratio. The chance level of accuracy_resample_global is at most the share of the largest class.
Source: 51616/split-vae, whose classifier is also trained on test images and gets images in two different ranges of values.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vae_zoo.contract import Batch, Codes, HasClasses, HasLocalView
from vae_zoo.data.arrays import Factor
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import Numbers, Picture, Result, Suite
from vae_zoo.evaluation.suites.classes import class_blocks
from vae_zoo.evaluation.suites.samples import sampled
from vae_zoo.figures import grid
from vae_zoo.metrics import clustering, probes
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.judge import CHUNK
from vae_zoo.models.base import LatentVariableModel

SHOWN = 8  # rows and columns of the grids
PROBED = 3000  # training images and scored images of a probe of the controls
SCORES = ("cluster_accuracy_majority", "cluster_accuracy_hungarian", "nmi", "ami")


class LocalGlobal(Suite):
    """Metrics of a model with a global and a local code; the module's docstring defines them."""

    name, capability = "local and global code", HasLocalView

    def run(self, e: Context) -> Result:
        """Computes the metrics from posterior means, and draws the figures."""
        shown = pictures(e.model, e.data.single(e.to_show(SHOWN), e.model.device)) if e.keeps_pictures else {}
        return Result(dict(numbers(e)), pictures=shown)


class LocalGlobalControls(Suite):
    """Controls of LocalGlobal, whose metrics are also good for a decoder that ignores a code.

    colour_r2_<block>       R2 of an MLP probe for the background's colour (median of the border pixels), mean over channels
    class_<block>           score of an MLP probe for the label: 0 = as good as the most frequent class, 1 = perfect
    kmeans_<block>/<score>, kmeans_pixels/<score>   k-means on the codes, and on the pixels of the same images, with the same
                            number of clusters as the model or, if it has none, as many as there are labels
    """

    name, capability, split = "controls of global and local code", HasLocalView, "test"

    def run(self, e: Context) -> Result:
        """Fits probes and clusters on training images and scores them."""
        split = cast(HasLocalView, e.model)
        train, scored = e.train[:PROBED], e.scored[:PROBED]
        blocks = split.global_block, split.local_block
        codes = [{name: e.codes.blocks(rows)[name] for name in blocks} for rows in (train, scored)]
        colours = [_border_colours(e, rows) for rows in (train, scored)]
        channels = [Factor(f"channel {i}", 0, "continuous") for i in range(colours[0].shape[1])]
        r2 = probes.block_factor_matrix(codes[0], colours[0], codes[1], colours[1], channels, seed=e.seed)
        found = {f"colour_r2_{name}": float(np.nanmean(row)) for name, row in zip(blocks, r2) if not np.isnan(row).all()}
        if e.has_known_labels:
            labels = [e.data.first_label[torch.from_numpy(rows)].numpy() for rows in (train, scored)]
            for name in blocks:
                pairs = [(part[name], label) for part, label in zip(codes, labels)]
                found[f"class_{name}"] = probes.probe(pairs[0], pairs[1], kind="categorical", seed=e.seed)
            found |= dict(_clusters(e, blocks))
        return Result(found)


def _border_colours(e: Context, index: np.ndarray) -> np.ndarray:
    """[N, C]: median of the border pixels, the colour of the background if that has one colour."""
    parts = [e.data.single(part)["image"] for part in torch.from_numpy(index).split(CHUNK)]
    borders = (torch.cat([x[..., 0, :], x[..., -1, :], x[..., 1:-1, 0], x[..., 1:-1, -1]], dim=-1) for x in parts)
    return torch.cat([border.median(dim=-1).values for border in borders]).numpy()


def _clusters(e: Context, blocks: tuple[str, ...]) -> Numbers:
    index = e.data.indices[e.split].numpy()
    labels = [e.data.first_label[torch.from_numpy(rows)].numpy() for rows in (e.train, index)]
    sizes = [block.size for block in e.model.blocks.values() if block.kind == "categorical"]
    count = max(sizes, default=len(np.unique(labels[0][labels[0] >= 0])))
    found = {"pixels": e.pixel_clusters(count)}
    for name in blocks:
        train = e.codes.blocks(e.train)[name]
        assign = clustering.k_means(train, count, seed=e.seed)
        found[name] = assign(train), assign(e.codes.blocks(index)[name])
    for name, (train, scored) in found.items():
        scores = clustering.scores(scored, labels[1], (train, labels[0]))
        yield from ((f"kmeans_{name}/{score}", scores[score]) for score in SCORES)


class SampledCodes(Suite):
    """The metrics of LocalGlobal from samples of the codes instead of means, on all test images: sampled_codes/<name>.

    accuracy_resample_<block>_official: the images are passed to the classifier as (1 + x) / 2, as in 51616/split-vae.
    Enabled by `evaluation.suites`.
    """

    name, capability, needs, split = "sampled codes", HasLocalView, frozenset({"labels"}), "test"

    def run(self, e: Context) -> Result:
        """Computes the metrics from one sample of each image."""
        samples = sampled(e, e.data.indices["test"], e.seed)
        return Result({f"sampled_codes/{name}": value for name, value in numbers(e, samples)})


@torch.no_grad()
def numbers(e: Context, samples: Codes | None = None) -> Numbers:
    """Computes the metrics from posterior means of the scored images, or from samples of all test images.

    Args:
        e: Context of the evaluation.
        samples: Codes of all test images, for which <name>_official is computed too; None: posterior means.

    Yields:
        Name and value.
    """
    index = torch.from_numpy(e.scored) if samples is None else e.data.indices["test"]
    codes = samples or {name: torch.from_numpy(part) for name, part in e.codes.blocks(e.scored).items()}
    codes = {name: part.to(e.model.device) for name, part in codes.items()}
    with torch.random.fork_rng():
        torch.manual_seed(e.seed)
        other = another(len(index))
        prior = e.model.sample_prior(len(index))
        own = None
        if isinstance(e.model, HasClasses):
            own = e.model.sample_class(torch.stack([codes[name].argmax(1) for name in class_blocks(e.model)], dim=1))
    elsewhere = {name: code[other] for name, code in codes.items()}
    split = cast(HasLocalView, e.model)
    z_global, z_local = split.global_block, split.local_block
    swapped = codes | {z_local: elsewhere[z_local]}
    colour = torch.cat([mean_colour(e.data.single(part)["image"]) for part in index.split(CHUNK)])  # [N, C]
    seen = torch.cat([mean_colour(image).cpu() for image in decoded(e.model, swapped)])
    to_local, to_global = ((seen - donor).abs().sum(1).mean().item() for donor in (colour[other], colour))
    yield "colour_transfer_ratio", to_local / to_global
    if not e.can_judge:
        return
    judge, label = e.judge_of("label"), e.data.first_label[index]

    def accuracy(images: Iterable[Tensor]) -> float:
        named = torch.cat([judge.predict(part).cpu() for part in images])
        return (named == label)[label >= 0].double().mean().item()

    yield "judge_accuracy", accuracy(e.data.single(part)["image"] for part in index.split(CHUNK))
    mixed = {
        "rec": codes,
        "resample_local": codes | {z_local: prior[z_local]},
        "resample_global": codes | {z_global: prior[z_global]},
        "swap_local": swapped,
        "swap_global": codes | {z_global: elsewhere[z_global]},
    }
    if own is not None:
        mixed["resample_within"] = codes | {z_global: own[z_global]}
    for name, part in mixed.items():
        yield f"accuracy_{name}", accuracy(decoded(e.model, part))
        if samples is not None and name.startswith("resample"):
            yield f"accuracy_{name}_official", accuracy((1 + image) / 2 for image in decoded(e.model, part))


def another(N: int) -> Int[Tensor, " N"]:
    """Draws a permutation of N images without fixed points, from torch's global generator."""
    order = torch.randperm(N)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other


def mean_colour(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C"]:
    """Mean colour of each image."""
    return images.mean((2, 3))


def decoded(model: LatentVariableModel, codes: Codes) -> Iterator[Float[Tensor, "_ C H W"]]:
    """Decodes codes in chunks."""
    count = len(next(iter(codes.values())))
    for rows in torch.arange(count).split(CHUNK):
        yield model.decode({name: code[rows] for name, code in codes.items()})


# ---- pictures -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def pictures(model: LatentVariableModel, batch: Batch) -> dict[str, Picture]:
    """Draws images and views with their reconstructions, and samples of one code with the other code fixed.

    The swaps of vae_zoo.evaluation.pictures show style transfer.

    Args:
        model: With a local view, in eval mode.
        batch: Images.
    """
    assert isinstance(model, HasLocalView)
    x = batch["image"]
    codes, count = model.codes(batch), len(x)
    x_aux = model.local_view(x)
    columns = [x, model.decode(codes), x_aux, model.decode_local(codes[model.local_block])]
    found = {}
    if x_aux.shape == x.shape:
        heads = ["image", "from both codes", "local view", "from z_local"]
        found["views"] = grid(to_numpy(torch.stack(columns, 1)), column_labels=heads)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = model.sample_prior(SHOWN)
    blocks = model.global_block, model.local_block
    for kept, moved in (blocks, blocks[::-1]):
        mixed = {name: code.repeat_interleave(SHOWN, 0) for name, code in codes.items()}
        mixed[moved] = drawn[moved].repeat(count, 1)
        images = model.decode(mixed).unflatten(0, (count, SHOWN))
        title = f"{kept} from the image of the row, {moved} sampled from its prior, one sample per column"
        found[f"generation_{kept}"] = grid(to_numpy(torch.cat([x[:, None], images], 1)), title=title)
    return found
