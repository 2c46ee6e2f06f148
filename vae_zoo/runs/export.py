"""Exports a trained model as graphs that run without vae_zoo: `python export.py run=<run folder> format=onnx`.

Encoder and decoder are written to a temporary folder, read back and compared with the model; only then is the folder
renamed, so that an export is either complete or absent.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from vae_zoo.config.check import check_trust, one_line
from vae_zoo.contract import HasFacets
from vae_zoo.distributions import Categorical, Normal
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.runs import folder as runs
from vae_zoo.runs import share
from vae_zoo.runs.load import build, load_model
from vae_zoo.utils.console import quiet
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import replacing, write_json
from vae_zoo.utils.lazy import need

Format = Literal["onnx", "torch_export", "safetensors"]
Graph = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]  # named inputs -> named arrays
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors", "huggingface_hub")}
SUFFIX = {"onnx": "onnx", "torch_export": "pt2"}
CHECKED, SPREAD = 64, 256  # test images that the graphs are compared on, and that the ranges of the codes are taken from
TOLERANCE = 1e-4  # absolute for values within [-1, 1], relative beyond


def export(
    run: str | Path,
    format: Format = "onnx",
    out: str | Path | None = None,
    uint8: bool = False,
    push: str | None = None,
    data: Mapping[str, str | None] | None = None,
    trust: Sequence[str] = (),
) -> Path:
    """Exports a run: encoder and decoder, which are compared with the model on test images, or a folder for the hub.

    Args:
        run: Run folder.
        format: onnx, torch_export for `torch.export.load`, or safetensors for the Hugging Face hub and `load_model`.
        out: Folder to write; None: <run>/export, or <run>/hub for safetensors.
        push: <user>/<name> of the hub, to which the folder of safetensors is uploaded.
        uint8: Whether the encoder takes uint8 images 0..255 instead of float32 images in [0, 1].
        data: Present paths of the data, such as {"root": "/data"}.
        trust: Further packages that the config of the run may import.

    Returns:
        The folder.

    Raises:
        UserError: There is no trained run, a package is missing, or the model cannot be exported.
    """
    run = Path(run).expanduser()
    config = runs.read_config(run)
    check_trust(config, trust)
    need("export", *NEEDS.get(format, ()))
    if format != "safetensors" and push or format == "safetensors" and uint8:
        word = "push= needs format=safetensors" if push else "uint8= needs format=onnx or torch_export"
        raise UserError(f"{word}, got format={format}; change one of them")
    model = load_model(run, trust=trust).requires_grad_(False)
    out = Path(out).expanduser() if out else run / ("hub" if format == "safetensors" else "export")
    if format == "safetensors":
        with replacing(out) as new:
            share.write_folder(run, config, model, new, push and f"hf://{push}")
        if push:
            share.push(out, push)
        return out
    images = load_images(config, data or {})
    with replacing(out) as new:
        about = _about(model, images, format, uint8) | {"command": runs.read_status(run).get("command", "")}
        about |= write_graphs(model, images[:: max(1, len(images) // CHECKED)][:CHECKED], new, format, uint8)
        write_json(new / "model.json", about)
    return out


def load_images(config: dict[str, Any], places: Mapping[str, str | None]) -> Tensor:
    """Up to SPREAD test images, spread over the test split, uint8 [N, C, H, W]."""
    for key, value in places.items():
        if value is not None:
            runs.change(config, "data", key, value)
    data = build(config["data"])
    data.setup()
    index = data.indices["test"]
    images = data.single(index[:: max(1, len(index) // SPREAD)][:SPREAD])["image"]
    return (images * 255).round().to(torch.uint8)


class Encoder(nn.Module):
    """Images to the parameters of the posterior of each block. uint8: whether the images are bytes."""

    def __init__(self, model: LatentVariableModel, uint8: bool = False):
        super().__init__()
        self.model, self.uint8 = model, uint8

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return parameters(self.model, self.model.encode(image.float() / 255 if self.uint8 else image))


class Decoder(nn.Module):
    """Codes of the blocks, in their order, to mean images."""

    def __init__(self, model: LatentVariableModel):
        super().__init__()
        self.model = model

    def forward(self, *codes: Tensor) -> dict[str, Tensor]:
        return {"image": self.model.decode(dict(zip(self.model.blocks, codes)))}


def parameters(model: LatentVariableModel, posterior: dict[str, Any]) -> dict[str, Tensor]:
    """<block>_mean and <block>_logvar of a Gaussian, <block>_probs of a categorical block or of the clusters of a facet;
    for any other posterior <block>_mean, the code."""
    found = {}
    for name, q in posterior.items():
        if isinstance(q, Categorical):
            found[f"{name}_probs"] = q.probs
        else:
            found |= {f"{name}_mean": q.mean} | ({f"{name}_logvar": q.logvar} if isinstance(q, Normal) else {})
    clusters = model.clusters(posterior) if isinstance(model, HasFacets) else {}
    return found | {f"{name}_probs": probs for name, probs in clusters.items()}


@torch.no_grad()
def write_graphs(model: LatentVariableModel, images: Tensor, folder: Path, format: Format, uint8: bool) -> dict[str, Any]:
    """Writes both graphs and compares them with the model. images: uint8. Returns their inputs and outputs."""
    codes = model.codes(images.float() / 255)
    graphs = {
        "encoder": (Encoder(model, uint8), {"image": images if uint8 else images.float() / 255}),
        "decoder": (Decoder(model), {name: codes[name] for name in model.blocks}),
    }
    signatures = {}
    for name, (module, inputs) in graphs.items():
        path = folder / f"{name}.{SUFFIX[format]}"
        outputs = module(*inputs.values())
        try:
            with _quiet():
                run = WRITERS[format](module, inputs, list(outputs), path)
                for count in {len(images), 1}:
                    _compare(run({key: value[:count] for key, value in inputs.items()}), outputs, count)
        except Exception as error:  # exporters raise many kinds
            raise UserError(
                f"the {name} of {type(model).__name__} cannot be exported as {format} ({_reason(error)}); "
                f"format=safetensors works for every model"
            ) from error
        signatures[name] = {"file": path.name, "inputs": _shapes(inputs), "outputs": _shapes(outputs)}
    return signatures


def _reason(error: BaseException) -> str:
    """The innermost cause: an exporter wraps it in advice for its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _compare(got: Mapping[str, np.ndarray], wanted: Mapping[str, Tensor], count: int) -> None:
    for name, value in wanted.items():
        value = value[:count].numpy()
        worst = np.max(abs(got[name] - value) / np.maximum(1, abs(value)), initial=0)
        if not worst <= TOLERANCE:  # not a number either
            raise ValueError(f"{name} differs by {worst:.2g} from the model's on test images, more than {TOLERANCE:g}")


def _program(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    batch = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    spec = {"image": batch[0]} if isinstance(module, Encoder) else {"codes": batch}
    trace = partial(torch.export.export, module, tuple(inputs.values()), dynamic_shapes=spec)
    try:
        program = trace(strict=False)
    except Exception:  # such as len(images), which only the analysis of the bytecode follows
        program = trace(strict=True)
    program._guards_code = []  # that all codes have as many rows; the ONNX exporter fails on this code
    return program


def _write_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], path: Path) -> Graph:
    import onnx
    import onnxruntime
    from onnxscript import optimizer

    program, names = _program(module, inputs), list(inputs)
    options = {"input_names": names, "output_names": outputs, "verbose": False}
    # without the exporter's own optimisation, which takes x + 1e-8 for x
    exported = cast(Any, torch.onnx.export(program, **options, optimize=False))
    optimizer.fold_constants(exported.model)
    optimizer.remove_unused_nodes(exported.model)
    graph = exported.model_proto
    del graph.graph.value_info[:]  # it names the batch otherwise
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(graph, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: dict(zip(outputs, session.run(outputs, {key: given[key].numpy() for key in names})))


def _write_program(module: nn.Module, inputs: Mapping[str, Tensor], outputs: list[str], path: Path) -> Graph:
    torch.export.save(_program(module, inputs), path)
    again = torch.export.load(path).module()
    return lambda given: {key: value.numpy() for key, value in again(*given.values()).items()}


WRITERS = {"onnx": _write_onnx, "torch_export": _write_program}


def _shapes(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": ["N", *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in tensors.items()
    ]


@torch.no_grad()
def _about(model: LatentVariableModel, images: Tensor, format: Format, uint8: bool) -> dict[str, Any]:
    """Information for clients: the images, and size, kind, purpose and range of codes of each block."""
    parts = [model.codes(part.float() / 255) for part in images.split(CHECKED)]
    blocks = {}
    for name, block in model.blocks.items():
        low, high = torch.cat([part[name] for part in parts]).quantile(torch.tensor([0.01, 0.99]), dim=0).tolist()
        blocks[name] = {"size": block.size, "kind": block.kind, "holds": block.holds, "low": low, "high": high}
    bytes_ = "uint8 images 0..255; the graph divides them by 255"
    return {
        "model": type(model).__name__,
        "format": format,
        "steps": model.step,
        "preprocessing": bytes_ if uint8 else "float32 images in [0, 1]: divide bytes by 255",
        "image": {"shape": list(model.image_shape), "axes": "CHW", "decoded": "float32 mean image in [0, 1]"},
        "blocks": blocks,
        "low_high": f"quantiles 0.01 and 0.99 of the codes of {len(images)} test images, of each dimension",
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides messages of the exporters for their developers."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


def export_command(cfg: dict[str, Any]) -> None:
    """`python export.py run=<folder>`."""
    quiet()
    given = {key: cfg[key] for key in ("out", "uint8", "push", "data", "trust")}
    print(f"written to {export(cfg['run'], cfg['format'] or ('safetensors' if cfg['push'] else 'onnx'), **given)}")
