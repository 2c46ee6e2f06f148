"""Imports on first use, for the files of a package and for packages that an extra installs."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from vae_zoo.utils.errors import UserError


def importer(package: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. files: {public name: file of the package that defines it}."""

    def get(name: str) -> Any:
        if name in files:
            return getattr(import_module(f"{package}.{files[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


def need(extra: str, *packages: str) -> None:
    """Raises UserError if a package that this extra of vae_zoo installs is missing."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(f"this needs {', '.join(missing)}, which is not installed; run: pip install 'vae_zoo[{extra}]'")
