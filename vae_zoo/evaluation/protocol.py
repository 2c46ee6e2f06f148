"""One protocol for every method: what the data know and which blocks the model has decide which numbers there are.

level   basic   bounds; MIG, SAP, modularity, IRS          seconds; at the end of every run
        quick   + block-factor matrix, importance-weighted bound, clusters
        full    + DCI, explicitness, FactorVAE and BetaVAE scores

Codes are posterior means, all blocks side by side; each distinct image is encoded once. Sets with a full factor grid are
scored on factor vectors drawn from the whole grid, as the field does; probes, judges and clusters are fitted on training
images and scored on test images. Source of the settings: disentanglement_lib's study.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from vae_zoo.data.datamodule import DataModule, Factor
from vae_zoo.metrics import clustering, disentanglement, probes
from vae_zoo.metrics.likelihood import importance_weighted
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

LEVELS = ("basic", "quick", "full")
NUM_TRAIN, NUM_TEST = 10_000, 5_000  # codes that estimators are fitted on and scored on
IW_SAMPLES = 100
IW_IMAGES = {"quick": 256, "full": 2_000}


@dataclass
class Results:
    """numbers: as in metrics.json. tables: {name: (values [R, C], row names, column names)}, drawn as heat maps."""

    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, tuple[np.ndarray, list[str], list[str]]] = field(default_factory=dict)


class Codes:
    """Posterior means of the images of a data set, [N, D] or by block, each image encoded when it is first asked for."""

    def __init__(self, model: LatentVariableModel, data: DataModule, batch_size: int = 256):
        self.model, self.data, self.batch_size = model, data, batch_size
        self.known = np.zeros(len(data.images), dtype=bool)
        self.codes: np.ndarray | None = None

    def __call__(self, index: np.ndarray) -> np.ndarray:
        new = torch.from_numpy(np.unique(index[~self.known[index]]))
        for part in new.split(self.batch_size):
            codes = self._encode(part)
            if self.codes is None:
                self.codes = np.empty((len(self.known), codes.shape[1]), dtype=np.float32)
            self.codes[part.numpy()] = codes
        self.known[new.numpy()] = True
        return self.codes[index]

    def blocks(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """{block: [N, size]}; only blocks of one vector an image."""
        names = self._names()
        cuts = np.cumsum([self.model.blocks[name].size for name in names])[:-1]
        return dict(zip(names, np.split(self(index), cuts, axis=1)))

    def _names(self) -> list[str]:
        return [name for name, block in self.model.blocks.items() if block.kind != "objects"]

    @torch.no_grad()
    def _encode(self, index: torch.Tensor) -> np.ndarray:
        posterior = self.model.encode(self.data.batch(index, self.model.device))
        return torch.cat([posterior[name].mean for name in self._names()], dim=1).float().cpu().numpy()


def evaluate(
    model: LatentVariableModel,
    data: DataModule,
    level: str = "basic",
    untrained: LatentVariableModel | None = None,
    seed: int = 0,
) -> Results:
    """Everything of this level that fits the model and the data, but the bounds. untrained: the model before training."""
    results = Results()
    codes = Codes(model, data)
    steps = [_disentanglement, *([_bounds, _blocks, _clusters] if level != "basic" else [])]
    for step in steps:
        for name, value in step(model, data, codes, level, untrained, seed, results):
            results.numbers[name] = float(value)
    return results


def targets(data: DataModule, index: np.ndarray) -> tuple[np.ndarray, list[Factor]]:
    """What is known of these images: the factors [N, F], or else the labels."""
    if data.factors is not None:
        return data.factors[index].numpy(), list(data.factor_info)
    if data.label is None:
        return np.empty((len(index), 0)), []
    labels = data.label[index].numpy().reshape(len(index), -1)
    names = ["label"] if labels.shape[1] == 1 else [f"label{v}" for v in range(labels.shape[1])]
    return labels, [Factor(name, int(data.num_classes or 0), "categorical") for name in names]


def rows(data: DataModule, split: str, count: int, seed: int) -> np.ndarray:
    """`count` images of a split, or all, drawn without replacement."""
    index = data.indices[split].numpy()
    return np.random.default_rng(seed).permutation(index)[:count]


Numbers = Iterator[tuple[str, float]]


def _disentanglement(model, data: DataModule, codes: Codes, level: str, untrained, seed: int, results: Results) -> Numbers:
    """Scores of codes against factors; on the whole grid where the set is one, else on train and test images."""
    if data.factors is None or not all(factor.size > 0 for factor in data.factor_info):
        return
    if data.is_grid:
        rng = np.random.RandomState(seed)
        draws = [disentanglement.sample_factors(data.factor_sizes, n, rng) for n in (NUM_TRAIN, NUM_TEST)]
        index = [np.ravel_multi_index(factors.T, data.factor_sizes) for factors in draws]
    else:
        index = [rows(data, split, n, seed) for split, n in (("train", NUM_TRAIN), ("test", NUM_TEST))]
        draws = [data.factors[i].numpy().astype(np.int64) for i in index]
    train, test = ((codes(i), factors) for i, factors in zip(index, draws))
    if train[0].shape[1] < 2:
        log.warning("scores of disentanglement need two code dimensions, this model has one: left out")
        return
    yield "test/mig", disentanglement.mig(*train)
    yield "test/modularity", disentanglement.modularity(*train)
    yield "test/irs", disentanglement.irs(*train)
    yield "test/sap", disentanglement.sap(*train, test=test, seed=seed)
    if level != "full":
        return
    yield "test/explicitness", disentanglement.explicitness(*train, test=test, seed=seed)
    for name, value in disentanglement.dci(*train, test=test, seed=seed).items():
        yield f"test/dci_{name}", value
    if data.is_grid:
        grid = disentanglement.GridIndex(data.factor_sizes)
        yield "test/beta_vae", disentanglement.beta_vae_score(codes, grid, seed=seed)
        yield "test/factor_vae", disentanglement.factor_vae_score(codes, grid, seed=seed)


def _bounds(model, data: DataModule, codes: Codes, level: str, untrained, seed: int, results: Results) -> Numbers:
    """Importance-weighted bound on -log p(x), nats, on a share of the test images."""
    if type(model).log_weights is LatentVariableModel.log_weights:
        return
    index = data.indices["test"]
    shown = index[torch.linspace(0, len(index) - 1, min(IW_IMAGES[level], len(index))).long()]
    batches = (data.batch(part, model.device) for part in shown.split(64))
    yield f"test/nll_iw{IW_SAMPLES}", importance_weighted(model, batches, IW_SAMPLES)


def _blocks(model, data: DataModule, codes: Codes, level: str, untrained, seed: int, results: Results) -> Numbers:
    """The block-factor matrix: what a probe reads of each factor from each block, an untrained encoder and the pixels."""
    train, test = rows(data, "train", NUM_TRAIN, seed), rows(data, "test", NUM_TEST, seed)
    (train_targets, factors), (test_targets, _) = targets(data, train), targets(data, test)
    if not factors:
        return
    sources = [codes.blocks] if untrained is None else [codes.blocks, _prefixed(Codes(untrained, data))]
    sources.append(lambda index: {"pixels": _pixels(data, index)})
    train_codes, test_codes = ({k: v for s in sources for k, v in s(index).items()} for index in (train, test))
    matrix = probes.block_factor_matrix(
        train_codes, train_targets, test_codes, test_targets, factors, seed=seed, jobs=-1 if len(train) > 2000 else 1
    )
    columns = [factor.name for factor in factors]
    results.tables["blocks"] = (matrix, list(train_codes), columns)
    for block, values in zip(train_codes, matrix):
        for column, value in zip(columns, values):
            yield f"test/block/{block}/{column}", value


def _prefixed(codes: Codes):
    return lambda index: {"untrained": codes(index)}


def _pixels(data: DataModule, index: np.ndarray) -> np.ndarray:
    return torch.cat([data.batch(part)["image"].flatten(1) for part in torch.from_numpy(index).split(1000)]).numpy()


def _clusters(model, data: DataModule, codes: Codes, level: str, untrained, seed: int, results: Results) -> Numbers:
    """Agreement of each categorical block's arg max with the labels; maps fitted on train, applied to test."""
    if data.label is None:
        return
    names = [name for name, block in model.blocks.items() if block.kind == "categorical"]
    train, test = rows(data, "train", NUM_TRAIN, seed), rows(data, "test", len(data.images), seed)
    labels = [data.first_label[index].numpy() for index in (train, test)]
    for name in names:
        clusters = [codes.blocks(index)[name].argmax(1) for index in (train, test)]
        prefix = "test/" if len(names) == 1 else f"test/{name}/"
        for mapping in ("majority", "hungarian"):
            value = clustering.cluster_accuracy(clusters[1], labels[1], mapping=mapping, fit=(clusters[0], labels[0]))
            yield f"{prefix}cluster_accuracy_{mapping}", value
        for metric in ("purity", "nmi", "ami", "ari"):
            value = getattr(clustering, metric)(clusters[1], labels[1])
            yield f"{prefix}{'cluster_purity' if metric == 'purity' else metric}", value
        yield f"{prefix}clusters_used", (np.bincount(clusters[1]) >= 0.005 * len(test)).sum()
