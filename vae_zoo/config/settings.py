"""Reads the settings of every target from settings.json (written by tools/settings.py), without importing the target."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import create_model

from vae_zoo.config import schemas
from vae_zoo.config.schemas import Schema

BY_HAND = {  # targets with a selection of arguments: those of other libraries, and the Trainer, which passes them on
    "torch.optim.Adam": schemas.Adam,
    "torch.optim.AdamW": schemas.Adam,
    "vae_zoo.training.Trainer": schemas.Trainer,
}


@cache
def known() -> dict[str, dict[str, Any]]:
    """{target: {"types": {setting: type}, "required": [setting], ...}}, with group and needs for models and data."""
    return json.loads(Path(__file__).with_name("settings.json").read_text())


def targets() -> list[str]:
    return [*BY_HAND, *known()]


@cache
def schema_of(target: str) -> type[Schema] | None:
    """The schema of a target, or None for a target outside vae_zoo. Types are names in vae_zoo/config/types.py."""
    if target in BY_HAND or target not in known():
        return BY_HAND.get(target)
    about = known()[target]
    required, hints = about["required"], about["types"]
    fields: dict[str, Any] = {name: (hint, ... if name in required else None) for name, hint in hints.items()}
    return create_model(target.rpartition(".")[2], __base__=Schema, __module__="vae_zoo.config.types", **fields)


def group_of(target: str) -> str | None:
    """Group or type of component, such as model or Network; None: the target is outside vae_zoo."""
    by_hand = {schemas.Trainer: "trainer", schemas.Adam: "Optimizer"}
    return by_hand.get(BY_HAND.get(target)) or known().get(target, {}).get("group")
