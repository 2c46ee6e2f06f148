"""Writes vae_zoo/config/settings.json from the constructors: run `make settings` after an argument or its type has changed.

The file lists the settings and their types of each target that a config can name, so that configs are checked before torch
is imported. A test compares it with the constructors.
"""

import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim import Optimizer

import vae_zoo.data
import vae_zoo.distributions
import vae_zoo.models
import vae_zoo.nets
import vae_zoo.schedules
import vae_zoo.training
from vae_zoo.config import types as named
from vae_zoo.contract import LadderNetwork, Network
from vae_zoo.data.datamodule import DataModule
from vae_zoo.distributions.likelihoods import Likelihood
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.schedules import Plateau, Progressive, Schedule
from vae_zoo.sweeps.pruning import Pruning

FILE = Path(vae_zoo.config.__file__).with_name("settings.json")
BY_RUN = {"folder", "run_config", "level", "suites"}  # given to callbacks and loggers by the run, not by the config
NAMES = {name: hint for name, hint in vars(named).items() if name[0].isupper() and get_origin(hint) is not None}
KINDS = {  # of components, by the type of the argument
    **{Network: "Network", LadderNetwork: "Network", Likelihood: "Likelihood", Callable[..., Optimizer]: "Optimizer"},
    **{Callable[[Tensor], Tensor]: "View", Schedule: "Schedule", Plateau: "Plateau", Progressive: "Progressive"},
}
NETS = [getattr(vae_zoo.nets, name) for name in vae_zoo.nets.__all__]
GROUPS = {  # of targets: what they are for
    **{Likelihood: "Likelihood", Callback: "callbacks", Logger: "logger", Plateau: "Plateau", Progressive: "Progressive"},
    **{net: "Network" if hasattr(net, "encoder") else "View" for net in NETS},
    object: "Schedule",
}
PLAIN = {int: "int", float: "float", str: "str", bool: "bool", type(None): "None"}


def targets() -> Iterator[tuple[str, type]]:
    """Every class that a config can name, except those of other libraries and the trainer, which forwards arguments."""
    for package in (vae_zoo.models, vae_zoo.data):
        for name in package.FILES:
            cls = getattr(package, name)
            if cls not in (LatentVariableModel, DataModule) and issubclass(cls, LatentVariableModel | DataModule):
                yield f"{package.__name__}.{name}", cls
    for package in (vae_zoo.nets, vae_zoo.schedules):
        for name, cls in vars(package).items():
            if is_dataclass(cls) and cls.__module__.startswith(package.__name__):
                yield f"{package.__name__}.{name}", cls
    for name, cls in vars(vae_zoo.distributions).items():
        if inspect.isclass(cls) and issubclass(cls, Likelihood) and cls is not Likelihood:
            yield f"vae_zoo.distributions.{name}", cls
    for name in ("Figures", "Metrics", "Checkpoint", "Progress", "TensorBoard", "WandB"):
        yield f"vae_zoo.training.{name}", getattr(vae_zoo.training, name)
    yield "vae_zoo.sweeps.pruning.Pruning", Pruning


def settings() -> dict[str, Any]:
    """The content of the file: {target: {"types": {setting: type}, "required": [...], and further data for checks}}."""
    return {target: about(cls) for target, cls in sorted(targets())}


def about(cls: type) -> dict[str, Any]:
    found = {name: p for name, p in arguments(cls).items() if name not in BY_RUN}
    entry: dict[str, Any] = {
        "types": {name: expression(p.annotation) for name, p in found.items()},
        "required": [name for name, p in found.items() if p.default is p.empty],
    }
    if issubclass(cls, LatentVariableModel):
        entry |= {"group": "model", "needs": sorted(cls.needs)}
    elif issubclass(cls, DataModule):
        entry |= {"group": "data", "groupings": [*cls.groupings], "default_group": cls.default_group}
    else:
        entry |= {"group": next(group for base, group in GROUPS.items() if issubclass(cls, base))}
    return entry


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Named arguments of a constructor: its own, those of its parts, and those of its bases where it passes **kwargs on."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base, eval_str=True).parameters.values()
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p)
        for part in vars(base).get("parts", ()):
            for p in inspect.signature(part, eval_str=True).parameters.values():
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def expression(hint: Any) -> str:
    """A type as an expression of names in vae_zoo/config/types.py. Raises TypeError for a range without a name there."""
    for name, known in NAMES.items():
        if hint == known:
            return name
    if get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(map(expression, get_args(hint)))
    if get_origin(hint) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(hint)))}]"
    if get_origin(hint) is typing.Annotated:
        raise TypeError(f"give {hint} a name in vae_zoo/config/types.py")
    if hint is Path:
        return "str"
    if hint in PLAIN:
        return PLAIN[hint]
    if get_origin(hint) is list:
        return f"list[{expression(*get_args(hint))}]"
    if hint is inspect.Parameter.empty or inspect.isclass(hint) or get_origin(hint) is Callable or hint is Any:
        return KINDS.get(hint, "Component")
    raise TypeError(f"{hint} is not a type of settings; see vae_zoo/config/types.py")


def text() -> str:
    return json.dumps(settings(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
