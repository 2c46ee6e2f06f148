"""Suites for likelihood bounds and the aggregate posterior."""

import logging

import torch

from vae_zoo.contract import HasBound
from vae_zoo.data.datamodule import EvalBatches
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Result, Suite
from vae_zoo.figures.charts import kl_per_dimension
from vae_zoo.metrics import likelihood

log = logging.getLogger(__name__)

IW_SAMPLES = 100
IW_IMAGES = {"quick": 256, "full": 1_000}


class Likelihood(Suite):
    """Bounds, KL and active units of up to 10,000 test images."""

    name = "likelihood"

    def run(self, e: Context) -> Result:
        """Computes the numbers, and draws the KL of each dimension."""
        if e.split != "test":
            raise DoesNotApply("during training the validation logs these numbers")
        if not isinstance(e.model, HasBound):
            log.warning("no test/elbo: %s does not define log_weights", type(e.model).__name__)
        bounds, kl = e.bounds
        numbers = dict(bounds)
        if "elbo" in numbers:
            numbers["bits_per_dim"] = likelihood.bits_per_dim(-numbers["elbo"], e.model.image_shape)
        for name, mu in e.gaussian_codes.items():
            numbers[f"active_units_{name}"] = likelihood.active_units(torch.from_numpy(mu))
        return Result(numbers, pictures={"kl_per_dimension": kl_per_dimension(kl)} if kl else {})


class ImportanceWeighted(Suite):
    """Importance-weighted bound on -log p(x), nats per image, on images spaced evenly over the split."""

    name, level, capability = "importance-weighted bound", "quick", HasBound

    def run(self, e: Context) -> Result:
        """Computes nll_iw100."""
        assert isinstance(e.model, HasBound)
        batches = EvalBatches(e.data, e.split, {"device": e.model.device}, batch_size=64, most=IW_IMAGES[e.level])
        return Result({f"nll_iw{IW_SAMPLES}": likelihood.importance_weighted(e.model, batches, IW_SAMPLES)})


class AggregatePosterior(Suite):
    """KL of the aggregate posterior of each Gaussian block and its decomposition, on the scored images."""

    name, level = "aggregate posterior", "full"

    @torch.no_grad()
    def run(self, e: Context) -> Result:
        """Computes aggregate/<block>/<term>."""
        parts, numbers = [e.model.encode(batch) for batch in e.scored_batches()], {}
        for name, block in e.model.blocks.items():
            if block.kind == "gaussian":
                mu, logvar = (torch.cat([getattr(part[name], key) for part in parts]) for key in ("mu", "logvar"))
                terms = likelihood.aggregate_posterior(mu, logvar, seed=e.seed)
                numbers |= {f"aggregate/{name}/{key}": value for key, value in terms.items()}
        return Result(numbers)
