"""The evaluation protocol, equal for every method: data and model determine which suites apply.

level   basic   bounds, active units; MIG, SAP, modularity, IRS; accuracy of classes; group codes by number of images;
                clusters and facets against labels; local and global code; objects; worth of each block
        quick   + block-factor matrix, linear probes, importance-weighted bound
        full    + DCI, explicitness, FactorVAE and BetaVAE scores, aggregate posterior, swaps between blocks, FID and KID

Codes are posterior means, concatenated over blocks; every image is its own group and is encoded once. Data sets with a full
factor grid are scored on factor vectors sampled from the whole grid, as is usual, but during training on training and
validation images, since settings may be chosen by these scores. Probes, classifiers and clusters are fitted on training
images and scored on test images. Source of the settings: the study of disentanglement_lib.
"""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from vae_zoo.contract import FindsObjects, HasBound, HasClasses, HasFacets, HasLocalView, SharesGroupCode
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
from vae_zoo.evaluation.suites.local_global import LocalGlobal, LocalGlobalControls
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
    LocalGlobalControls(),
    Objects(),
    UnseenObjects(),
    Worth(),
    ImportanceWeighted(),
    BlockFactors(),
    AggregatePosterior(),
    Swaps(),
    Generation(),
)


LACKS = {  # reasons for the log why a suite does not apply to a model
    SharesGroupCode: "the model has no code that a group of images shares",
    HasClasses: "the model has no classes",
    HasFacets: "the model has no facets",
    FindsObjects: "the model does not detect objects",
    HasLocalView: "the model has no local and global code",
    HasBound: "the model does not define log_weights",
}


@dataclass(kw_only=True)
class Evaluation(Result):
    """The results of all suites; the names of numbers begin with the split.

    Attributes:
        context: Context of the suites.
        failed: {suite: exception}.
        times: {time/<suite>: seconds}, which metrics.json holds beside the numbers.
    """

    context: Context
    failed: dict[str, Exception] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    def raise_failures(self) -> None:
        """Raises the exceptions of all failed suites together; call it after the results are written.

        Raises:
            ExceptionGroup: A suite failed.
        """
        if self.failed:
            names = ", ".join(self.failed)
            message = f"these suites failed: {names}; the numbers of all other suites are written"
            raise ExceptionGroup(message, [*self.failed.values()])


def evaluate(
    model: LatentVariableModel, data: DataModule, level: Level = "basic", suites: Iterable[Suite] = (), **options
) -> Evaluation:
    """Runs all suites of this level that apply.

    Args:
        model: In eval mode.
        data: Set up.
        level: `basic`, `quick` or `full`.
        suites: Suites of the user, which replace those of the same name.
        **options: As in Context.

    Returns:
        The results of the suites that did not fail, and the exceptions of the others.
    """
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
        if context.split == "test":
            seconds = time.monotonic() - start
            log.info("%s took %.1f s", suite.name, seconds)
            evaluation.times[f"time/{suite.name.replace(' ', '_')}"] = seconds
    if left_out:
        log.info("not applicable: %s", "; ".join(left_out))
    return evaluation


def _failed(evaluation: Evaluation, suite: Suite, error: Exception) -> None:
    """Logs and stores the exception of a suite, so that the other suites still run."""
    log.exception("suite %s failed, the other suites continue", suite.name)
    evaluation.failed[suite.name] = error


def check_applies(suite: Suite, context: Context) -> None:
    """Checks whether a suite applies to model and data.

    Args:
        suite: The suite.
        context: Context of the evaluation.

    Raises:
        DoesNotApply: A capability of the model, a property of the data or the split is missing.
    """
    if suite.capability is not None and not isinstance(context.model, suite.capability):
        raise DoesNotApply(LACKS.get(suite.capability, f"the model does not implement {suite.capability.__name__}"))
    for need in sorted(suite.needs):
        if not context.has(need):
            raise DoesNotApply(f"the data set has no {need}")
    if suite.split is not None and (context.split != "test" or suite.split not in context.data.indices):
        raise DoesNotApply(f"the data set has no split {suite.split}, or it is not scored during training")


def finite(values: dict[str, float]) -> dict[str, float]:
    """The finite values, for metrics.json; the others are logged."""
    for name, value in values.items():
        if not math.isfinite(value):
            log.warning("%s is %s and is not written to metrics.json", name, value)
    return {name: value for name, value in values.items() if math.isfinite(value)}
