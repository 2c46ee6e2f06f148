"""Groups related constructor settings in dataclasses, while callers still pass them as flat keyword arguments."""

from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar


class Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=Dataclass)


def take(part: type[T], settings: dict[str, Any]) -> T:
    """Builds the dataclass `part` from its fields in `settings`, and removes these from `settings`.

    A class with parts lists them in its attribute `parts`, so that tools/settings.py finds their fields.
    """
    return part(**{field.name: settings.pop(field.name) for field in fields(part) if field.name in settings})
