"""Walk: an image, its reconstruction, and a slider for each dimension of its code.

The sliders are plain HTML with a script that calls `draw` directly: an event of Gradio takes about 200 ms, this about 20 ms.
"""

import io
import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch

from vae_zoo.explorer.page import Page, answered
from vae_zoo.explorer.state import Dimension, LoadedRun
from vae_zoo.explorer.widgets import data_uri, pixels, png
from vae_zoo.figures.encode import to_webp

TITLE = "Walk"
SHOWN = 10  # used dimensions of a block that are not collapsed
SCRIPT = Path(__file__).with_suffix(".js").read_text()


def fits(run: LoadedRun) -> bool:
    """Every model has this panel."""
    return True


def build(page: Page, run: LoadedRun) -> None:
    """The panel of one run. A request of the browser has the keys image and values, see `LoadedRun.walked`."""
    images = page.images

    def codes(asked: dict[str, Any]):
        return run.walked(images.codes(run, asked["image"]), asked["values"])

    @answered
    def draw(asked: dict[str, Any]) -> dict[str, Any]:
        return {"src": png(run.decode(codes(asked))[0])}

    @answered
    def choose(asked: dict[str, Any]) -> dict[str, Any]:
        changed = run.with_classes(codes(asked), torch.tensor([asked["classes"]], device=run.model.device))
        return {"src": png(run.decode(changed)[0]), "values": run.values(changed)}

    @answered
    def play(asked: dict[str, Any]) -> dict[str, Any]:
        forth = run.decode(run.traversal(codes(asked), asked["block"], asked["dim"]))
        frames = np.stack([pixels(image) for image in [*forth, *forth[-2:0:-1]]])
        return {"src": data_uri(to_webp(frames), "image/webp")}

    @answered
    def save(asked: dict[str, Any]) -> dict[str, Any]:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **{name: code.cpu().numpy() for name, code in codes(asked).items()})
        return {"src": data_uri(buffer.getvalue(), "application/zip")}

    view = gr.HTML(js_on_load=SCRIPT, server_functions=[draw, choose, play, save])
    number = page.runs.index(run)

    def show(image: str, walks: list) -> str:
        return html(page, run, image, walks[number] if walks else None)

    page.image.change(page.checked(show), [page.image, page.walks], view, show_progress="hidden")


def html(page: Page, run: LoadedRun, image: str, values: dict[str, list[float]] | None) -> str:
    """HTML of the panel. values: those of the link; None: those of the image."""
    codes = page.images.codes(run, image)
    own = run.values(codes)
    values = own if values is None else own | values
    drawn = run.decode(run.walked(codes, values))[0]
    data = {"image": image, "run": page.runs.index(run), "own": own, "values": values}
    shown = zip(("now", "image"), ("reconstruction", "image"), (drawn, page.images.image(image)[0].numpy()))
    figures = "".join(
        f'<figure class="pixels"><img class="{kind}" src="{png(x)}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        for kind, text, x in shown
    )
    tools = [f'<button data-do="{do}">{do}</button>' for do in ("reset", "undo")]
    tools.append('<button data-do="copy">copy link</button><button data-do="save">codes</button>')
    tools.append(f'<a class="save" href="{png(drawn)}" download="{escape(run.name)}.png">PNG</a>')
    blocks = "".join(_gaussian(run, name, values[name]) for name in run.of_kind("gaussian"))
    blocks += "".join(_categorical(run, name, int(values[name][0])) for name in run.of_kind("categorical"))
    stage = f'{figures}<div class="tools">{"".join(tools)}</div><p class="said" role="status"></p>'
    inside = f'<div class="stage">{stage}</div><div class="blocks">{blocks}</div>'
    return f'<div class="walk" data-walk="{escape(json.dumps(data))}">{inside}</div>'


def _gaussian(run: LoadedRun, name: str, values: list[float]) -> str:
    used = [d for d in run.dimensions[name] if d.used]
    unused = [d for d in run.dimensions[name] if not d.used]
    parts = ["".join(_slider(name, d, values[d.index]) for d in used[:SHOWN])]
    for what, folded in (("more", used[SHOWN:]), ("unused", unused)):
        if folded:
            sliders = "".join(_slider(name, d, values[d.index]) for d in folded)
            shown = "" if used else " open"
            parts.append(f"<details{shown}><summary>{len(folded)} {what}</summary>{sliders}</details>")
    return _fieldset(run, name, "".join(parts))


def _slider(name: str, d: Dimension, value: float) -> str:
    low, high = min(d.low, value), max(d.high, value)
    label = f"{escape(name)}[{d.index}]"
    at = f'data-block="{escape(name)}" data-dim="{d.index}"'
    return (
        f'<div class="dim"><label><span title="KL, mean over test images">[{d.index}] <small>{d.kl:.2f} nats</small></span>'
        f'<input type="range" {at} min="{low}" max="{high}" step="any" value="{value}" aria-label="{label}"></label>'
        f'<output>{value:.2f}</output><button data-do="play" {at} title="animate" aria-label="play {label}">▶</button></div>'
    )


def _categorical(run: LoadedRun, name: str, value: int) -> str:
    values = range(run.model.blocks[name].size)
    options = "".join(f'<option value="{k}"{" selected" * (k == value)}>{k}</option>' for k in values)
    return _fieldset(run, name, f'<select data-block="{escape(name)}" aria-label="{escape(name)}">{options}</select>')


def _fieldset(run: LoadedRun, name: str, inside: str) -> str:
    return f"<fieldset><legend>{escape(name)}</legend><p>{escape(run.model.blocks[name].holds)}</p>{inside}</fieldset>"
