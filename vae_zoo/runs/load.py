"""Loading: from a run folder or a checkpoint back to the model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vae_zoo.config.check import check_trust, one_line
from vae_zoo.config.renamed import with_present_names
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.runs import folder as runs
from vae_zoo.utils.errors import UserError


def build(node: dict[str, Any], **extra: Any) -> Any:
    """Makes the object of a config node with a `_target_`.

    Args:
        node: Of a config.
        **extra: Further arguments of the constructor.

    Returns:
        The object.

    Raises:
        UserError: The constructor refuses its arguments.
    """
    try:
        return instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ValueError | MisconfigurationException):  # a constructor's own check
            raise UserError(f"{node['_target_']}: {one_line(error.__cause__)}") from error
        raise


def load_model(run: str | Path, device: str = "cpu", trust: Sequence[str] = ()) -> LatentVariableModel:
    """Loads the trained model of a run folder (its last.ckpt) or of a checkpoint.

    Only classes of vae_zoo, lightning, torch and torchmetrics are imported, unless `trust` names more packages; weights
    are read with `weights_only=True`.

    Args:
        run: Run folder or checkpoint.
        device: Such as cpu, gpu, cuda:1.
        trust: Further packages that the config may import.

    Returns:
        The model, in eval mode on `device`.

    Raises:
        UserError: There is no such run or device, or it cannot be read.
    """
    run = Path(run).expanduser()
    if run.is_dir():
        runs.read_config(run)
        path = run / "checkpoints" / "last.ckpt"
        if not path.is_file():
            raise UserError(f"{run} has no checkpoints/last.ckpt; train it first")
    else:
        path = run
    check_device(device, "device")
    checkpoint = read_checkpoint(path)
    config = checkpoint["config"]["model"]
    check_trust(config, trust)
    model = build(config)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path} does not match its own config ({one_line(error)}); restore it or train again") from error
    model.on_load_checkpoint(checkpoint)
    return model.to(device).eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint.

    Args:
        path: Of the file.

    Returns:
        The checkpoint, its config with the present names of targets.

    Raises:
        UserError: There is none, or it is not a vae_zoo checkpoint.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a run folder or one of its checkpoints/*.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path} is damaged or not a vae_zoo checkpoint; restore it or train again") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "global_step"} <= checkpoint.keys():
        raise UserError(f"{path} is not a vae_zoo checkpoint; give a run folder or one of its checkpoints/*.ckpt")
    return checkpoint | {"config": with_present_names(checkpoint["config"])}


def check_device(name: str, key: str) -> None:
    """Checks that this machine has a device.

    Args:
        name: Such as cpu, gpu, cuda:1.
        key: The setting that it was given in.

    Raises:
        UserError: The machine lacks it.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cuda": cuda, "mps": mps, "gpu": cuda or mps}
    if not there.get(name.split(":")[0], True):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
        raise UserError(f"{key}={name}, but torch finds no such device on this machine{hidden}; use {key}=cpu")
