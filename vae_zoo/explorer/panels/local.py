"""Local and global: the local code decoded alone, and the image with the local or global codes of other images."""

import gradio as gr

from vae_zoo.contract import HasLocalView
from vae_zoo.explorer.capabilities import local_and_global
from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import LoadedRun
from vae_zoo.explorer.widgets import strip

TITLE = "Local/global"
OTHERS = 8  # test images that give their codes


def fits(run: LoadedRun) -> bool:
    """Models with a local code of an auxiliary view."""
    return isinstance(run.model, HasLocalView)


def build(page: Page, run: LoadedRun) -> None:
    """One row of the image, and rows of its codes with those of other images."""
    view = gr.HTML()

    def draw(image: str) -> str:
        parts = []
        for title, images, captions in local_and_global(page.images, run, image, OTHERS):
            parts.append(f"<h4>{title}</h4>{strip(images, captions)}")
        return "".join(parts)

    page.follow(draw, [], view)
