"""`python evaluate.py run=<run> predict=<folder>`: writes the cluster of each image and its probability as a table."""

import csv
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vae_zoo.contract import HasFacets
from vae_zoo.data.sets.image_folder import read_images
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.runs.load import load_model
from vae_zoo.utils.console import quiet
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import check_writable, write_atomic


def predict_command(cfg: dict[str, Any]) -> None:
    """Writes predictions.csv to <run>/evaluation, or to `out`: a row per image with its file, and for each facet or
    categorical block the number of the most probable cluster and its probability."""
    quiet()
    run, folder = Path(cfg["run"]).expanduser(), Path(cfg["predict"]).expanduser()
    model = load_model(run, cfg["device"], trust=cfg["trust"])
    if not clustering_blocks(model):
        raise UserError(
            f"predict= needs a model with clusters, but {type(model).__name__} has neither facets nor categorical "
            f"blocks; give the run of another model"
        )
    out = (Path(cfg["out"]).expanduser() if cfg["out"] else run / "evaluation") / "predictions.csv"
    check_writable(out.parent, "out=<another folder>")
    arrays = read_images(folder, model.image_shape, "predict", class_depth=0)
    if not len(arrays.images):
        raise UserError(f"predict={folder} has no images; give a folder of PNG or JPEG files")
    probs = predict(model, arrays.images)
    write_atomic(out, table(list(arrays.names or ()), probs))
    print(f"written to {out}: the clusters of {len(arrays.images)} images in {', '.join(probs)}")


def clustering_blocks(model: LatentVariableModel) -> list[str]:
    """The facets and the categorical blocks."""
    categorical = [name for name, block in model.blocks.items() if block.kind == "categorical"]
    return [*(model.facets if isinstance(model, HasFacets) else ()), *categorical]


@torch.no_grad()
def predict(model: LatentVariableModel, images: np.ndarray, batch_size: int = 256) -> dict[str, np.ndarray]:
    """q(c | x) [N, K] of each of the `clustering_blocks`.  images: uint8 [N, C, H, W]."""
    parts = []
    for part in torch.from_numpy(images).split(batch_size):
        q = model.encode(part.to(model.device).float().div_(255))
        clusters = model.clusters(q) if isinstance(model, HasFacets) else {}
        parts.append({name: clusters[name] if name in clusters else q[name].mean for name in clustering_blocks(model)})
    return {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}


def table(names: list[str], probs: dict[str, np.ndarray]) -> str:
    """CSV text."""
    columns = {"file": names}
    for block, of_images in probs.items():
        columns |= {block: of_images.argmax(1), f"{block}_confidence": [f"{p:.4f}" for p in of_images.max(1)]}
    file = StringIO()
    csv.writer(file, lineterminator="\n").writerows([list(columns), *zip(*columns.values())])
    return file.getvalue()
