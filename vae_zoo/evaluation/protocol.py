"""One protocol for every method: what the data know and which blocks the model has decide which numbers there are.

level   basic   bounds, active units; MIG, SAP, modularity, IRS; accuracy of classes; what the evidence of a group is worth;
                clusters and facets against labels; local and global code; objects
        quick   + block-factor matrix, linear probes, importance-weighted bound
        full    + DCI, explicitness, FactorVAE and BetaVAE scores, aggregate posterior, swaps between blocks, FID and KID

Codes are posterior means, all blocks side by side, every image a group of its own; each distinct image is encoded once.
Sets with a full factor grid are scored on factor vectors drawn from the whole grid, as the field does; probes, judges and
clusters are fitted on training images and scored on test images. Source of the settings: disentanglement_lib's study.
"""

import logging
import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from vae_zoo.contract import HasFacets
from vae_zoo.data.datamodule import DataModule, EvalBatches
from vae_zoo.evaluation.context import NUM_TEST, NUM_TRAIN, Codes, Evaluation, rows, targets
from vae_zoo.evaluation.suites import classes
from vae_zoo.evaluation.suites.clusters import facets
from vae_zoo.evaluation.suites.grouped import evidence
from vae_zoo.evaluation.suites.local_global import split
from vae_zoo.evaluation.suites.objects import scenes
from vae_zoo.metrics import clustering, disentanglement, generation, judge, likelihood, probes
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

NUM_GENERATED = 10_000  # images that FID and KID compare, at most
IW_SAMPLES = 100
IW_IMAGES = {"quick": 256, "full": 1_000}

Numbers = Iterator[tuple[str, float]]


def evaluate(model: LatentVariableModel, data: DataModule, level: str = "basic", **options) -> Evaluation:
    """Everything of this level that fits the model and the data. model: in eval mode. options: those of Evaluation."""
    evaluation = Evaluation(model, data, level, **options)
    for least, what, step in STEPS:
        if not evaluation.is_at_least(least):
            continue
        start = time.monotonic()
        for name, value in step(evaluation):
            evaluation.numbers[f"{evaluation.split}/{name}"] = float(value)
        if (seconds := time.monotonic() - start) > 1:
            log.info("%s: %.0f s", what, seconds)
    return evaluation


# ---- how probable the images are ------------------------------------------------------------------------------------


def _bounds(e: Evaluation) -> Numbers:
    """Of all images of the split; while training the validation has them already."""
    if e.split != "test":
        return
    numbers, e.kl = likelihood.bounds(e.model, EvalBatches(e.data, "test", {"device": e.model.device}))
    yield from numbers.items()
    if "elbo" in numbers:
        yield "bits_per_dim", likelihood.bits_per_dim(-numbers["elbo"], e.model.image_shape)
    for name, mu in e.gaussian_codes.items():
        yield f"active_units_{name}", likelihood.active_units(torch.from_numpy(mu))


def _importance_weighted(e: Evaluation) -> Numbers:
    """Importance-weighted bound on -log p(x), nats per image, on some images spread over the split."""
    if likelihood.has_bound(e.model):
        batches = EvalBatches(e.data, e.split, {"device": e.model.device}, batch_size=64, most=IW_IMAGES[e.level])
        yield f"nll_iw{IW_SAMPLES}", likelihood.importance_weighted(e.model, batches, IW_SAMPLES)


@torch.no_grad()
def _aggregate(e: Evaluation) -> Numbers:
    """What the posteriors of the scored images are together, for each Gaussian block."""
    parts = [e.model.encode(e.data.single(part, e.model.device)) for part in torch.from_numpy(e.scored).split(256)]
    for name, block in e.model.blocks.items():
        if block.kind == "gaussian":
            mu, logvar = (torch.cat([getattr(part[name], key) for part in parts]) for key in ("mu", "logvar"))
            for key, value in likelihood.aggregate_posterior(mu, logvar, seed=e.seed).items():
                yield f"aggregate/{name}/{key}", value


# ---- which code holds which factor ----------------------------------------------------------------------------------


def _disentanglement(e: Evaluation) -> Numbers:
    """Scores of codes against factors; on the whole grid where the set is one, else on training and scored images."""
    data = e.data
    if data.factors is None or not all(factor.size > 0 for factor in data.factor_info):
        return
    if data.is_grid:
        rng = np.random.RandomState(e.seed)
        draws = [disentanglement.sample_factors(data.factor_sizes, n, rng) for n in (NUM_TRAIN, NUM_TEST)]
        index = [np.ravel_multi_index(factors.T, data.factor_sizes) for factors in draws]
    else:
        index = [e.train, e.scored]
        draws = [data.factors[i].numpy().astype(np.int64) for i in index]
    train, test = ((e.codes(i), factors) for i, factors in zip(index, draws))
    if train[0].shape[1] < 2:
        log.warning("scores of disentanglement need two code dimensions, this model has %d: left out", train[0].shape[1])
        return
    yield "mig", disentanglement.mig(*train)
    yield "modularity", disentanglement.modularity(*train)
    yield "irs", disentanglement.irs(*train)
    yield "sap", disentanglement.sap(*train, test=test, seed=e.seed)
    if not e.is_at_least("full"):
        return
    yield "sap_continuous", disentanglement.sap(*train, continuous=True)
    yield "explicitness", disentanglement.explicitness(*train, test=test, seed=e.seed)
    for name, value in disentanglement.dci(*train, test=test, seed=e.seed).items():
        yield f"dci_{name}", value
    if data.is_grid:
        grid = disentanglement.GridIndex(data.factor_sizes)
        yield "beta_vae", disentanglement.beta_vae_score(e.codes, grid, seed=e.seed)
        yield "factor_vae", disentanglement.factor_vae_score(e.codes, grid, seed=e.seed)


def _blocks(e: Evaluation) -> Numbers:
    """The block-factor matrix: what a probe reads of each factor from each block, an untrained encoder and the pixels;
    and the same by a linear probe, of the blocks alone. block_mean/<block>/identity and style: its mean over the factors of
    identities and of single images, where the data tell them apart."""
    (train_targets, factors), (test_targets, _) = targets(e.data, e.train), targets(e.data, e.scored)
    if not factors or (e.data.factors is None and not e.has_known_labels) or not e.codes.blocks(e.scored):
        return
    sources = [e.codes.blocks]
    if e.untrained is not None:
        untrained = Codes(e.untrained, e.data)
        sources.append(lambda index: {"untrained": untrained(index)})
    sources.append(lambda index: {"pixels": _pixels(e.data, index)})
    train, test = ({k: v for s in sources for k, v in s(index).items()} for index in (e.train, e.scored))
    columns, known = [factor.name for factor in factors], (train_targets, test_targets)
    for hidden, key, blocks in ((128, "block", list(train)), (None, "linear", list(e.codes.blocks(e.scored)))):
        codes = ({name: part[name] for name in blocks} for part in (train, test))
        pairs = [argument for pair in zip(codes, known) for argument in pair]
        jobs = -1 if len(e.train) > 2000 else 1
        matrix = probes.block_factor_matrix(*pairs, factors, hidden=hidden, seed=e.seed, jobs=jobs)
        if key == "block":
            e.tables["blocks"] = ("what a probe reads of each factor from each block", matrix, blocks, columns)
        for block, values in zip(blocks, matrix):
            for column, value in zip(columns, values):
                yield f"{key}/{block}/{column}", value
            for kind in ("identity", "style"):  # where the data say which factors belong to whom
                own = [column in getattr(e.data, f"{kind}_factors") for column in columns]
                if any(own):
                    yield f"{key}_mean/{block}/{kind}", np.nanmean(values[own])


def _swaps(e: Evaluation) -> Numbers:
    """What a judge of real training images sees in reconstructions, and which block's donor it sees in swaps."""
    if len(e.model.blocks) < 2:
        return
    seen = {}
    for name in e.judged():
        one = e.judge_of(name)
        batches = [e.data.single(part, e.model.device) for part in torch.from_numpy(e.scored).split(256)]
        yield f"judge/{name}", one.accuracy
        yield f"judge_rec/{name}", judge.reconstruction_accuracy(e.model, batches, one)
        seen[name] = judge.swap_consistency(e.model, batches, one, seed=e.seed)
    for block in e.model.blocks:
        for name, shares in seen.items():
            yield f"swap/{block}/{name}", shares[f"follows_{block}"]
    values = np.array([[shares[f"follows_{block}"] for shares in seen.values()] for block in e.model.blocks])
    if values.size:
        title = "share of swaps that show the block donor's value"
        e.tables["swaps"] = (title, values, list(e.model.blocks), list(seen))


def _pixels(data: DataModule, index: np.ndarray) -> np.ndarray:
    return torch.cat([data.batch(part)["image"].flatten(1) for part in torch.from_numpy(index).split(1000)]).numpy()


# ---- clusters, samples ----------------------------------------------------------------------------------------------


def _clusters(e: Evaluation) -> Numbers:
    """Each categorical block's arg max: how many values are used, and where labels are known the agreement with them; maps
    fitted on train, applied to the split."""
    if isinstance(e.model, HasFacets):  # whose numbers have these names
        return
    names = [name for name, block in e.model.blocks.items() if block.kind == "categorical"]
    index = e.train, e.data.indices[e.split].numpy()
    for name in names:
        clusters = [e.codes.blocks(part)[name].argmax(1) for part in index]
        prefix = "" if len(names) == 1 else f"{name}/"
        if e.has_known_labels:
            labels = [e.data.first_label[part].numpy() for part in index]
            for key, value in clustering.scores(clusters[1], labels[1], (clusters[0], labels[0])).items():
                yield f"{prefix}{key}", value
        yield f"{prefix}clusters_used", clustering.used(clusters[1])
        if e.split != "val":  # while training only the numbers are kept
            e.pictures[f"members_{name}"] = classes.cluster_members(e, name)


@torch.no_grad()
def _samples(e: Evaluation) -> Numbers:
    """FID and KID of samples from the prior against images of the split, in the features of a judge, and of Inception
    when its weights are there."""
    targets = e.judged()[:1]
    if not targets and e.inception is None:
        return
    real = torch.from_numpy(rows(e.data, e.split, NUM_GENERATED, e.seed))
    with torch.random.fork_rng():
        torch.manual_seed(e.seed)
        fake = torch.cat([e.model.sample(len(part)).cpu() for part in real.split(256)])
    images = torch.cat([e.data.batch(part)["image"] for part in real.split(256)])
    for target in targets:
        yield from generation.generation_scores(images, fake, e.judge_of(target), seed=e.seed).items()
    if e.inception is not None:
        yield from generation.generation_scores(images, fake, inception_weights=e.inception, seed=e.seed).items()


STEPS = (
    ("basic", "bounds", _bounds),
    ("basic", "disentanglement", _disentanglement),
    ("basic", "evidence of groups", evidence),
    ("basic", "accuracy of the classes", classes.accuracy),
    ("basic", "classes in the blocks", classes.separation),
    ("basic", "clusters", _clusters),
    ("basic", "clusters of the facets", facets),
    ("basic", "local and global code", split),
    ("basic", "objects", scenes),
    ("quick", "importance-weighted bound", _importance_weighted),
    ("quick", "block-factor matrix", _blocks),
    ("full", "aggregate posterior", _aggregate),
    ("full", "judges and swaps", _swaps),
    ("full", "FID and KID", _samples),
)


def finite(values: dict[str, float]) -> dict[str, float]:
    """What may stand in metrics.json; the log says what is left out."""
    for name, value in values.items():
        if not math.isfinite(value):
            log.warning("%s is %s and left out of metrics.json", name, value)
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
