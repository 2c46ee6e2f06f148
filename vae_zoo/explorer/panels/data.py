"""Data: the codes of the test images as points, and the block-factor matrix."""

from html import escape
from importlib import import_module
from importlib.util import find_spec

import gradio as gr
import numpy as np
from sklearn.decomposition import PCA

from vae_zoo.evaluation.context import targets
from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import LoadedRun
from vae_zoo.explorer.widgets import clickable, data_uri, figure, pixels, strip
from vae_zoo.figures.encode import to_webp
from vae_zoo.runs.folder import block_scores
from vae_zoo.utils.errors import UserError

TITLE = "Data"
POINTS = 600
FEW = 12  # values that have a legend


def fits(run: LoadedRun) -> bool:
    """Models with a Gaussian block."""
    return bool(run.of_kind("gaussian"))


def build(page: Page, run: LoadedRun) -> None:
    """The points, which can be clicked, and the block-factor matrix of the run, whose cells animate a traversal."""
    values, factors = targets(run.data, run.index)
    colours = [factor.name for factor in factors]
    blocks = run.of_kind("gaussian")
    with gr.Row():
        block = gr.Radio(blocks, value=blocks[0], label="block")
        colour = gr.Dropdown([(f"by {name}", name) for name in colours], value=next(iter(colours), None), label="colour")
        method = gr.Radio(["PCA", *(["UMAP"] if find_spec("umap") else [])], value="PCA", label="projection")
    points, shown = clickable(), gr.HTML()

    def scatter(image: str, block: str, colour: str | None, method: str) -> str:
        places = plane(run.sample["mean"][block][:POINTS].numpy(), method)
        column = values[: len(places), colours.index(colour)] if colour in colours else np.zeros(len(places))
        return svg(places, column)

    def choose(event: gr.SelectData):
        number = int(event.index[0])
        test = run.data.indices["test"].tolist().index(int(run.index[number]))
        about = ", ".join(f"{name} {value:g}" for name, value in zip(colours, values[number]))
        tile = strip(run.data.single(run.data.indices["test"][test][None])["image"].numpy(), [f"image {test}"])
        chosen = (f"test:{test}", None, test) if run is page.runs[0] else (gr.skip(),) * 3
        return f"{tile}<p>test image {test}: {escape(about)}</p>", *chosen

    points.select(choose, None, [shown, page.image, page.walks, page.number], show_progress="hidden")
    page.follow(scatter, [block, colour, method], points)
    scores = block_scores(run.numbers)
    if any(name in run.model.blocks for name in scores):
        gr.Markdown(
            "Score of a probe for each factor from each block (test/block). Click a cell to animate the dimension that "
            "depends most on the factor."
        )
        matrix, film = clickable(value=table(scores, run)), gr.HTML()

        def play(image: str, event: gr.SelectData) -> str:
            name, factor = event.index[0].split("|")
            if factor not in colours:
                raise UserError(f"the data do not have the factor {factor}; choose one of {', '.join(colours)}")
            title, frames = run.film(page.images.codes(run, image), name, values[:, colours.index(factor)])
            forth = [pixels(x) for x in frames]
            return figure(
                data_uri(to_webp(np.stack(forth + forth[-2:0:-1])), "image/webp"), title, "webp", title, "pixels film"
            )

        matrix.select(page.checked(play), page.image, film, show_progress="hidden")


def plane(codes: np.ndarray, method: str) -> np.ndarray:
    """Codes [N, D] as points [N, 2] in [0, 1]."""
    if codes.shape[1] == 1:
        places = np.hstack([codes, np.zeros_like(codes)])
    else:
        places = (PCA(2) if method == "PCA" else import_module("umap").UMAP(random_state=0)).fit_transform(codes)
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 1e-9)


def svg(places: np.ndarray, values: np.ndarray) -> str:
    """Points [N, 2] in [0, 1], coloured by values [N], each with its number as key."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    hues = 300 * (values - low) / max(high - low, 1e-9)
    dots = "".join(
        f'<circle cx="{10 + 480 * x:.1f}" cy="{350 - 340 * y:.1f}" r="4" fill="hsl({hue:.0f} 65% 48%)" data-key="{i}"/>'
        for i, ((x, y), hue) in enumerate(zip(places, hues))
    )
    known = np.unique(values)
    legend = ""
    if 1 < len(known) <= FEW:
        keys = [f'<span style="color:hsl({300 * (v - low) / (high - low):.0f} 65% 48%)">●</span> {v:g}' for v in known]
        legend = f'<p class="legend">{" ".join(keys)}</p>'
    return f'<svg class="scatter" viewBox="0 0 500 360">{dots}</svg>{legend}'


def table(scores: dict[str, dict[str, float | None]], run: LoadedRun) -> str:
    """The block-factor matrix; cells of the model's blocks can be clicked."""
    factors = list(next(iter(scores.values())))
    head = "".join(f"<th>{escape(factor)}</th>" for factor in factors)
    rows = []
    for name, row in scores.items():
        cells = []
        for factor in factors:
            score, key = row[factor], escape(f"{name}|{factor}")
            at = f' data-key="{key}" tabindex="0" role="button"' if name in run.model.blocks else ""
            ink = "; color: white" if (score or 0) > 0.6 else ""
            shade = f' style="background: rgb(29 111 122 / {max(0, min(1, score or 0)):.2f}){ink}"'
            cells.append(f"<td{at}{shade}>{'–' if score is None else f'{score:.2f}'}</td>")
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return f'<div class="matrix"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
