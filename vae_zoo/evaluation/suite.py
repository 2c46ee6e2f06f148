"""Base class of suites: a suite evaluates one property of a trained model by numbers, tables and figures."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from vae_zoo.runs.load import build
from vae_zoo.utils.errors import UserError

Level = Literal["basic", "quick", "full"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass
class Result:
    """Result of a suite.

    numbers: {name: value} as in metrics.json, without `<split>/`. tables: {name: (title, values [R, C], row names, column
    names)}, drawn as heat maps. pictures: {name: [H, W, 3] uint8}.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, tuple[str, np.ndarray, list[str], list[str]]] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class DoesNotApply(Exception):
    """Raised if a suite does not apply to the model or the data; the text gives the reason for the log."""


class Suite:
    """Base of all suites, also of those of the user.

    name: for the log. level: lowest level at which it runs. capability: the Protocol of vae_zoo.contract that a model must
    implement, None: any model. needs: what the data must have: labels, factors, groups or boxes. split: the split that is
    scored instead of the test split, if the data have it; such a suite does not run on validation images.
    """

    name: str
    level: Level = "basic"
    capability: type | None = None
    needs: frozenset[str] = frozenset()
    split: str | None = None

    def run(self, context: Any) -> Result:
        """Computes the results. Must not change the context (vae_zoo.evaluation.context.Context), its model, its data or the
        global random state. Raises DoesNotApply if the suite does not apply.
        """
        raise NotImplementedError  # pragma: contract


def own_suites(nodes: dict[str, Any]) -> list[Suite]:
    """Builds the suites in `evaluation.suites`. Raises UserError if an object is not a suite."""
    suites = {name: build(node) for name, node in nodes.items() if node is not None}
    for name, suite in suites.items():
        if not isinstance(suite, Suite):
            target = nodes[name]["_target_"]
            raise UserError(
                f"evaluation.suites.{name}={target} is not a suite; derive it from vae_zoo.evaluation.suite.Suite"
            )
    return list(suites.values())
