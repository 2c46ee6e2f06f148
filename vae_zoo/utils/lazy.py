"""Lazy imports: the files of a package are imported when one of its public names is first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def importer(package: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. files: {public name: file of the package that defines it}."""

    def get(name: str) -> Any:
        if name in files:
            return getattr(import_module(f"{package}.{files[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
