"""Figures: functions from arrays to images.

Charts are in `vae_zoo.figures.charts`, which needs matplotlib; `vae_zoo.figures.encode` makes files of pictures.
"""

from vae_zoo.figures.grids import grid, reconstructions, samples, swap_grid, traversal_animation, traversals

__all__ = ["grid", "reconstructions", "samples", "swap_grid", "traversal_animation", "traversals"]
