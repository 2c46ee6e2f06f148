"""Suite `clusters`: evaluates categorical blocks as clusterings of the images."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vae_zoo.contract import HasFacets
from vae_zoo.data.datamodule import DataModule
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Picture, Result, Suite
from vae_zoo.figures import grid
from vae_zoo.metrics import clustering
from vae_zoo.metrics.catalogue import PIXELS

MEMBERS = 7  # images shown per value


class Clusters(Suite):
    """Compares the clusters of each categorical block, the arg max of its probabilities, with the labels if they are known.

    Maps from clusters to labels are fitted on training images. <score>_pixels: baseline, k-means on the pixels of the same
    images with the same number of clusters as the model, at the end of training. Of several blocks and label variables, each
    block is compared with its own variable. Facets have their own suite, with the same names of scores.
    """

    name = "clusters"

    def run(self, e: Context) -> Result:
        """Computes agreement with the labels, number of clusters and number of used clusters."""
        names = [name for name, block in e.model.blocks.items() if block.kind == "categorical"]
        if not names or isinstance(e.model, HasFacets):
            raise DoesNotApply("the model has no categorical blocks, or its clusters are facets")
        found = Result()
        for place, name in enumerate(names):
            train, scored = (e.codes.blocks(part)[name].argmax(1) for part in (e.train, e.data.indices[e.split].numpy()))
            numbers, size = {}, e.model.blocks[name].size
            if e.has_known_labels:
                labels, named = (labels_of(e, part, place) for part in (e.data.indices[e.split].numpy(), e.train))
                numbers = clustering.scores(scored, labels, (train, named)) | by_pixels(e, size, labels, named)
            numbers |= {"clusters": size, "clusters_used": clustering.used(scored)}
            prefix = "" if len(names) == 1 else f"{name}/"
            found.numbers |= {f"{prefix}{key}": value for key, value in numbers.items()}
            if e.keeps_pictures:
                found.pictures[f"members_{name}"] = cluster_members(e, name)
        return found


def labels_of(e: Context, index: Int[np.ndarray, " N"], place: int) -> Int[np.ndarray, " N"]:
    """Labels of images for the block at this place: its own variable, if there are so many, else the first."""
    assert e.data.label is not None
    labels = e.data.label[torch.from_numpy(index)].numpy().reshape(len(index), -1)
    return labels[:, place if place < labels.shape[1] else 0]


def by_pixels(e: Context, K: int, labels: Int[np.ndarray, " N"], train: Int[np.ndarray, " M"]) -> dict[str, float]:
    """Baseline: scores of k-means on pixels, on the same images; only at the end of training.

    Args:
        e: Context of the evaluation.
        K: Number of clusters.
        labels: Labels of all images of the split.
        train: Labels of the images of `e.train`.

    Returns:
        {<score>_pixels: value}; {} during training.
    """
    if e.split != "test":
        return {}
    clusters, scored = e.pixel_clusters(K)
    return {f"{name}{PIXELS}": value for name, value in clustering.scores(scored, labels, (clusters, train)).items()}


def cluster_members(e: Context, name: str) -> Picture:
    """Draws the most confident images of the split for each value of a categorical block."""
    index = e.data.indices[e.split]
    values, members = clustering.most_confident(e.codes.blocks(index.numpy())[name], MEMBERS)
    rows = [f"{name} = {k}" for k in values.tolist()]
    return grid(member_images(e.data, index, members), rows, title=f"most confident images of each value of {name}")


def member_images(
    data: DataModule, index: Int[Tensor, " N"], members: Int[np.ndarray, "rows n"]
) -> Float[np.ndarray, "rows n C H W"]:
    """Images of the members of clusters.

    Args:
        data: Set up.
        index: Images that the clusters are of.
        members: Positions in `index`, -1: none.

    Returns:
        Images in [0, 1], white where there is none.
    """
    there = members >= 0
    images = np.ones((*members.shape, *data.image_shape), dtype=np.float32)
    images[there] = data.single(index[members[there]])["image"].numpy()
    return images
