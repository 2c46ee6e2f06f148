"""Suite `swaps`: which block determines a factor when blocks of two images are swapped?"""

import numpy as np

from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Result, Suite
from vae_zoo.metrics import judge


class Swaps(Suite):
    """Accuracy of classifiers on reconstructions, and how often they predict the value of a block's donor after a swap."""

    name, level = "swaps", "full"

    def run(self, e: Context) -> Result:
        """Computes the accuracies for each categorical factor, or for the label."""
        if len(e.model.blocks) < 2:
            raise DoesNotApply("the model has one block")
        batches, blocks, numbers, seen = list(e.scored_batches()), list(e.model.blocks), {}, {}
        for name in e.judged():
            one = e.judge_of(name)
            numbers[f"judge/{name}"] = one.accuracy
            numbers[f"judge_rec/{name}"] = judge.reconstruction_accuracy(e.model, batches, one)
            seen[name] = e.follows(name)
        if not seen:
            raise DoesNotApply("the data set has neither categorical factors nor labels for a classifier")
        shares = np.array([[seen[name][block] for name in seen] for block in blocks])
        for block, row in zip(blocks, shares):
            numbers |= {f"swap/{block}/{name}": share for name, share in zip(seen, row)}
        return Result(
            numbers, {"swaps": ("share of swaps classified as the value of the block's donor", shares, blocks, list(seen))}
        )
