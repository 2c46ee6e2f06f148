"""Clusters: facet, cluster, members, samples, and the image with this facet of the cluster."""

from functools import cache

import gradio as gr
import numpy as np

from vae_zoo.contract import HasFacets
from vae_zoo.evaluation.suites.clusters import member_images
from vae_zoo.evaluation.suites.facets import Clustered
from vae_zoo.explorer.capabilities import in_cluster
from vae_zoo.explorer.page import Page
from vae_zoo.explorer.state import LoadedRun
from vae_zoo.explorer.widgets import clickable, strip
from vae_zoo.metrics.clustering import most_confident

TITLE = "Clusters"
MEMBERS = 8


def fits(run: LoadedRun) -> bool:
    """Models with facets that cluster."""
    return isinstance(run.model, HasFacets)


def build(page: Page, run: LoadedRun) -> None:
    """The clusters of a facet, and members and samples of the chosen one."""
    facets = list(run.model.facets) if isinstance(run.model, HasFacets) else []
    clustered = cache(lambda: Clustered(run.model, run.data, run.index))  # when the panel is opened
    with gr.Row():
        facet = gr.Radio(facets, value=facets[0], label="facet")
        temperature = gr.Slider(0, 1.5, 0.5, step=0.1, label="temperature: factor on the standard deviations")
    cluster = gr.State(None)
    clusters, view = clickable(), gr.HTML()

    def choices(image: str, facet: str) -> str:
        seen = clustered()
        numbers, members = most_confident(seen.probs[facet], 1)
        shares = seen.shares(facet)
        captions = [f"cluster {c}: {100 * shares[c]:.0f} %" for c in numbers]
        return strip(member_images(run.data, seen.index, members)[:, 0], captions, [str(c) for c in numbers])

    def choose(event: gr.SelectData) -> int:
        return int(event.index[0])

    def draw(image: str, facet: str, cluster: int | None, temperature: float) -> str:
        seen = clustered()
        numbers, members = most_confident(seen.probs[facet], MEMBERS)
        row = int(np.flatnonzero(numbers == cluster)[0]) if cluster in numbers else 0
        c, there = int(numbers[row]), members[row][members[row] >= 0]
        shown = member_images(run.data, seen.index, there[None])[0]
        own = page.images.codes(run, image)
        samples, mixed = in_cluster(run, own, facet, c, temperature, MEMBERS)
        rows = {f"members of cluster {c}, most confident first": shown}
        rows[f"samples of cluster {c}, with the other facets sampled from their priors"] = samples
        rows[f"the image, with {facet} sampled from cluster {c}"] = mixed
        return "".join(f"<h4>{title}</h4>{strip(images, [''] * len(images))}" for title, images in rows.items())

    clusters.select(choose, None, cluster, show_progress="hidden")
    facet.input(lambda: None, None, cluster, show_progress="hidden")
    page.follow(choices, [facet], clusters)
    page.follow(draw, [facet, cluster, temperature], view)
