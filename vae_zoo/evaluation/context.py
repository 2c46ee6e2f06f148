"""Context of an evaluation: codes, classifiers and scored images, each computed once and shared by all suites."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from vae_zoo.contract import Batch
from vae_zoo.data.arrays import Factor
from vae_zoo.data.datamodule import DataModule, EvalBatches
from vae_zoo.evaluation.suite import LEVELS, Level
from vae_zoo.metrics import clustering, judge, likelihood
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

NUM_TRAIN, NUM_TEST = 10_000, 5_000  # number of codes for fitting and for scoring estimators
NUM_BOUNDS = 10_000  # test images for bounds and KL, at most


class Codes:
    """Posterior means of the images of a data set; each image is encoded on first use.

    Args:
        model: In eval mode.
        data: Set up.
        batch_size: Images encoded at a time.
    """

    def __init__(self, model: LatentVariableModel, data: DataModule, batch_size: int = 256):
        self.model, self.data, self.batch_size = model, data, batch_size
        self.known = np.zeros(len(data.images), dtype=bool)
        self.codes: np.ndarray | None = None

    def __call__(self, index: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N D"]:
        """Codes of these images, the blocks of `names` side by side."""
        new = torch.from_numpy(np.unique(index[~self.known[index]]))
        for part in new.split(self.batch_size) if len(new) else ():  # an empty tensor splits into one empty part
            codes = self._encode(part)
            if self.codes is None:
                self.codes = np.empty((len(self.known), codes.shape[1]), dtype=np.float32)
            self.codes[part.numpy()] = codes
        self.known[new.numpy()] = True
        assert self.codes is not None
        return self.codes[index]

    def blocks(self, index: Int[np.ndarray, " N"]) -> dict[str, Float[np.ndarray, "N _"]]:
        """Codes {block: [N, D]} of these images, of the blocks of `names`."""
        cuts = np.cumsum([self.model.blocks[name].size for name in self.names])[:-1]
        return dict(zip(self.names, np.split(self(index), cuts, axis=1)))

    @property
    def names(self) -> list[str]:
        """Names of the blocks with one vector per image; [] if the model has only objects."""
        return [name for name, block in self.model.blocks.items() if block.kind != "objects"]

    @torch.no_grad()
    def _encode(self, index: Tensor) -> np.ndarray:
        if not self.names:
            return np.empty((len(index), 0), dtype=np.float32)
        posterior = self.model.encode(self.data.single(index, self.model.device))
        return to_numpy(torch.cat([posterior[name].mean for name in self.names], dim=1))


@dataclass
class Context:
    """Model, data and shared results of an evaluation.

    Attributes:
        model: In eval mode.
        data: Set up.
        level: `basic`, `quick` or `full`.
        split: Split that is scored, and prefix of the names.
        untrained: The model before training, for a row of the block-factor matrix.
        inception: File of Inception weights.
        seed: Seed of classifiers, probes and samples.
        judges: The classifiers so far, by target; evaluations of the same data with the same seed may share them.
    """

    model: LatentVariableModel
    data: DataModule
    level: Level = "basic"
    split: str = "test"
    untrained: LatentVariableModel | None = None
    inception: str | Path | None = None
    seed: int = 0
    judges: dict[str, judge.Judge] = field(default_factory=dict)
    _by_pixels: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    _follows: dict[str, dict[str, float]] = field(default_factory=dict)

    def is_at_least(self, level: Level) -> bool:
        """Whether the level of the evaluation is this one or a higher one."""
        return LEVELS.index(self.level) >= LEVELS.index(level)

    def has(self, need: str) -> bool:
        """Whether the data set has labels, factors, groups or boxes."""
        there = {"labels": self.data.label is not None, "factors": self.data.factors is not None}
        there |= {"groups": self.data.is_grouped, "boxes": "boxes" in self.data.single(self.data.indices[self.split][:1])}
        return there[need]

    @cached_property
    def codes(self) -> Codes:
        """Posterior means of the images."""
        return Codes(self.model, self.data)

    @cached_property
    def train(self) -> Int[np.ndarray, " N"]:
        """Training images for fitting probes and maps from clusters to classes."""
        return rows(self.data, "train", NUM_TRAIN, self.seed)

    @cached_property
    def val(self) -> Int[np.ndarray, " N"]:
        """Validation images for choosing between alternatives."""
        return rows(self.data, "val", NUM_TEST, self.seed)

    @cached_property
    def scored(self) -> Int[np.ndarray, " N"]:
        """Images of the split on which estimators are scored."""
        return rows(self.data, self.split, NUM_TEST, self.seed)

    @cached_property
    def bounds(self) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " _"]]]:
        """Bounds and KL of up to 10,000 test images, spread over the split, and KL per dimension {block: [D]}, nats.

        Empty during training, when the validation logs them.
        """
        if self.split != "test":
            return {}, {}
        return likelihood.bounds(self.model, EvalBatches(self.data, "test", {"device": self.model.device}, most=NUM_BOUNDS))

    def scored_batches(self) -> Iterator[Batch]:
        """The images of `scored`, in batches on the device of the model."""
        for part in torch.from_numpy(self.scored).split(256):
            yield self.data.single(part, self.model.device)

    @property
    def keeps_pictures(self) -> bool:
        """Whether suites should draw figures; during training they compute only numbers."""
        return self.split != "val"

    def judge_of(self, target: str) -> judge.Judge:
        """A classifier ("judge") of a factor or of the `label`, trained on real training images on first use."""
        if target not in self.judges:
            self.judges[target] = judge.train_judge(self.data, target=target, seed=self.seed, device=self.model.device)
        return self.judges[target]

    def pixel_clusters(self, num_clusters: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
        """Clusters by k-means on the pixels of the images of `train`.

        Args:
            num_clusters: K.

        Returns:
            Clusters of the images of `train`, and of all images of the split.
        """
        if num_clusters not in self._by_pixels:
            images = pixels(self.data, self.train)
            assign = clustering.k_means(images, num_clusters, seed=self.seed)
            parts = torch.from_numpy(self.data.indices[self.split].numpy()).split(1000)
            scored = np.concatenate([assign(pixels(self.data, part.numpy())) for part in parts])
            self._by_pixels[num_clusters] = assign(images), scored
        return self._by_pixels[num_clusters]

    def follows(self, target: str) -> dict[str, float]:
        """{block: share of swaps in which the classifier of `target` predicts the value of the block's donor}."""
        if target not in self._follows:
            one = self.judge_of(target)
            shares = judge.swap_consistency(self.model, self.scored_batches(), one, seed=self.seed)
            self._follows[target] = {name.removeprefix("follows_"): share for name, share in shares.items()}
        return self._follows[target]

    @cached_property
    def has_known_labels(self) -> bool:
        """Whether the split has two or more known labels, all of which occur in the training images.

        Identities of people that do not occur in training are not known labels.
        """
        if self.data.label is None:
            return False
        train, scored = (self.data.first_label[self.data.indices[split]] for split in ("train", self.split))
        known = scored[scored >= 0]
        new = known[~torch.isin(known, train)].unique()
        if 0 < len(new) < len(known.unique()):
            log.warning(
                "no score that needs labels: %d labels of the %s images, such as %d, do not occur in the training images",
                *(len(new), self.split, int(new[0])),
            )
        return len(known.unique()) > 1 and not len(new)

    @cached_property
    def can_judge(self) -> bool:
        """Whether a classifier of the label can be trained, selected and scored: it needs known labels in each split."""
        if not self.has_known_labels or not all((self.data.first_label[i] >= 0).any() for i in self.data.indices.values()):
            return False
        scored = self.data.first_label[torch.from_numpy(self.scored)]
        return len(scored[scored >= 0].unique()) > 1

    def judged(self) -> list[str]:
        """Targets of classifiers: the categorical factors that vary, or the label if there are none."""
        names = (factor.name for factor in self.data.factor_info if factor.kind == "categorical")
        return [*filter(self._varies, names)] or (["label"] if self.can_judge else [])

    def _varies(self, name: str) -> bool:
        assert self.data.factors is not None
        values = self.data.factors[:, self.data.factor_names.index(name)]
        return all(len(values[index].unique()) > 1 for index in (self.train, self.scored))

    @cached_property
    def gaussian_codes(self) -> dict[str, Float[np.ndarray, "N _"]]:
        """Posterior means {block: [N, D]} of the Gaussian blocks, on up to 10,000 test images, spread over the split."""
        blocks = self.codes.blocks(spread(self.data.indices["test"], NUM_BOUNDS).numpy())
        return {name: codes for name, codes in blocks.items() if self.model.blocks[name].kind == "gaussian"}

    def to_show(self, count: int) -> Int[Tensor, " n"]:
        """Indices of test images for figures: the most central one, and others spaced evenly over the split.

        Args:
            count: Number of images, at most all of the split.
        """
        index = self.data.indices["test"]
        shown = spread(index, count)
        if self.gaussian_codes:
            codes = [torch.from_numpy(codes) for codes in self.gaussian_codes.values()]
            shown[0] = spread(index, NUM_BOUNDS)[central(codes)]
        return shown


def targets(data: DataModule, index: Int[np.ndarray, " N"]) -> tuple[Shaped[np.ndarray, "N F"], list[Factor]]:
    """Ground truth of images: the factors, or else the labels.

    Args:
        data: Set up.
        index: The images.

    Returns:
        The values, and descriptions of the columns; no column if the data set has neither.
    """
    if data.factors is not None:
        return data.factors[index].numpy(), list(data.factor_info)
    if data.label is None:
        return np.empty((len(index), 0)), []
    labels = data.label[index].numpy().reshape(len(index), -1)
    names = ["label"] if labels.shape[1] == 1 else [f"label{v}" for v in range(labels.shape[1])]
    return labels, [Factor(name, int(data.num_classes or 0), "categorical") for name in names]


def pixels(data: DataModule, index: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N _"]:
    """The pixels of images, [N, C H W] in [0, 1]."""
    return torch.cat([data.batch(part)["image"].flatten(1) for part in torch.from_numpy(index).split(1000)]).numpy()


def rows(data: DataModule, split: str, count: int, seed: int) -> Int[np.ndarray, " N"]:
    """Draws images of a split without replacement, those of a known label first.

    Args:
        data: Set up.
        split: Name of the split.
        count: Number of images, at most all of the split.
        seed: Seed of the draw.
    """
    index = generator(seed).permutation(data.indices[split].numpy())
    if data.label is not None:  # of few labels, all are used
        index = index[np.argsort(data.first_label[torch.from_numpy(index)].numpy() < 0, kind="stable")]
    return index[:count]


def generator(seed: int) -> np.random.Generator:
    """Random numbers of an evaluation, apart from those of the data module, whose seed is often equal.

    Images drawn with the same numbers would be those whose labels the model was trained with.
    """
    return np.random.default_rng([seed, 1])


def spread(index: Int[Tensor, " N"], count: int) -> Int[Tensor, " n"]:
    """At most `count` elements, spaced evenly."""
    return index[torch.linspace(0, len(index) - 1, min(count, len(index))).long()]


def central(codes: Sequence[Float[Tensor, "N _"]]) -> int:
    """The image whose codes are nearest to the prior mean, a start for traversals that stays near real images."""
    return int(cast(Tensor, sum(code.square().sum(1) for code in codes)).argmin())
