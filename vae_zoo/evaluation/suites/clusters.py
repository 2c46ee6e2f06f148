"""Suite `clusters`: evaluates categorical blocks as clusterings of the images."""

import numpy as np
import torch

from vae_zoo.contract import HasFacets
from vae_zoo.data.datamodule import DataModule
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import DoesNotApply, Result, Suite
from vae_zoo.figures import grid
from vae_zoo.metrics import clustering
from vae_zoo.metrics.catalogue import PIXELS

MEMBERS = 7  # images shown per value


class Clusters(Suite):
    """Clusters are the arg max of a categorical block: number of values, number of used values, agreement with the labels
    if known. Maps from clusters to labels are fitted on training images. <score>_pixels: baseline, k-means with as many
    clusters on the pixels of the same images, at the end of training. Facets have their own suite, with the same names.
    """

    name = "clusters"

    def run(self, e: Context) -> Result:
        names = [name for name, block in e.model.blocks.items() if block.kind == "categorical"]
        if not names or isinstance(e.model, HasFacets):
            raise DoesNotApply("the model has no categorical blocks, or its clusters are facets")
        found = Result()
        for name in names:
            train, scored = (e.codes.blocks(part)[name].argmax(1) for part in (e.train, e.data.indices[e.split].numpy()))
            numbers = {}
            if e.has_known_labels:
                labels, named = e.data.first_label[e.data.indices[e.split]].numpy(), e.data.first_label[e.train].numpy()
                numbers = clustering.scores(scored, labels, (train, named)) | by_pixels(
                    e, e.model.blocks[name].size, labels, named
                )
            numbers |= {"clusters": e.model.blocks[name].size, "clusters_used": clustering.used(scored)}
            prefix = "" if len(names) == 1 else f"{name}/"
            found.numbers |= {f"{prefix}{key}": value for key, value in numbers.items()}
            if e.keeps_pictures:
                found.pictures[f"members_{name}"] = cluster_members(e, name)
        return found


def by_pixels(e: Context, num_clusters: int, labels: np.ndarray, labels_train: np.ndarray) -> dict[str, float]:
    """Baseline: scores of k-means on pixels with as many clusters, on the same images; only at the end of training."""
    if e.split != "test":
        return {}
    train, scored = e.pixel_clusters(num_clusters)
    return {f"{name}{PIXELS}": value for name, value in clustering.scores(scored, labels, (train, labels_train)).items()}


def cluster_members(e: Context, name: str) -> np.ndarray:
    """For each value of a categorical block, the images of the split with the highest probability."""
    index = e.data.indices[e.split]
    values, members = clustering.most_confident(e.codes.blocks(index.numpy())[name], MEMBERS)
    rows = [f"{name} = {k}" for k in values.tolist()]
    return grid(member_images(e.data, index, members), rows, title=f"most probable images of each value of {name}")


def member_images(data: DataModule, index: torch.Tensor, members: np.ndarray) -> np.ndarray:
    """Images [R, C, ch, H, W] of members [R, C], which are positions in `index` [N]; white where there is none (-1)."""
    there = members >= 0
    images = np.ones((*members.shape, *data.image_shape), dtype=np.float32)
    images[there] = data.single(index[members[there]])["image"].numpy()
    return images
