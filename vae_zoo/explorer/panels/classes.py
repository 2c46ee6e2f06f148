"""Classes: the image decoded as each class, with all other codes unchanged, and samples of each class."""

import gradio as gr

from vae_zoo.contract import HasClasses
from vae_zoo.explorer.capabilities import of_classes
from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import LoadedRun
from vae_zoo.explorer.widgets import strip

TITLE = "Classes"
SAMPLES = 4  # of each class


def fits(run: LoadedRun) -> bool:
    """Models with classes that can be chosen."""
    return isinstance(run.model, HasClasses)


def build(page: Page, run: LoadedRun) -> None:
    """Two rows for each categorical block."""
    view = gr.HTML()

    def draw(image: str) -> str:
        codes, parts = page.images.codes(run, image), []
        for name in run.of_kind("categorical"):
            own = int(codes[name].argmax())
            moved, samples = of_classes(run, codes, name, SAMPLES)
            captions = [f"{name} = {k}{' (inferred)' * (k == own)}" for k in range(len(moved))]
            parts.append(f"<h4>the image with another {name}, all other codes unchanged</h4>{strip(moved, captions)}")
            parts.append(f"<h4>samples of each {name}</h4>{strip(samples, captions)}")
        return "".join(parts)

    page.follow(draw, [], view)
