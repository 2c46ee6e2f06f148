"""Objects: boxes on the image; a click removes, moves, copies or changes an object."""

import gradio as gr
import torch

from vae_zoo.contract import Codes, EditsObjects, FindsObjects
from vae_zoo.explorer.capabilities import Edit, edited
from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import LoadedRun
from vae_zoo.explorer.widgets import clickable, figure, png

TITLE = "Objects"
HINTS = {
    "remove": "Click an object.",
    "move": "Click an object, then its new position.",
    "copy": "Click an object, then the position of its copy.",
    "change": "Click an object; each click gives it the appearance of another object of the test set.",
}


def fits(run: LoadedRun) -> bool:
    """Models that find objects."""
    return isinstance(run.model, FindsObjects)


def build(page: Page, run: LoadedRun) -> None:
    """The scene, to be clicked; the edits are kept in order, so that undo drops the last."""
    actions = [*HINTS] if isinstance(run.model, EditsObjects) else ["remove"]
    edits, held = gr.State([]), gr.State(None)
    with gr.Row(elem_classes="image-row"):
        action = gr.Radio(actions, value=actions[0], label="effect of a click")
        undo, reset = gr.Button("Undo", min_width=90), gr.Button("Reset", min_width=90)
    hint, view = gr.Markdown(HINTS[actions[0]]), clickable()
    action.input(lambda a: (HINTS[a], None), action, [hint, held], show_progress="hidden")
    undo.click(lambda edits: (edits[:-1], None), edits, [edits, held], show_progress="hidden")
    gr.on([reset.click, page.image.change], lambda: ([], None), None, [edits, held], show_progress="hidden")

    def click(action: str, edits: list[Edit], held: int | None, event: gr.SelectData):
        key, x, y = event.index
        if held is None or action in ("remove", "change"):
            object_ = int(key) if key != "place" else None
            done = object_ is not None and action in ("remove", "change")
            return ([*edits, (action, object_, x, y)] if done else edits), (None if done else object_)
        return [*edits, (action, held, x, y)], None

    view.select(click, [action, edits, held], [edits, held], show_progress="hidden")

    def draw(image: str, edits: list[Edit], held: int | None) -> str:
        return scene(run, edited(run, page.images.codes(run, image), edits), held, png(page.images.image(image)[0].numpy()))

    page.follow(draw, [edits, held], view)


@torch.no_grad()
def scene(run: LoadedRun, codes: Codes, held: int | None, original: str) -> str:
    """The image of the codes with the box of each object, to be clicked, beside the original."""
    model = run.model
    assert isinstance(model, FindsObjects)
    shown, (_, H, W) = model.render(codes), run.model.image_shape
    boxes = []
    for i in (shown.presence[0] > 0.5).nonzero()[:, 0].tolist():
        (x, y), (w, h) = shown.box[0, i, :2].tolist(), shown.box[0, i, 2:].tolist()
        place = f'x="{x - w / 2:.2f}" y="{y - h / 2:.2f}" width="{w:.2f}" height="{h:.2f}"'
        boxes.append(f'<rect {place} data-key="{i}" class="{"held" * (i == held)}" tabindex="0" role="button"/>')
    drawn = png(run.decode(codes)[0])
    image = f'<image href="{drawn}" width="{W}" height="{H}" data-key="place"/>'
    svg = f'<svg class="scene" data-area viewBox="0 0 {W} {H}">{image}{"".join(boxes)}</svg>'
    pictures = figure(drawn, "edited", caption="edited") + figure(original, "image", caption="image")
    return f'<div class="objects"><div>{svg}<p>objects: {len(boxes)}</p></div><div class="strip">{pictures}</div></div>'
