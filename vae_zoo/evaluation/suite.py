"""What a suite is: one question to a trained model, answered by numbers, tables and pictures."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from vae_zoo.runs.load import build
from vae_zoo.utils.errors import UserError

Level = Literal["basic", "quick", "full"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass
class Result:
    """numbers: {name: value} as in metrics.json, without `<split>/`. tables: {name: (title, values [R, C], row names, column
    names)}, drawn as heat maps. pictures: {name: [H, W, 3] uint8}.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, tuple[str, np.ndarray, list[str], list[str]]] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


class DoesNotApply(Exception):
    """This model or these data give a suite nothing to say; the text says why and goes to the log."""


class Suite:
    """Base of all suites, the user's own included.

    name: in the log. level: the least at which it runs. capability: the Protocol of vae_zoo.contract that a model must
    implement, None: any model will do. needs: what the data must have, of labels, factors, groups and boxes. split: images
    that it scores in place of those asked for, where the data have such a split and the test images are asked for.
    """

    name: str
    level: Level = "basic"
    capability: type | None = None
    needs: frozenset[str] = frozenset()
    split: str | None = None

    def run(self, context: Any) -> Result:
        """Changes nothing of the context (vae_zoo.evaluation.context.Context), of its model, its data or the global random
        numbers. Raises DoesNotApply where there is nothing to say.
        """
        raise NotImplementedError  # pragma: contract


def own_suites(nodes: dict[str, Any]) -> list[Suite]:
    """The user's, of `evaluation.suites`. Raises UserError for what is no suite."""
    suites = {name: build(node) for name, node in nodes.items() if node is not None}
    for name, suite in suites.items():
        if not isinstance(suite, Suite):
            target = nodes[name]["_target_"]
            raise UserError(f"evaluation.suites.{name}={target} is no suite; derive it from vae_zoo.evaluation.suite.Suite")
    return list(suites.values())
