"""Suites of papers, off by default: classifiers that are trained on samples of the codes, added by `evaluation.suites`.

block_probe/<block>/<label>/accuracy   test accuracy of a classifier of one hidden layer of 100 units, trained on a sample of
                                       each Gaussian block; block `all`: all of them concatenated. Mean over 3 classifiers
                                       and samples, accuracy_std: their deviation
evidence_classifier/<block>/...        a classifier with two hidden layers of 256 units predicts the group from samples
                                       of the code that K images share: accuracy_k<k> and conditional_entropy_k<k> (mean
                                       cross-entropy, nats) from k <= K images of evidence. Block `code`: the Gaussian blocks
                                       of a model without a group code, pooled by the product of densities

Pooling by group reveals the group by itself: an untrained network has high accuracy at k = 10, so compare at k = 1 first.
Sources: Falck et al. (2021), Table 1, as in an unofficial reimplementation; Bouchacourt et al. (2018), section 5. Only the
layers of the classifiers were known; their other settings are scikit-learn's defaults.
"""

import warnings
from functools import reduce
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from vae_zoo.contract import Codes, SharesGroupCode
from vae_zoo.distributions import Normal, noise
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Numbers, Result, Suite
from vae_zoo.evaluation.suites.facets import labels
from vae_zoo.evaluation.suites.grouped import CHUNK, Evidence, gaussian_blocks, whole_groups
from vae_zoo.metrics.arrays import to_numpy

RUNS = 3  # classifiers, each trained on other samples
EPOCHS = 200  # at most, scikit-learn's default
LEAST = 10  # smallest number of images of an unseen group; half of them train the classifier


def classifier(hidden: tuple[int, ...], x: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], seed: int) -> MLPClassifier:
    """Fits a network with scikit-learn's default settings.

    Args:
        hidden: Units of the hidden layers.
        x: Codes.
        y: Classes.
        seed: Seed of the network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the default number of epochs is the definition
        return MLPClassifier(hidden, max_iter=EPOCHS, random_state=seed).fit(x, y)


@torch.no_grad()
def sampled(e: Context, index: Int[Tensor, " B"], seed: int) -> Codes:
    """Draws a sample of each Gaussian block of images, and takes the mean of the other blocks.

    Args:
        e: Context of the evaluation.
        index: The images.
        seed: Seed of the draws.
    """
    parts = []
    for rows in index.split(CHUNK):
        with noise.per_image(rows, seed):
            q = e.model.encode(e.data.single(rows, e.model.device))
            parts.append({name: (p.rsample() if isinstance(p, Normal) else p.mean).cpu() for name, p in q.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class BlockProbe(Suite):
    """Accuracy of a classifier of each label from a sample of each block, on all training and all test images."""

    name, split = "probe of samples", "test"

    def run(self, e: Context) -> Result:
        """Trains three classifiers for each block and label."""
        names, known, found = gaussian_blocks(e.model), labels(e), dict[str, list[float]]()
        if not known or not names:
            raise DoesNotApply("it needs a label with several values and a Gaussian block")
        splits = [e.data.indices[split] for split in ("train", "test")]
        for seed in range(RUNS):
            codes = [{name: to_numpy(code) for name, code in sampled(e, index, seed).items()} for index in splits]
            for block in {tuple(names), *((name,) for name in names)}:
                for label, values in known.items():
                    x, y = [np.hstack([part[name] for name in block]) for part in codes], [values[i.numpy()] for i in splits]
                    pairs = [(a[b >= 0], b[b >= 0]) for a, b in zip(x, y)]
                    key = f"block_probe/{block[0] if len(block) == 1 else 'all'}/{label}/accuracy"
                    found.setdefault(key, []).append(float(classifier((100,), *pairs[0], seed).score(*pairs[1])))
        numbers = {name: float(np.mean(values)) for name, values in found.items()}
        return Result(numbers | {f"{name}_std": float(np.std(values, ddof=1)) for name, values in found.items()})


def in_both(e: Context, *parts: Int[np.ndarray, " _"]) -> list[Int[np.ndarray, " _"]]:
    """The images whose group occurs in all parts, so that Evidence numbers the groups of each alike.

    Raises:
        DoesNotApply: No group does.
    """
    groups = [e.data.group_of(torch.from_numpy(part)).numpy() for part in parts]
    shared = reduce(np.intersect1d, groups)
    if not len(shared):
        raise DoesNotApply("training and test images share no group")
    return [part[np.isin(group, shared)] for part, group in zip(parts, groups)]


class EvidenceClassifier(Suite):
    """Accuracy of a classifier of the group from the code of k of its images.

    If training contains the groups of the test images, it is trained on training images; otherwise on half of the test
    images of those groups that have 10.
    """

    name, needs, split = "classifier of evidence", frozenset({"groups"}), "test"

    def run(self, e: Context) -> Result:
        """Trains a classifier on each block and tests it for each k."""
        train, test = (Evidence(e.model, e.data, index, e.seed) for index in in_both(e, *self.images(e)))
        counts = [k for k in train.counts() if k in test.counts()]

        def scores(block: str, learned: Tensor, tested: dict[int, Tensor]) -> Numbers:
            fitted, truth = classifier((256, 256), to_numpy(learned), train.group.numpy(), e.seed), test.group.numpy()
            for k, samples in tested.items():
                probs: Any = fitted.predict_proba(to_numpy(samples))
                yield f"evidence_classifier/{block}/accuracy_k{k}", float((probs.argmax(1) == truth).mean())
                entropy = log_loss(truth, probs, labels=np.arange(probs.shape[1]))
                yield f"evidence_classifier/{block}/conditional_entropy_k{k}", entropy

        pooled = self.sample(train, max(counts), e.seed), {k: self.sample(test, k, e.seed) for k in counts}
        if not isinstance(e.model, SharesGroupCode):
            return Result(dict(scores("code", *pooled)))
        own = scores(e.model.own_block, train.style_samples(), {1: test.style_samples()})
        return Result(dict(scores(e.model.shared_block, *pooled)) | dict(own))

    @staticmethod
    def images(e: Context) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
        """Chooses the images that train the classifier, and those that it is tested on, of the same groups.

        Args:
            e: Context of the evaluation.

        Raises:
            DoesNotApply: No unseen group has enough images.
        """
        group = e.data.group_of(torch.arange(len(e.data.images))).numpy()
        train, test = (e.data.indices[split].numpy() for split in ("train", "test"))
        if np.isin(group[test], group[train]).all():
            return whole_groups(e.data, "train", e.seed), whole_groups(e.data, "test", e.seed)
        index = np.random.default_rng(e.seed).permutation(test)
        number, size = np.unique(group[index], return_inverse=True, return_counts=True)[1:]
        index = index[size[number] >= LEAST]
        if not len(index):
            raise DoesNotApply(f"no group has {LEAST} test images")
        order = index[np.argsort(group[index], kind="stable")]
        place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
        return order[place % 2 == 0], order[place % 2 == 1]

    @staticmethod
    def sample(evidence: Evidence, k: int, seed: int) -> Float[Tensor, "N D"]:
        """A sample of the code of each image pooled with k - 1 others of its group.

        Args:
            evidence: The images.
            k: Images that are pooled.
            seed: Seed of the draw.
        """
        pooled: Normal = evidence.pooled(evidence.of(k))
        with noise.per_image(evidence.index, seed):
            return pooled.rsample()
