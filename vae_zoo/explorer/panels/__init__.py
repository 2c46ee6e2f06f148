"""The panels, in the order of their tabs. Each belongs to a capability of models: `fits` says which."""

from collections.abc import Sequence

from vae_zoo.explorer.page import Page
from vae_zoo.explorer.panels import classes, clusters, data, groups, local, objects, swap, walk
from vae_zoo.explorer.state import LoadedRun

PANELS = (walk, swap, groups, clusters, classes, objects, local, data)


def build_page(runs: Sequence[LoadedRun]) -> Page:
    """The page of these runs."""
    return Page(runs, PANELS)
