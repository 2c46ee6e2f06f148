"""Suites for data with known factors: disentanglement scores and the block-factor matrix."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from vae_zoo.data.datamodule import DataModule
from vae_zoo.evaluation.context import NUM_TEST, NUM_TRAIN, Codes, Context, pixels, targets
from vae_zoo.evaluation.suite import DoesNotApply, Level, Numbers, Result, Suite
from vae_zoo.metrics import disentanglement, probes, whole_set

log = logging.getLogger(__name__)

NUM_MORE = 35_000  # further codes for the scores that hold a factor fixed


class Disentanglement(Suite):
    """Scores of codes against the discrete factors, on samples of the whole grid, or else on training and scored images.

    During training the images of a grid are training and validation images too, since settings may be chosen by these
    scores; the scores that need the whole grid (beta_vae, factor_vae) are left out.

    For MIG, modularity, IRS and SAP a categorical block is one column, its most probable value: its probabilities have
    nearly the same information each, so the gap between the best two columns would be 0. DCI, explicitness, BetaVAE and
    FactorVAE score use the probabilities. <score>/gaussian: without the categorical blocks, for models with both kinds.
    """

    name, needs = "disentanglement", frozenset({"factors"})

    def run(self, e: Context) -> Result:
        """Computes the scores of all blocks, and of the Gaussian ones alone if there are others."""
        assert e.data.factors is not None
        factors = discrete(e.data)
        varying = varying_columns(e)
        if len(varying) < 2:
            raise DoesNotApply(f"these scores need two discrete factors that vary, but the data set has {len(varying)}")
        if len(varying) < len(factors):
            log.info("disentanglement is scored on %s, which vary", [e.data.factor_names[i] for i in varying])
        if len(factors) < len(e.data.factor_sizes):
            log.info("disentanglement is scored on %s, not on continuous factors", [e.data.factor_names[i] for i in factors])
        names = e.codes.names
        gaussian = [name for name in names if e.model.blocks[name].kind == "gaussian"]
        if (width := _columns(e, names, e.scored[:1], hard=True).shape[1]) < 2:
            raise DoesNotApply(f"at least two code dimensions are needed, the model has {width}")
        numbers = dict(scores(e, names))
        if sum(e.model.blocks[name].size for name in gaussian) >= 2 and len(gaussian) < len(names):
            numbers |= {f"{score}/gaussian": value for score, value in scores(e, gaussian)}
        return Result(numbers)


def discrete(data: DataModule) -> list[int]:
    """Finds the columns of the discrete factors."""
    return [column for column, size in enumerate(data.factor_sizes) if size]


def varying_columns(e: Context) -> list[int]:
    """Finds the columns of the discrete factors that vary in the images for fitting and in those that are scored."""
    assert e.data.factors is not None
    values = e.data.factors
    return [c for c in discrete(e.data) if all(len(values[index, c].unique()) > 1 for index in (e.train, e.scored))]


def scores(e: Context, names: Sequence[str]) -> Numbers:
    """The scores of the concatenated codes of some blocks.

    Args:
        e: Context of the evaluation.
        names: Names of the blocks.

    Yields:
        Name and value.
    """
    data, on_grid = e.data, e.data.is_grid and e.split == "test"
    if on_grid:
        rng = np.random.RandomState(e.seed)
        draws = [disentanglement.sample_factors(data.factor_sizes, n, rng) for n in (NUM_TRAIN, NUM_TEST, NUM_MORE)]
        index = [np.asarray(np.ravel_multi_index(tuple(factors.T), data.factor_sizes)) for factors in draws]
    else:
        assert data.factors is not None
        index = [e.train, e.scored]
        draws = [data.factors[i].numpy()[:, varying_columns(e)].astype(np.int64) for i in index]
    train, test = ((_columns(e, names, i, hard=True), factors) for i, factors in zip(index[:2], draws))
    blocks = [e.model.blocks[name] for name in names]
    is_class = np.concatenate([[True] if block.kind == "categorical" else [False] * block.size for block in blocks])
    classes = np.flatnonzero(is_class).tolist()
    yield "mig", disentanglement.mig(*train, classes=classes)
    yield "modularity", disentanglement.modularity(*train, classes=classes)
    yield "irs", disentanglement.irs(*train)
    yield "sap", disentanglement.sap(*train, test=test, seed=e.seed)
    if not e.is_at_least("full"):
        return
    yield "sap_continuous", disentanglement.sap(*train, continuous=True)
    train, test = ((_columns(e, names, i), factors) for i, factors in zip(index[:2], draws))
    yield "explicitness", disentanglement.explicitness(*train, test=test, seed=e.seed)
    for name, value in disentanglement.dci(*train, test=test, seed=e.seed).items():
        yield f"dci_{name}", value
    if on_grid:
        codes, sample = _columns(e, names, np.concatenate(index)), disentanglement.FactorSample(np.concatenate(draws))
        yield "beta_vae", disentanglement.beta_vae_score(codes.__getitem__, sample, seed=e.seed)
        yield "factor_vae", disentanglement.factor_vae_score(codes.__getitem__, sample, seed=e.seed)


def _columns(e: Context, names: Sequence[str], index: np.ndarray, hard: bool = False) -> np.ndarray:
    """Concatenated codes of these blocks [N, D]. hard: a categorical block is one column with its most probable value."""
    blocks, kinds = e.codes.blocks(index), e.model.blocks
    as_number = {name: hard and kinds[name].kind == "categorical" for name in names}
    parts = [blocks[name].argmax(1)[:, None] if as_number[name] else blocks[name] for name in names]
    return np.hstack([part.astype(np.float32) for part in parts]) if parts else np.empty((len(index), 0), np.float32)


class WholeSet(Suite):
    """Scores of vae_zoo.metrics.whole_set, over all images of the set, which some papers do not split.

    whole_set/factor_votes, beta_pairs, beta_pairs_train and sap_classes, of the Gaussian blocks together. Enabled by
    `evaluation.suites`.
    """

    name, needs, split = "scores of the whole set", frozenset({"factors"}), "test"

    def run(self, e: Context) -> Result:
        """Computes the scores."""
        names = [name for name in e.codes.names if e.model.blocks[name].kind == "gaussian"]
        if not names or not all(e.data.factor_sizes):
            raise DoesNotApply("it needs Gaussian blocks and discrete factors")
        assert e.data.factors is not None
        index = np.random.default_rng(e.seed).permutation(len(e.data.images))
        codes, factors = _columns(e, names, index), e.data.factors.numpy()[index].astype(np.int64)
        found = dict(zip(("beta_pairs_train", "beta_pairs"), whole_set.beta_pairs(codes, factors)))
        found |= {score.__name__: score(codes, factors) for score in (whole_set.factor_votes, whole_set.sap_classes)}
        return Result({f"whole_set/{name}": value for name, value in found.items()})


class BlockFactors(Suite):
    """The block-factor matrix: scores of an MLP probe for each factor from each block, an untrained encoder and the pixels.

    linear/<block>/<factor>: of a linear probe. block_mean/<block>/identity and style: mean over the factors of identities
    and of single images, if the data set distinguishes them.

    Args:
        level: Lowest level at which it runs.
    """

    name = "block-factor matrix"

    def __init__(self, level: Level = "quick"):
        self.level = level

    def run(self, e: Context) -> Result:
        """Fits the probes on training images and scores them."""
        (known, factors), (known_test, _) = targets(e.data, e.train), targets(e.data, e.scored)
        if e.data.factors is None and not e.has_known_labels:
            raise DoesNotApply(
                "the data set has neither factors nor two or more classes that all occur in the training images"
            )
        if not e.codes.names:
            raise DoesNotApply("no block has one vector per image")
        options = {"seed": e.seed, "jobs": -1 if len(e.train) > 2000 else 1}
        train, test = _rows(e, e.train), _rows(e, e.scored)
        matrix = probes.block_factor_matrix(train, known, test, known_test, factors, **options)
        blocks = [{name: part[name] for name in e.codes.names} for part in (train, test)]
        linear = probes.block_factor_matrix(blocks[0], known, blocks[1], known_test, factors, hidden=None, **options)
        columns = [factor.name for factor in factors]
        numbers = dict(_named("block", matrix, train, columns, e.data))
        numbers |= _named("linear", linear, e.codes.names, columns, e.data)
        title = "score of a probe for each factor (columns) from each block (rows)"
        return Result(numbers, {"blocks": (title, matrix, list(train), columns)})


def _rows(e: Context, index: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs of the probes, {row of the matrix: [N, D]}."""
    found = e.codes.blocks(index)
    if e.untrained is not None:
        found["untrained"] = Codes(e.untrained, e.data)(index)
    return found | {"pixels": pixels(e.data, index)}


def _named(key: str, matrix: np.ndarray, rows: Iterable[str], columns: Sequence[str], data: DataModule) -> Numbers:
    for row, values in zip(rows, matrix):
        yield from ((f"{key}/{row}/{column}", value) for column, value in zip(columns, values))
        for kind, members in (("identity", data.identity_factors), ("style", data.style_factors)):
            if chosen := [value for column, value in zip(columns, values) if column in members]:
                yield f"{key}_mean/{row}/{kind}", float(np.nanmean(chosen))
