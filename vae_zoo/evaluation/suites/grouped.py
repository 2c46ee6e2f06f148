"""Suite `evidence of groups`: evaluates the group code as more images are pooled, on grouped data.

k images of one group are pooled to one content code; models without a group code use all their Gaussian blocks.

swap_accuracy_k<k>      the content is decoded with the style of another image: how often a classifier trained on real images
                        predicts the class of the content's donor. style_shown: that of the style's donor, at k = 1
probe/content_k<k>      accuracy of a linear probe fitted on training images. probe/style: from SAMPLES of the style, which
                        the decoder gets; means of nearly collapsed dimensions still hold the class (probe/style_mean)
verification_auc_k<k>   do two disjoint sets of k images come from one group? Scored by the log odds of a shared content;
                        verification_auc_cosine_k<k>: by the angle of the means, _pixels_k<k>: by the distance of the images
identification_k<k>     accuracy of the most probable group of a new image, among all groups, given k images of each
content_std_k<k>        standard deviation of the content's posterior, mean over dimensions
held_out_error_k<k>     squared error of an image decoded from its own style and the content of other images of its group

The evidence is k random images of one group of one split. It contains the image itself, except for `held_out`; the donor of
the style is an image outside the evidence. If groups are classes, pooling itself reveals the class: at k = 10 an untrained
network does well too (probe/untrained_*), so compare models at k = 1. Swaps and probes need classes that occur in the
training images. There is no number for k if a group has fewer than k images.
Source: Bouchacourt et al. (2018), section 5.
"""

import logging
from collections import defaultdict
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vae_zoo.contract import SharesGroupCode
from vae_zoo.data.datamodule import DataModule
from vae_zoo.distributions import Normal, noise
from vae_zoo.distributions.pooling import log_same_group, pool, without_prior
from vae_zoo.evaluation.context import Context, generator
from vae_zoo.evaluation.suite import DoesNotApply, Numbers, Picture, Result, Suite
from vae_zoo.figures import grid
from vae_zoo.figures.charts import line_chart
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.metrics.judge import Judge, partners
from vae_zoo.metrics.probes import linear_classifier
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

COUNTS = (1, 2, 5, 10)  # values of k
NUM_IMAGES = 5_000  # approximate number of images of a split
CHUNK = 256  # images per batch
SHOWN = 6  # groups in the figure of reconstructions


def whole_groups(data: DataModule, split: str, seed: int, count: int = NUM_IMAGES) -> Int[np.ndarray, " N"]:
    """Chooses images of a split in groups that are large enough for evidence.

    Each chosen group has twice the largest k images, or all its images, and as many groups are chosen, at random, as fit.
    Small groups, among them images of an unknown group, are left out if the others have half of the images that share a
    group: the smallest group decides which k are scored.

    Args:
        data: Set up.
        split: Name of the split.
        seed: Seed of the choice.
        count: Approximate number of images.

    Returns:
        Indices of the images.
    """
    random = generator(seed)
    index = random.permutation(data.indices[split].numpy())
    group = np.unique(data.group_of(torch.from_numpy(index)).numpy(), return_inverse=True)[1]
    size = np.bincount(group)
    shared = size[size > 1].sum()
    least = next((2 * k for k in reversed(COUNTS) if size[size >= 2 * k].sum() >= max(shared / 2, 1)), 1)
    if small := int((size < least).sum()):
        log.info("%d of %d groups of %s images have fewer than %d images and are left out", small, len(size), split, least)
    per_group = max(2 * max(COUNTS), count // int((size >= least).sum()))
    order = np.argsort(group, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(group)) - (np.cumsum(size) - size)[group[order]]  # rank of each image within its group
    taken = np.where(size < least, 0, np.minimum(size, per_group))
    by_chance = random.permutation(len(size))
    kept = np.empty(len(size), dtype=bool)
    kept[by_chance] = np.cumsum(taken[by_chance]) <= max(count, per_group)
    return index[(kept & (taken > 0))[group] & (place < per_group)]


def gaussian_blocks(model: LatentVariableModel) -> list[str]:
    """Names of the Gaussian blocks."""
    return [name for name, block in model.blocks.items() if block.kind == "gaussian"]


class Evidence:
    """Images of one split, their codes, and sets of evidence among them.

    The images of a group are on a ring in random order; the evidence of an image is the image and the next k - 1.

    Args:
        model: In eval mode.
        data: Set up, with groups.
        index: The N images.
        seed: Seed of the order.

    Attributes:
        content: Posterior of the shared block from each image alone, [N, D], or of all Gaussian blocks of a model without a
            group code.
        style: Posterior of the block of single images; None: a model without a group code.
        group: Group of each image, 0..G-1.
        count: Images of each group.
    """

    @torch.no_grad()
    def __init__(self, model: LatentVariableModel, data: DataModule, index: Int[np.ndarray, " N"], seed: int = 0):
        self.model, self.data, self.index, self.seed = model, data, torch.from_numpy(index), seed
        self.group = data.group_of(self.index).unique(return_inverse=True)[1]  # [N] in 0..G-1
        self.count = self.group.bincount()  # [G]
        order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
        rings = order[self.group[order].argsort(stable=True)]  # [N] one ring after the other
        ends = self.count.cumsum(0)
        self.first = rings[ends - self.count]  # [G] where each ring begins
        self.next = torch.empty_like(rings)  # [N] the image after each on its ring
        self.next[rings] = rings.roll(-1)
        self.next[rings[ends - 1]] = self.first
        self.content, self.style = self._encode()

    def _encode(self) -> tuple[Normal, Normal | None]:
        """Posteriors of single images, not pooled."""
        model = self.model
        encode = model.encode_images if isinstance(model, SharesGroupCode) else model.encode
        parts = [encode(self.data.single(part, model.device)) for part in self.index.split(CHUNK)]
        if isinstance(model, SharesGroupCode):
            shared, own = (_concatenated([q[name] for q in parts]) for name in (model.shared_block, model.own_block))
            return shared, own
        blocks = [_concatenated([q[name] for q in parts]) for name in gaussian_blocks(self.model)]
        return Normal(*(torch.cat([getattr(q, key) for q in blocks], dim=1) for key in ("mu", "logvar"))), None

    @property
    def styles(self) -> Normal:
        """`style`, for a model with a group code."""
        assert self.style is not None
        return self.style

    @cached_property
    def label(self) -> Int[np.ndarray, " N"]:
        """The label of each image."""
        return self.data.first_label[self.index].numpy()

    def of(self, k: int, skip: int = 0) -> Int[Tensor, "N k"]:
        """Evidence of each image: k images on its ring.

        Args:
            k: Images of the evidence.
            skip: Images between the image and its evidence; 0: the evidence begins with the image.
        """
        return self._walk(torch.arange(len(self.index)), skip + k)[:, skip:]

    def ring(self, k: int) -> Int[Tensor, "G k"]:
        """The first k images of each group's ring."""
        return self._walk(self.first, k)

    def _walk(self, image: Tensor, k: int) -> Tensor:
        """Each image [M] and the k - 1 after it on its ring [M, k]."""
        steps = [image]
        while len(steps) < k:
            steps.append(self.next[steps[-1]])
        return torch.stack(steps, 1)

    def beside_prior(self, evidence: Int[Tensor, "M k"]) -> Normal:
        """The content of sets of evidence with the prior counted once, for `log_same_group`.

        The posterior of a model without groups already contains the prior, which is divided out.

        Args:
            evidence: Rows of images.

        Returns:
            A Gaussian of [M, D].
        """
        content = self.content if isinstance(self.model, SharesGroupCode) else without_prior(self.content)
        group = torch.arange(len(evidence)).repeat_interleave(evidence.shape[1])
        return pool(content[evidence.flatten()], group, len(evidence), "product_with_prior")

    def pooled(self, evidence: Int[Tensor, "M k"]) -> Normal:
        """The content of sets of evidence, [M, D], pooled by the model's rule, or else by the product."""
        group, content = torch.arange(len(evidence)).repeat_interleave(evidence.shape[1]), self.content[evidence.flatten()]
        if isinstance(self.model, SharesGroupCode):
            return self.model.pool(content, group, len(evidence))
        return pool(content, group, len(evidence))

    def style_samples(self) -> Float[Tensor, "N D"]:
        """A sample of the style of each image."""
        with noise.per_image(self.index, self.seed):
            return self.styles.rsample()

    @torch.no_grad()
    def decode(self, content: Float[Tensor, "M _"], style: Float[Tensor, "M _"]) -> Float[Tensor, "M C H W"]:
        """Decodes content and style to mean images in [0, 1]."""
        assert isinstance(self.model, SharesGroupCode)
        device, shared, own = self.model.device, self.model.shared_block, self.model.own_block
        pairs = zip(content.split(CHUNK), style.split(CHUNK))
        return torch.cat([self.model.decode({shared: c.to(device), own: s.to(device)}).cpu() for c, s in pairs])

    def images(self, rows: Int[Tensor, " M"]) -> Float[Tensor, "M C H W"]:
        """The images of these rows, in [0, 1]."""
        return torch.cat([self.data.batch(self.index[part])["image"] for part in rows.split(CHUNK)])

    def mean_image(self, rows: Int[Tensor, "M k"]) -> Float[Tensor, "M _"]:
        """Pixels averaged over each set of images, [M, C H W]."""
        parts = rows.split(CHUNK)
        return torch.cat([self.images(part.flatten()).unflatten(0, part.shape).mean(1).flatten(1) for part in parts])

    def counts(self, times: int = 1, extra: int = 0) -> list[int]:
        """The values of k for which every group has enough images.

        Args:
            times: Disjoint sets of k images.
            extra: Further images.
        """
        return [k for k in COUNTS if times * k + extra <= int(self.count.min())]


class Grouped(Suite):
    """Metrics of the codes of groups as more images are pooled; the docstring of the module defines them."""

    name, needs = "evidence of groups", frozenset({"groups"})

    def run(self, e: Context) -> Result:
        """Computes the numbers that the model and the labels allow."""
        if not gaussian_blocks(e.model):
            raise DoesNotApply("the model has no Gaussian block")
        test = whole_groups(e.data, e.split, e.seed)
        scored = Evidence(e.model, e.data, test, e.seed)
        numbers = dict(verification(scored)) | dict(identification(scored))
        if scored.style is not None:
            numbers |= held_out(scored)
        if e.has_known_labels:
            fitted = whole_groups(e.data, "train", e.seed, 2 * NUM_IMAGES)
            numbers |= probes(Evidence(e.model, e.data, fitted, e.seed), scored)
            if e.untrained is not None:
                fresh = (Evidence(e.untrained, e.data, index, e.seed) for index in (fitted, test))
                numbers |= {name.replace("probe/", "probe/untrained_"): value for name, value in probes(*fresh)}
            if scored.style is not None and e.can_judge:
                numbers |= swaps(scored, e.judge_of("label"))
        if not numbers:
            raise DoesNotApply(f"the {e.split} images have no two groups of two images")
        if not e.keeps_pictures:
            return Result(numbers)
        found = Result(numbers, pictures={"evidence": growth(numbers)})
        if scored.style is not None:
            found.pictures["group_reconstructions"] = group_reconstructions(scored)
            found.pictures["interpolation"] = interpolation(scored)
        return found


# ---- numbers --------------------------------------------------------------------------------------------------------


def swaps(images: Evidence, judge: Judge) -> Numbers:
    """Swap accuracies: content from k images, style from another image."""
    label, style = torch.from_numpy(images.label), images.styles.mu
    for k in images.counts():
        if k >= len(images.index):  # no image is left as donor of a style
            continue
        rows = images.of(k)
        donor = _others(rows, images.seed)
        seen = judge.predict(images.decode(images.pooled(rows).mu, style[donor])).cpu()
        yield f"swap_accuracy_k{k}", float((seen == label)[label >= 0].double().mean())
        if k == 1:
            yield "style_shown", float((seen == label[donor])[label[donor] >= 0].double().mean())


def probes(train: Evidence, test: Evidence) -> Numbers:
    """Accuracy of standardised logistic regression of the known labels, fitted on training images."""
    fitted, scored = train.label >= 0, test.label >= 0
    if len(np.unique(train.label[fitted])) < 2:
        return

    def accuracy(x: Tensor, x_test: Tensor) -> float:
        probe = linear_classifier().fit(to_numpy(x)[fitted], train.label[fitted])
        return probe.score(to_numpy(x_test)[scored], test.label[scored])

    for k in test.counts():
        if k in train.counts():
            yield f"probe/content_k{k}", accuracy(*(part.pooled(part.of(k)).mu for part in (train, test)))
    if test.style is not None:
        yield "probe/style", accuracy(train.style_samples(), test.style_samples())
        yield "probe/style_mean", accuracy(train.styles.mu, test.styles.mu)


def verification(images: Evidence) -> Numbers:
    """AUC of verification: do two disjoint sets of k images come from one group or from two?"""
    if len(images.count) < 2:
        return
    other = partners(images.group, images.seed)  # an image of another group for each
    truth = np.repeat([1, 0], len(other))
    for k in images.counts(times=2):
        rows = images.of(k)
        one, face, next_set = images.beside_prior(rows), images.mean_image(rows), images.of(1, skip=k)[:, 0]
        pairs = (next_set, other)  # sets of the same and of another group, as the images that they begin with
        for name, scores in {
            "": [log_same_group(one, one[begin]) for begin in pairs],
            "_cosine": [torch.cosine_similarity(one.mu, one.mu[begin]) for begin in pairs],
            "_pixels": [-torch.linalg.vector_norm(face - face[begin], dim=1) for begin in pairs],
        }.items():
            yield f"verification_auc{name}_k{k}", float(roc_auc_score(truth, torch.cat(scores)))


def identification(images: Evidence) -> Numbers:
    """Accuracy of identifying the group of a new image, given k other images of each group."""
    counts = images.counts(extra=1)
    if not counts:
        return
    is_new = torch.ones(len(images.index), dtype=torch.bool)
    is_new[images.ring(max(counts))] = False
    new = is_new.nonzero()[:, 0]  # the same for every k
    one = images.beside_prior(new[:, None])
    for k in counts:
        known = images.beside_prior(images.ring(k))  # [G, Dc]
        odds = [log_same_group(one[part][:, None], known[None]) for part in torch.arange(len(new)).split(64)]
        named = torch.cat([part.argmax(1) for part in odds])
        yield f"identification_k{k}", float((named == images.group[new]).double().mean())


def held_out(images: Evidence) -> Numbers:
    """Squared error of a new image decoded from its own style and the content of other images of its group."""
    x = images.images(torch.arange(len(images.index)))
    for k in images.counts(extra=1):
        q = images.pooled(images.of(k, skip=1))
        yield f"content_std_k{k}", float((0.5 * q.logvar).exp().mean())
        drawn = images.decode(q.mu, images.styles.mu)
        yield f"held_out_error_k{k}", float((drawn - x).square().flatten(1).sum(1).mean())


def _others(evidence: Tensor, seed: int) -> Tensor:
    """For each row of evidence [N, k], a uniformly random image that is not in it."""
    generator, N = torch.Generator().manual_seed(seed + 1), len(evidence)
    if evidence.shape[1] >= N:
        raise ValueError(f"need more than {evidence.shape[1]} images, got {N}")
    other = torch.randint(N, (N,), generator=generator)
    while (taken := (evidence == other[:, None]).any(1)).any():
        other[taken] = torch.randint(N, (int(taken.sum()),), generator=generator)
    return other


# ---- pictures -------------------------------------------------------------------------------------------------------


def growth(numbers: dict[str, float]) -> Picture:
    """Line chart of all scores in [0, 1] against k."""
    curves = defaultdict(dict)
    for name, value in numbers.items():
        stem, found, k = name.rpartition("_k")
        if found and k.isdecimal() and not name.startswith(("content_std", "held_out")):
            curves[stem][int(k)] = value
    return line_chart(curves, "number of pooled images k", "", "quality of the content code", (0, 1))


def group_reconstructions(images: Evidence) -> Picture:
    """Draws images of some groups, and their reconstructions with the content of 1, 2, 5, 10 images of the group."""
    rows = images.ring(1)[:: max(1, len(images.count) // SHOWN), 0][:SHOWN]
    columns = [images.images(rows)]
    for k in images.counts():
        columns.append(images.decode(images.pooled(images.of(k)[rows]).mu, images.styles.mu[rows]))
    labels = ["image", *(f"from {k}" for k in images.counts())]
    return grid(torch.stack(columns, 1).numpy(), column_labels=labels, title="content pooled from k images of the group")


def interpolation(images: Evidence, steps: int = 7) -> Picture:
    """Draws the interpolation between two images: the content along the rows, the style along the columns.

    Args:
        images: With styles.
        steps: Codes along each axis.
    """
    first, last = images.ring(1)[[0, -1], 0]
    t = torch.linspace(0, 1, steps)[:, None]
    walk = [torch.lerp(code.mu[first].cpu(), code.mu[last].cpu(), t) for code in (images.content, images.styles)]
    drawn = images.decode(walk[0].repeat_interleave(steps, 0), walk[1].repeat(steps, 1))
    title = "content changes from top to bottom, style from left to right"
    return grid(drawn.unflatten(0, (steps, steps)).numpy(), title=title)


def _concatenated(parts: list[Normal]) -> Normal:
    return Normal(*(torch.cat([getattr(q, name).cpu() for q in parts]) for name in ("mu", "logvar")))
