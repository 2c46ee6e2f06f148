"""Loading: from a run folder or a checkpoint back to the model."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from vae_zoo.config.check import check_component, check_trust, one_line
from vae_zoo.config.renamed import with_present_names
from vae_zoo.config.schemas import HUB
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.runs import folder as runs
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import read_dict
from vae_zoo.utils.lazy import need

log = logging.getLogger(__name__)


def build(node: dict[str, Any], **extra: Any) -> Any:
    """Makes the object of a config node with a `_target_`.

    Args:
        node: Node of a config.
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
    """Loads the trained model of a run folder (its last.ckpt), of a checkpoint, or of a folder that `export` made to share.

    Only classes of vae_zoo, lightning, torch and torchmetrics are imported, unless `trust` names more packages; weights
    are read with `weights_only=True`.

    Args:
        run: Run folder, checkpoint, shared folder, or hf://<user>/<name> for one on the Hugging Face hub.
        device: Such as cpu, gpu, cuda:1.
        trust: Further packages that the config may import.

    Returns:
        The model, in eval mode on `device`.

    Raises:
        UserError: There is no such run or device, or it cannot be read.
    """
    run = download(run) if isinstance(run, str) and run.startswith("hf://") else Path(run).expanduser()
    if is_shared := (run / "config.json").is_file() and not (run / "config.yaml").is_file():
        path = run / "model.safetensors"
    elif run.is_dir():
        runs.read_config(run)
        path = run / "checkpoints" / "last.ckpt"
        if not path.is_file():
            raise UserError(f"{run} has no checkpoints/last.ckpt; train it first")
    else:
        path = run
    check_device(device, "device")
    checkpoint = read_shared(run) if is_shared else read_checkpoint(path)
    config = checkpoint["config"]["model"]
    check_trust(config, trust)
    if is_shared:
        check_component(config, "model")
    model = build(config)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path} does not match its own config ({one_line(error)}); restore it or train again") from error
    model.on_load_checkpoint(checkpoint)
    return model.to(device).eval()


def load_run(folder: Path, options: dict[str, Any]) -> tuple[dict[str, Any], LatentVariableModel, Any]:
    """Loads a run with its data, for a command.

    Args:
        folder: Run folder.
        options: `device`, `trust`, and `data` with present paths of the data, of the command's config.

    Returns:
        The config, the model and the data module, which is set up and serves the model.

    Raises:
        UserError: A part is missing or not trusted.
    """
    config = runs.read_config(folder)
    check_trust(config, options["trust"])
    model = load_model(folder, options["device"], trust=options["trust"])
    for key, value in options["data"].items():
        if value is not None:
            runs.change(config, "data", key, value)
    of_run, now = runs.read_status(folder).get("digests", {}), runs.digests(config["data"])
    for key in (key for key in now if of_run.get(key, now[key]) != now[key]):
        log.warning("data.%s=%s has other files, or another size, than in training", key, config["data"][key])
    data = build(config["data"])
    data.serve(model)
    return config, model, data


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint.

    Args:
        path: Path of the file.

    Returns:
        The checkpoint, its config with the present names of targets.

    Raises:
        UserError: The file does not exist, or it is not a vae_zoo checkpoint.
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


def read_shared(folder: Path) -> dict[str, Any]:
    """Reads a shared folder in the form of a checkpoint.

    Args:
        folder: With config.json and model.safetensors.

    Raises:
        UserError: A file is missing or damaged, or has another format.
    """
    need("export", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, _ = read_dict(folder / "config.json")
    if not isinstance(config.get("model"), dict) or not isinstance(config.get("global_step"), int):
        raise UserError(f"{folder / 'config.json'} is damaged or not the config of a vae_zoo model; export the run again")
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing, damaged or not in the safetensors format; export the run again") from error
    config = with_present_names(config)
    return {"config": config, "state_dict": weights, "global_step": config["global_step"]}


def download(name: str) -> Path:
    """Downloads a shared folder from the Hugging Face hub, or finds it in the cache.

    Args:
        name: hf://<user>/<name>.

    Returns:
        The folder.

    Raises:
        UserError: The name is invalid, or the hub has no such model.
    """
    if not (found := re.fullmatch(f"hf://({HUB})", name)):
        raise UserError(f"{name} is not the name of a model on the hub; give hf://<user>/<name>")
    need("export", "huggingface_hub")
    from huggingface_hub import hf_hub_download

    try:
        files = [hf_hub_download(found[1], file) for file in ("config.json", "model.safetensors")]
    except Exception as error:  # of the network, of the hub, of the cache
        raise UserError(f"{name} cannot be downloaded ({one_line(error)}); check the name and the network") from error
    return Path(files[0]).parent


def check_device(name: str, key: str) -> None:
    """Checks that this machine has a device.

    Args:
        name: Such as cpu, gpu, cuda:1.
        key: The setting that contains it.

    Raises:
        UserError: The machine lacks it.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cuda": cuda, "mps": mps, "gpu": cuda or mps}
    if not there.get(name.split(":")[0], True):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible!r}"
        raise UserError(f"{key}={name}, but torch finds no such device on this machine{hidden}; use {key}=cpu")
