"""Constructors with many settings: those that belong together are a dataclass, and are still given flat, by name."""

from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar


class Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=Dataclass)


def take(part: type[T], settings: dict[str, Any]) -> T:
    """The dataclass `part` made of those of its fields that are among the settings, which lose them.

    A class that takes parts lists them in its attribute `parts`, so that tools/settings.py finds their fields.
    """
    return part(**{field.name: settings.pop(field.name) for field in fields(part) if field.name in settings})
