"""Swap: two images, and every combination of their blocks."""

import gradio as gr

from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import LoadedRun, combinations
from vae_zoo.explorer.widgets import strip

TITLE = "Swap"


def fits(run: LoadedRun) -> bool:
    """Models with at least two blocks."""
    return len(run.model.blocks) > 1


def build(page: Page, run: LoadedRun) -> None:
    """A is the image of the page, B is chosen here."""
    last = len(page.images.test) - 1
    other = gr.State("test:1")
    with gr.Row(elem_classes="image-row"):
        number = gr.Number(1, label=f"image B: test image, 0 to {last}", minimum=0, maximum=last, precision=0)
        same = gr.Button("Use A as B")
    view = gr.HTML()
    number.input(lambda n: f"test:{int(n or 0)}", number, other, show_progress="hidden")
    same.click(lambda image: image, page.image, other, show_progress="hidden")

    def draw(image: str, name: str) -> str:
        mixed, labels = combinations(run.model, page.images.codes(run, image), page.images.codes(run, name))
        pair = [page.images.image(image)[0].numpy(), page.images.image(name)[0].numpy()]
        return strip(pair, ["image A", "image B"]) + strip(run.decode(mixed), labels)

    page.follow(draw, [other], view)
