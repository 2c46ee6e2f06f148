"""One protocol for every method: what the data know and what the model can do decide which suites apply.

level   basic   bounds, active units; MIG, SAP, modularity, IRS; accuracy of classes; group codes by number of images;
                clusters and facets against labels; local and global code; objects; worth of each block
        quick   + block-factor matrix, linear probes, importance-weighted bound
        full    + DCI, explicitness, FactorVAE and BetaVAE scores, aggregate posterior, swaps between blocks, FID and KID

Codes are posterior means, all blocks side by side, every image a group of its own; each distinct image is encoded once.
Sets with a full factor grid are scored on factor vectors drawn from the whole grid, as the field does, but while training on
training and validation images, by which settings may be chosen; probes, judges and
clusters are fitted on training images and scored on test images. Source of the settings: disentanglement_lib's study.
"""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from vae_zoo.data.datamodule import DataModule
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Level, Result, Suite
from vae_zoo.evaluation.suites.classes import Classes
from vae_zoo.evaluation.suites.clusters import Clusters
from vae_zoo.evaluation.suites.facets import Facets
from vae_zoo.evaluation.suites.factors import BlockFactors, Disentanglement
from vae_zoo.evaluation.suites.generation import Generation
from vae_zoo.evaluation.suites.grouped import Grouped
from vae_zoo.evaluation.suites.likelihood import AggregatePosterior, ImportanceWeighted, Likelihood
from vae_zoo.evaluation.suites.local_global import LocalGlobal
from vae_zoo.evaluation.suites.objects import Objects, UnseenObjects
from vae_zoo.evaluation.suites.swaps import Swaps
from vae_zoo.evaluation.suites.worth import Worth
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)

SUITES: tuple[Suite, ...] = (
    Likelihood(),
    Disentanglement(),
    Grouped(),
    Classes(),
    Clusters(),
    Facets(),
    LocalGlobal(),
    Objects(),
    UnseenObjects(),
    Worth(),
    ImportanceWeighted(),
    BlockFactors(),
    AggregatePosterior(),
    Swaps(),
    Generation(),
)


@dataclass(kw_only=True)
class Evaluation(Result):
    """The results of all suites; the names of its numbers begin with the split. failed: {suite: what it raised}."""

    context: Context
    failed: dict[str, Exception] = field(default_factory=dict)

    def raise_failures(self) -> None:
        """Raises what suites raised, all of it at once; for when the results of the others are written."""
        if self.failed:
            names = ", ".join(self.failed)
            raise ExceptionGroup(f"no numbers of these suites, all others are written: {names}", [*self.failed.values()])


def evaluate(
    model: LatentVariableModel, data: DataModule, level: Level = "basic", suites: Iterable[Suite] = (), **options
) -> Evaluation:
    """All suites of this level that apply. model: in eval mode. suites: the user's own, in place of those of their
    names. options: those of Context."""
    context, left_out, chosen = Context(model, data, level, **options), [], []
    evaluation = Evaluation(context=context)
    own = list(suites)
    ours = [suite for suite in SUITES if suite.name not in {suite.name for suite in own}]
    for suite in (*ours, *own):
        try:
            if context.is_at_least(suite.level):
                check_applies(suite, context)
                chosen.append(suite)
        except DoesNotApply as reason:
            left_out.append(f"{suite.name} ({reason})")
        except Exception as error:
            _failed(evaluation, suite, error)
    for place, suite in enumerate(chosen, start=1):
        if context.split == "test":
            log.info("evaluation %d of %d: %s", place, len(chosen), suite.name)
        start, split = time.monotonic(), suite.split or context.split
        try:
            found = suite.run(context)
            numbers = finite({f"{split}/{name}": float(value) for name, value in found.numbers.items()})
        except DoesNotApply as reason:
            left_out.append(f"{suite.name} ({reason})")
            continue
        except Exception as error:
            _failed(evaluation, suite, error)
            continue
        evaluation.numbers |= numbers
        evaluation.tables |= found.tables
        evaluation.pictures |= found.pictures
        if (seconds := time.monotonic() - start) > 1:
            log.info("%s took %.0f s", suite.name, seconds)
    if left_out:
        log.info("left out: %s", "; ".join(left_out))
    return evaluation


def _failed(evaluation: Evaluation, suite: Suite, error: Exception) -> None:
    """Whatever a suite raises, it must not cost the numbers of the others."""
    log.exception("%s failed, the other suites go on", suite.name)
    evaluation.failed[suite.name] = error


def check_applies(suite: Suite, context: Context) -> None:
    """Raises DoesNotApply where model or data lack what a suite asks for."""
    if suite.capability is not None and not isinstance(context.model, suite.capability):
        raise DoesNotApply(f"the model does not implement {suite.capability.__name__}")
    for need in sorted(suite.needs):
        if not context.has(need):
            raise DoesNotApply(f"the data have no {need}")
    if suite.split is not None and (context.split != "test" or suite.split not in context.data.indices):
        raise DoesNotApply(f"no images of {suite.split} are asked for")


def finite(values: dict[str, float]) -> dict[str, float]:
    """What may stand in metrics.json; the log says what is left out."""
    for name, value in values.items():
        if not math.isfinite(value):
            log.warning("%s is %s and left out of metrics.json", name, value)
    return {name: value for name, value in values.items() if math.isfinite(value)}
