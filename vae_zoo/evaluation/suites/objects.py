"""Are the objects found? Of a model with `detect` on data with boxes; on unseen grounds too, where the data have them.

Codes are means and a presence is 0 or 1; boxes are those of z_where, true boxes tight around what is visible of an object;
names begin with test/ or test_unseen/.

count_accuracy, _mae, _bias    of the number of objects: exactly right, mean distance, mean of found - true
count_accuracy_constant        of the one number that is most often right, whatever the image
ap50, map                      average precision of boxes, ranked by their probability of presence (above 0.05)
ap50_shuffled                  of each image's boxes on the next image: the score of positions alone
recall30, recall50, recall75   true boxes that a present object's box meets with this IoU, one for one
ari_fg                         adjusted Rand index of the pixels of objects, whose part of the image each is taken for
duplicates                     share of the images in which two present boxes have IoU > 1/2
mse                            of the reconstruction, mean over pixels and channels
count_accuracy_components, ap50_components   of connected pixels that differ from the commonest colour: no learning at all
"""

from typing import cast

import numpy as np
import torch

from vae_zoo.contract import Batch, Codes, FindsObjects
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suite import Result, Suite
from vae_zoo.figures import grid
from vae_zoo.figures.scenes import with_boxes
from vae_zoo.metrics import detection
from vae_zoo.metrics.arrays import to_numpy
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.nets.spatial import have_duplicates

CHUNK = 256  # images at once
SHOWN = 8  # images in a picture
PRESENT = 0.5  # probability from which on an object counts
TRUE, FOUND = "#2fd05f", "#ffffff"  # colours of the boxes
IOUS = (0.3, 0.5, 0.75)


class Objects(Suite):
    name, capability, needs = "objects", FindsObjects, frozenset({"boxes"})

    @torch.no_grad()
    def run(self, e: Context) -> Result:
        split = self.split or e.split
        found = Result(numbers(e, split))
        if e.keeps_pictures:
            batch = e.data.single(e.data.indices[split][:SHOWN], e.model.device)
            found.pictures = {f"{name}_{split}": image for name, image in pictures(e.model, batch).items()}
        return found


class UnseenObjects(Objects):
    name, split = "objects on unseen grounds", "test_unseen"


@torch.no_grad()
def numbers(e: Context, split: str) -> dict[str, float]:
    finder = cast(FindsObjects, e.model)
    found, boxes, ari, squares, twice, parts = [], [], [], [], [], []
    for index in e.data.indices[split].split(CHUNK):
        batch = e.data.single(index, e.model.device)
        scene = finder.render(e.model.codes(batch))
        found += finder.detect(batch)
        boxes += batch["boxes"]
        ari.append(detection.adjusted_rand(instance_map(scene.share), batch["mask"]))
        squares.append((scene.image - batch["image"]).square().flatten(1).mean(1).cpu())
        twice.append(have_duplicates(scene.box, scene.presence > 0.5).cpu())
        parts += detection.connected_components(batch["image"].cpu().numpy())
    present = [one["boxes"][one["scores"] > PRESENT] for one in found]
    return {
        **of_counts(np.array([len(b) for b in present]), np.array([len(b) for b in boxes])),
        **detection.average_precision(found, boxes),
        "ap50_shuffled": detection.average_precision(found, boxes[1:] + boxes[:1])["ap50"],
        **{f"recall{round(100 * iou)}": value for iou, value in zip(IOUS, detection.recall(present, boxes, IOUS))},
        "ari_fg": float(np.nanmean(np.concatenate(ari))),
        "duplicates": float(torch.cat(twice).double().mean()),
        "mse": float(torch.cat(squares).double().mean()),
        **of_components(parts, boxes),
    }


def of_counts(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {
        "count_accuracy": float((found == true).mean()),
        "count_mae": float(np.abs(found - true).mean()),
        "count_bias": float((found - true).mean()),
        "count_accuracy_constant": float(np.bincount(true).max() / len(true)),
    }


def of_components(parts: list[np.ndarray], boxes: list[torch.Tensor]) -> dict[str, float]:
    """All boxes of connected components are as certain as each other."""
    found = [
        {"boxes": torch.from_numpy(b), "scores": torch.ones(len(b)), "labels": torch.zeros(len(b), dtype=torch.long)}
        for b in parts
    ]
    accuracy = np.mean([len(one) == len(truth) for one, truth in zip(parts, boxes)])
    ap50 = detection.average_precision(found, [b.cpu() for b in boxes])["ap50"]
    return {"count_accuracy_components": float(accuracy), "ap50_components": ap50}


def instance_map(share: torch.Tensor) -> torch.Tensor:
    """What each pixel is mostly of, [B, H, W]: 0 the ground, i + 1 object i, from the objects' shares [B, N, H, W]."""
    return torch.cat([1 - share.sum(1, keepdim=True), share], dim=1).argmax(1)


# ---- pictures -------------------------------------------------------------------------------------------------------


def pictures(model: LatentVariableModel, batch: Batch) -> dict[str, np.ndarray]:
    """Boxes over images and reconstructions, what each cell holds, scenes with their surest object taken away or moved."""
    finder = cast(FindsObjects, model)
    codes = model.codes(batch)
    scene = finder.render(codes)
    image, drawn, ground = (to_numpy(x) for x in (batch["image"], scene.image.clamp(0, 1), scene.ground))
    true = [box.cpu().numpy() for box in batch["boxes"]]
    found = [one["boxes"][one["scores"] > PRESENT].cpu().numpy() for one in finder.detect(batch)]
    columns = [with_boxes(image, true, TRUE), with_boxes(image, found, FOUND), with_boxes(drawn, found, FOUND)]
    columns.append(with_boxes(ground, [np.empty((0, 4))] * len(ground), FOUND))
    heads = ["image, true", "found", "drawn", "background"]
    sprite = scene.alpha * scene.sprite + (1 - scene.alpha) / 2  # on grey; absent objects are faint
    sprite = 0.5 + (sprite - 0.5) * (0.15 + 0.85 * scene.presence[..., None, None, None])
    edited = [image, drawn, *(to_numpy(model.decode(c)) for c in edits(model, codes, batch))]
    return {
        "boxes": grid(np.stack(columns, 1), column_labels=heads),
        "glimpses": grid(to_numpy(sprite), title="what each cell holds; faint: not present"),
        "edits": grid(np.stack(edited, 1), column_labels=["image", "drawn", "one gone", "one moved"]),
    }


def edits(model: LatentVariableModel, codes: Codes, batch: Batch) -> tuple[Codes, Codes]:
    """The codes without the object whose presence is surest, and with it on the other side of its cell."""
    finder = cast(FindsObjects, model)
    surest = finder.presence_log_odds(batch).argmax(1)
    return finder.without_object(codes, surest), finder.with_object_moved(codes, surest)
