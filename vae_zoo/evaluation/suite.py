"""Base class of suites: a suite evaluates one property of a trained model by numbers, tables and figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from vae_zoo.runs.load import build
from vae_zoo.utils.errors import UserError

Level = Literal["basic", "quick", "full"]
LEVELS: tuple[Level, ...] = get_args(Level)
Numbers = Iterator[tuple[str, float]]  # name and value, as in Result
Picture = UInt8[np.ndarray, "_ _ 3"]  # height, width
Frames = UInt8[np.ndarray, "T _ _ 3"]


@dataclass
class Result:
    """Result of a suite.

    Attributes:
        numbers: {name: value} as in metrics.json, without `<split>/`.
        tables: {name: (title, values, names of the rows, names of the columns)}, drawn as heat maps.
        pictures: {name: figure}.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, tuple[str, Float[np.ndarray, "R C"], list[str], list[str]]] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)


class DoesNotApply(Exception):
    """Raised if a suite does not apply to the model or the data; the text gives the reason for the log."""


class Suite:
    """Base of all suites, also of those of the user.

    Attributes:
        name: For the log.
        level: Lowest level at which it runs.
        capability: Protocol of vae_zoo.contract that a model must implement; None: any model.
        needs: Properties that the data must have: labels, factors, groups or boxes.
        split: Split whose images are scored; None: that of the evaluation. A suite with a split does not run during
            training.
    """

    name: str
    level: Level = "basic"
    capability: type | None = None
    needs: frozenset[str] = frozenset()
    split: str | None = None

    def run(self, context: Any) -> Result:
        """Computes the results.

        It must not change the context, its model, its data or the global random state.

        Args:
            context: The `Context` of vae_zoo.evaluation.context.

        Raises:
            DoesNotApply: The suite does not apply.
        """
        raise NotImplementedError  # pragma: contract


def own_suites(nodes: dict[str, Any]) -> list[Suite]:
    """Builds the suites of `evaluation.suites`.

    Args:
        nodes: {name: config of an object; None: no suite}.

    Raises:
        UserError: An object is not a suite.
    """
    suites = {name: build(node) for name, node in nodes.items() if node is not None}
    for name, suite in suites.items():
        key = f"evaluation.suites.{name}={nodes[name]['_target_']}"
        if not isinstance(suite, Suite):
            raise UserError(f"{key} is not a suite; derive it from vae_zoo.evaluation.suite.Suite")
        if not hasattr(suite, "name"):
            raise UserError(f"{key} has no name; give its class one, such as name = {name!r}")
    return list(suites.values())
