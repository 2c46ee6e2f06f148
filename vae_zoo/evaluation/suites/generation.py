"""Suite `generation`: FID and KID of samples from the prior."""

import torch

from vae_zoo.evaluation.context import Context, rows
from vae_zoo.evaluation.suite import DoesNotApply, Result, Suite
from vae_zoo.metrics.generation import generation_scores

NUM_IMAGES = 10_000  # largest number of images for FID and KID


class Generation(Suite):
    """FID and KID between samples from the prior and images of the split.

    In the features of a classifier of this data set, and of Inception if its weights are given.
    """

    name, level = "FID and KID", "full"

    @torch.no_grad()
    def run(self, e: Context) -> Result:
        """Draws as many samples as there are images, at most 10,000, and compares them."""
        targets = e.judged()[:1]
        if not targets and e.inception is None:
            raise DoesNotApply("there are no labels or factors for a classifier, and no inception=<weights>")
        real = torch.from_numpy(rows(e.data, e.split, NUM_IMAGES, e.seed))
        with torch.random.fork_rng():
            torch.manual_seed(e.seed)
            fake = torch.cat([e.model.sample(len(part)).cpu() for part in real.split(256)])
        images = torch.cat([e.data.batch(part)["image"] for part in real.split(256)])
        numbers = {}
        for target in targets:
            numbers |= generation_scores(images, fake, e.judge_of(target), seed=e.seed)
        if e.inception is not None:
            numbers |= generation_scores(images, fake, inception_weights=e.inception, device=e.model.device, seed=e.seed)
        return Result(numbers)
