"""The page: one tab for each panel, one column for each run, the image above all."""

import os
import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from random import randint
from types import ModuleType
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from gradio.themes import Default

from vae_zoo.explorer.state import MAX_BYTES, Images, LoadedRun
from vae_zoo.explorer.widgets import png
from vae_zoo.utils.errors import UserError

STYLE = Path(__file__).with_suffix(".css")
FONT, MONOSPACE = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # fonts of the system: none is fetched


def answered(function: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """Answers a request of the browser; an invalid request is answered with {"error": sentence}."""

    @wraps(function)
    def answer(asked: dict) -> dict:
        try:
            return function(asked)
        except UserError as error:
            return {"error": str(error)}

    return answer


class Page:
    """State and widgets that the panels share.

    Attributes:
        image: State with the name of the image, see `vae_zoo.explorer.state`.
        walks: State with the values of each run that the link gives, or None.
    """

    def __init__(self, runs: Sequence[LoadedRun], panels: Sequence[ModuleType]):
        self.runs, self.images = list(runs), Images(runs[0])
        with gr.Blocks(title="vae_zoo explorer", analytics_enabled=False, fill_width=True) as self.blocks:
            self.image, self.walks, self.chosen = gr.State(None), gr.State(None), gr.State(panels[0].TITLE)
            self._image_row()
            with gr.Tabs():
                for panel in panels:
                    if any(map(panel.fits, runs)):
                        self._tab(panel)
            self.blocks.load(self._open, None, [self.image, self.walks, self.number])

    def _image_row(self) -> None:
        last = len(self.images.test) - 1
        with gr.Row(elem_classes="image-row"):
            self.thumbnail = gr.HTML(elem_classes="thumbnail")
            self.number = gr.Number(0, label=f"test image, 0 to {last}", minimum=0, maximum=last, precision=0, min_width=120)
            another, drawn = gr.Button("Another", min_width=90), gr.Button("Prior sample", min_width=90)
            upload = gr.UploadButton("Upload", file_types=["image"], min_width=90)
        chosen = [self.image, self.walks]
        self.number.input(lambda n: (f"test:{int(n or 0)}", None), self.number, chosen, show_progress="hidden")
        another.click(
            lambda: (n := randint(0, last), f"test:{n}", None), None, [self.number, *chosen], show_progress="hidden"
        )
        drawn.click(lambda: (f"prior:{randint(0, 9999)}", None), None, chosen, show_progress="hidden")
        upload.upload(self.checked(lambda path: (self.images.upload(path), None)), upload, chosen)
        self.image.change(self.checked(self._thumbnail), self.image, self.thumbnail, show_progress="hidden")

    def _thumbnail(self, image: str) -> str:
        return f'<img alt="{image}" src="{png(self.images.image(image)[0].numpy())}">'

    def _tab(self, panel: ModuleType) -> None:
        with gr.Tab(panel.TITLE) as self.tab:
            self.tab.select(lambda: panel.TITLE, None, self.chosen, show_progress="hidden")
            with gr.Row():
                for run in filter(panel.fits, self.runs):
                    with gr.Column(min_width=300):
                        if len(self.runs) > 1:
                            gr.Markdown(f"**{run.name}**")
                        panel.build(self, run)

    def _open(self, request: gr.Request) -> tuple[str, list | None, int]:
        """The settings of the link: image=test:3, and run0=<block>:<numbers>;<block>:..."""
        query = dict(request.query_params)
        image, walks = query.get("image", "test:0"), None
        try:
            self.images.image(image)
            walks = [
                _values(run, self.images.codes(run, image), query.get(f"run{i}", "")) for i, run in enumerate(self.runs)
            ]
        except UserError as error:
            gr.Warning(str(error))
            image, walks = "test:0", None
        return image, walks, int(image[5:]) if image.startswith("test:") else 0

    def checked(self, function: Callable) -> Callable:
        """Shows the sentence of a UserError instead of a traceback."""

        @wraps(function)
        def call(*inputs: Any) -> Any:
            try:
                return function(*inputs)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return call

    def follow(self, draw: Callable, inputs: Sequence[Any], view: Any) -> None:
        """Shows `draw(image, *inputs)` in `view`, again whenever one of them changes or the tab is opened."""
        title, draw = self.tab.label, self.checked(draw)
        everything = [self.image, *inputs]

        def draw_if_seen(chosen: str, *values: Any) -> Any:
            return draw(*values) if chosen == title else gr.skip()

        self.tab.select(draw, everything, view, show_progress="hidden")
        changes = [self.image.change, *(widget.change for widget in inputs)]
        gr.on(changes, draw_if_seen, [self.chosen, *everything], view, show_progress="hidden")

    def launch(self, host: str, port: int, share: bool) -> None:
        """Serves the page until the process ends. Raises UserError if the port is taken."""
        look = {"theme": Default(primary_hue="teal", font=FONT, font_mono=MONOSPACE), "css_paths": STYLE, "footer_links": []}
        limits = {"max_file_size": MAX_BYTES, "enable_monitoring": False, "ssr_mode": False}
        options: dict[str, Any] = {"quiet": True, "prevent_thread_lock": True} | look | limits
        try:
            self.blocks.launch(server_name=host, server_port=port, share=share, **options)
        except OSError as error:
            raise UserError(f"port={port} on host={host} cannot be used; give another port=<number>") from error


def _values(run: LoadedRun, codes: dict, text: str) -> dict[str, list[float]] | None:
    """The values that a link gives for a run, such as `z:0.1,0.2;c:3`."""
    if not text:
        return None
    if not re.fullmatch(r"(\w+:[-+.,\de]+)(;\w+:[-+.,\de]+)*", text):
        raise UserError(f"the link has {text[:40]!r}; values are written as 'z:0.1,0.2;c:3'; test image 0 is shown instead")
    try:
        values = {name: [float(v) for v in numbers.split(",")] for name, numbers in (p.split(":") for p in text.split(";"))}
    except ValueError as error:
        raise UserError(f"the link has {text[:40]!r}, which contains an invalid number; test image 0 is shown") from error
    run.walked(codes, values)
    return values
