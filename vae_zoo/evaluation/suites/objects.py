"""Suite `objects`: detection of objects, for models with `detect` and data with boxes; also on unseen backgrounds.

Codes are posterior means and presence is 0 or 1. Predicted boxes come from z_where; true boxes are tight around the visible
pixels of an object. Names begin with test/ or test_unseen/.

count_accuracy, _mae, _bias    number of objects: share of correct counts, mean absolute error, mean of predicted - true
count_accuracy_cells           the same of occupied cells, before overlapping detections are left out (model.max_iou)
count_accuracy_constant        baseline: the constant count with the highest accuracy
ap50, map                      average precision of boxes, ranked by their probability of presence (above 0.05)
ap50_shuffled                  baseline: boxes of each image scored on the next image
recall30, recall50, recall75   share of true boxes matched one-to-one by a present box with this IoU
ari_fg                         adjusted Rand index of the object pixels, assigned to the object with the largest share
ari_fg_nothing, ari_fg_tiles   baselines: no object, and squares of the mean side of a true box, for every image the same
duplicates                     share of the images in which two present boxes have IoU > 1/2
mse                            squared error of the reconstruction, mean over pixels and channels
count_accuracy_components, ap50_components   baseline: connected pixels that differ from the most common colour
"""

from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vae_zoo.contract import Batch, Codes, FindsObjects
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import Picture, Result, Suite
from vae_zoo.figures import grid
from vae_zoo.figures.scenes import with_boxes
from vae_zoo.metrics import detection
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.nets.spatial import have_duplicates

CHUNK = 256  # images per batch
SHOWN = 8  # images in a figure
PRESENT = 0.5  # minimum probability of presence for an object to count
TRUE, FOUND = "#2fd05f", "#ffffff"  # colours of the boxes
IOUS = (0.3, 0.5, 0.75)


class Objects(Suite):
    """Metrics of the objects of a model on scenes; the docstring of the module defines them."""

    name, capability, needs = "objects", FindsObjects, frozenset({"boxes"})

    @torch.no_grad()
    def run(self, e: Context) -> Result:
        """Computes the numbers of the split, and draws the figures."""
        split = self.split or e.split
        found = Result(numbers(e, split))
        if e.keeps_pictures:
            batch = e.data.single(e.data.indices[split][:SHOWN], e.model.device)
            found.pictures = {f"{name}_{split}": image for name, image in pictures(e.model, batch).items()}
        return found


class UnseenObjects(Objects):
    """The same on backgrounds that training does not contain."""

    name, split = "objects on unseen backgrounds", "test_unseen"


@torch.no_grad()
def numbers(e: Context, split: str) -> dict[str, float]:
    """The numbers of a split."""
    finder = cast(FindsObjects, e.model)
    found, boxes, masks, ari, squares, twice, parts, cells = [], [], [], [], [], [], [], []
    for index in e.data.indices[split].split(CHUNK):
        batch = e.data.single(index, e.model.device)
        scene = finder.render(e.model.codes(batch))
        found += finder.detect(batch)
        boxes += batch["boxes"]
        masks.append(batch["mask"].cpu())
        ari.append(detection.adjusted_rand(instance_map(scene.share), batch["mask"]))
        squares.append((scene.image - batch["image"]).square().flatten(1).mean(1).cpu())
        cells.append((scene.presence > PRESENT).sum(1).cpu())
        twice.append(have_duplicates(scene.box, scene.presence > 0.5).cpu())
        parts += detection.connected_components(batch["image"].cpu().numpy())
    present = [one["boxes"][one["scores"] > PRESENT] for one in found]
    true = np.array([len(b) for b in boxes])
    return {
        **of_counts(np.array([len(b) for b in present]), true),
        "count_accuracy_cells": float((torch.cat(cells).numpy() == true).mean()),
        **detection.average_precision(found, boxes),
        "ap50_shuffled": detection.average_precision(found, boxes[1:] + boxes[:1])["ap50"],
        **{f"recall{round(100 * iou)}": value for iou, value in zip(IOUS, detection.recall(present, boxes, IOUS))},
        "ari_fg": float(np.nanmean(np.concatenate(ari))),
        **of_tiles(torch.cat(masks), torch.cat(boxes).cpu()),
        "duplicates": float(torch.cat(twice).double().mean()),
        "mse": float(torch.cat(squares).double().mean()),
        **of_components(parts, boxes),
    }


def of_counts(found: Int[np.ndarray, " N"], true: Int[np.ndarray, " N"]) -> dict[str, float]:
    """Scores of the predicted numbers of objects."""
    return {
        "count_accuracy": float((found == true).mean()),
        "count_mae": float(np.abs(found - true).mean()),
        "count_bias": float((found - true).mean()),
        "count_accuracy_constant": float(np.bincount(true).max() / len(true)),
    }


def of_tiles(masks: Int[Tensor, "N H W"], boxes: Float[Tensor, "M 4"]) -> dict[str, float]:
    """Baselines: ARI of the object pixels without any object, and of a fixed tiling.

    Args:
        masks: True number of the object of each pixel.
        boxes: True boxes of all images.
    """
    side = max(1, round((boxes[:, 2:] - boxes[:, :2]).mean().item())) if len(boxes) else 1
    rows, columns = (torch.arange(size) // side for size in masks.shape[1:])
    tiles = rows[:, None] * (columns[-1] + 1) + columns
    maps = {"nothing": torch.zeros_like(masks), "tiles": tiles.expand_as(masks)}
    return {f"ari_fg_{name}": float(np.nanmean(detection.adjusted_rand(map_, masks))) for name, map_ in maps.items()}


def of_components(parts: list[Float[np.ndarray, "_ 4"]], boxes: list[Float[Tensor, "_ 4"]]) -> dict[str, float]:
    """Scores of connected components; all boxes have the same confidence.

    Args:
        parts: Boxes of the components of each image.
        boxes: True boxes of each image.
    """
    found = [
        {"boxes": torch.from_numpy(b), "scores": torch.ones(len(b)), "labels": torch.zeros(len(b), dtype=torch.long)}
        for b in parts
    ]
    accuracy = np.mean([len(one) == len(truth) for one, truth in zip(parts, boxes)])
    ap50 = detection.average_precision(found, [b.cpu() for b in boxes])["ap50"]
    return {"count_accuracy_components": float(accuracy), "ap50_components": ap50}


def instance_map(share: Float[Tensor, "B O H W"]) -> Int[Tensor, "B H W"]:
    """Assigns each pixel to its largest share: 0 the background, i + 1 object i."""
    return torch.cat([1 - share.sum(1, keepdim=True), share], dim=1).argmax(1)


# ---- pictures -------------------------------------------------------------------------------------------------------


def pictures(model: LatentVariableModel, batch: Batch) -> dict[str, Picture]:
    """Draws boxes on images and reconstructions, the content of each cell, and scenes with one object edited.

    Args:
        model: That finds objects, in eval mode.
        batch: Images with boxes.
    """
    finder = cast(FindsObjects, model)
    codes = model.codes(batch)
    scene = finder.render(codes)
    image, drawn, ground = (to_numpy(x) for x in (batch["image"], scene.image.clamp(0, 1), scene.ground))
    true = [box.cpu().numpy() for box in batch["boxes"]]
    found = [one["boxes"][one["scores"] > PRESENT].cpu().numpy() for one in finder.detect(batch)]
    columns = [with_boxes(image, true, TRUE), with_boxes(image, found, FOUND), with_boxes(drawn, found, FOUND)]
    columns.append(with_boxes(ground, [np.empty((0, 4))] * len(ground), FOUND))
    heads = ["true boxes", "found boxes", "reconstruction", "background"]
    sprite = scene.alpha * scene.sprite + (1 - scene.alpha) / 2  # on grey; absent objects are pale
    sprite = 0.5 + (sprite - 0.5) * (0.15 + 0.85 * scene.presence[..., None, None, None])
    edited = [image, drawn, *(to_numpy(model.decode(c)) for c in edits(model, codes, batch))]
    return {
        "boxes": grid(np.stack(columns, 1), column_labels=heads),
        "glimpses": grid(to_numpy(sprite), title="object in each cell; pale: not present"),
        "edits": grid(np.stack(edited, 1), column_labels=["image", "reconstruction", "object removed", "object moved"]),
    }


def edits(model: LatentVariableModel, codes: Codes, batch: Batch) -> tuple[Codes, Codes]:
    """The codes without the object with the highest presence, and with this object on the other side of its cell."""
    finder = cast(FindsObjects, model)
    surest = finder.presence_log_odds(batch).argmax(1)
    return finder.without_object(codes, surest), finder.with_object_moved(codes, surest)
