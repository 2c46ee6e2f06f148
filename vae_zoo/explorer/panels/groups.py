"""Groups: the code that several images of a group share, inferred from more and more images."""

from functools import cache

import gradio as gr
import torch

from vae_zoo.contract import SharesGroupCode
from vae_zoo.evaluation.suites.grouped import Evidence, whole_groups
from vae_zoo.explorer.capabilities import of_group
from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import SAMPLE, LoadedRun
from vae_zoo.explorer.widgets import strip

TITLE = "Groups"
MOST = 8  # images of a group


def fits(run: LoadedRun) -> bool:
    """Models whose images of a group share a code."""
    return isinstance(run.model, SharesGroupCode)


def build(page: Page, run: LoadedRun) -> None:
    """A group of the test set, and how many of its images are pooled."""
    index = whole_groups(run.data, "test", 0, SAMPLE)
    sizes = run.data.group_of(torch.from_numpy(index)).unique(return_counts=True)[1]
    evidence = cache(lambda: Evidence(run.model, run.data, index))  # when the panel is opened
    last, most = len(sizes) - 1, min(MOST, int(sizes.max()))
    with gr.Row():
        group = gr.Number(0, label=f"group of test images, 0 to {last}", minimum=0, maximum=last, precision=0)
        count = gr.Slider(1, max(2, most), min(3, most), step=1, label="pooled images")
    view = gr.HTML()

    def draw(image: str, group: int, count: int) -> str:
        pooled, held_out = of_group(evidence(), min(int(group or 0), last), int(count))
        return "".join(f"<h4>{title}</h4>{strip(images, captions)}" for title, images, captions in (pooled, held_out))

    page.follow(draw, [group, count], view)
