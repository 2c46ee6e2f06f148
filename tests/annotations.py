"""Annotations of the public packages, shapes of arrays among them, are checked at every call while tests run.

jaxtyping's import hook decorates the functions of these packages; processes that tests start are not hooked.
"""

import inspect
from contextlib import contextmanager

from beartype import BeartypeConf, beartype
from jaxtyping import config, install_import_hook

PACKAGES = ["contract", "schedules", "runs.load", "distributions", "nets", "metrics", "data", "models", "evaluation"]

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int passes for a float, as for type checkers


def check() -> None:
    """Must be called before the packages are imported."""
    install_import_hook([f"vae_zoo.{package}" for package in PACKAGES], "tests.annotations.checker")


@contextmanager
def unchecked():
    """Inside, arguments of any kind are let through: for tests of the package's own messages about them."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def set_defaults(monkeypatch, function, values: dict) -> None:
    """Other defaults of keyword arguments, also of a function that is checked."""
    function = inspect.unwrap(function)
    monkeypatch.setattr(function, "__kwdefaults__", function.__kwdefaults__ | values)
