"""A run as a folder of the Hugging Face hub: config.json, model.safetensors, and README.md, which is the model card.

`load_model` reads the folder, or the repository it was uploaded to; nothing in it is a pickle.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vae_zoo.config.check import locate, one_line, shown
from vae_zoo.metrics import catalogue
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.runs import folder as runs
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import read_dict, write_atomic, write_json
from vae_zoo.utils.lazy import need
from vae_zoo.utils.text import without_paths

CONTROLS = "chance constant shuffled components floor ceiling baseline pixels".split()  # <metric>_<control>
FIRST = ("swap_", "reconstructions", "blocks", "traversals_", "samples")  # figures of the card, by the beginning of the name
NUM_FIGURES = 4


def write_folder(run: Path, config: dict[str, Any], model: LatentVariableModel, folder: Path, name: str | None) -> None:
    """Writes config.json, model.safetensors, README.md and figures. name: on the hub; None: the folder is not uploaded."""
    need("export", "safetensors", "huggingface_hub")
    from huggingface_hub import ModelCard
    from safetensors.torch import save

    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    write_atomic(folder / "model.safetensors", save(weights))
    about = {"library_name": "vae_zoo", "model_type": type(model).__name__, "global_step": model.step}
    write_json(folder / "config.json", about | {"model": config["model"]})
    figures = _figures(run)
    (folder / "figures").mkdir()
    for figure, path in figures.items():
        shutil.copyfile(path, folder / "figures" / f"{figure}.png")
    text = _card(run, config, model, list(figures), name or "<this folder>")
    ModelCard(text, ignore_metadata_errors=False)  # raises ValueError for metadata that the hub cannot read
    write_atomic(folder / "README.md", text)


def push(folder: Path, name: str) -> str:
    """Uploads a folder to <user>/<name> of the hub and returns its address. Raises UserError if the hub refuses it."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model of vae_zoo")
    except Exception as error:  # of the library that sends, of the network, of the hub
        raise UserError(
            f"push={name} failed ({one_line(error)}); check the name and the network, and log in with `hf auth login`"
        ) from error
    return str(address)


def _figures(run: Path) -> dict[str, Path]:
    """{name: newest file} of a few figures of the run."""
    pictures = runs.pictures(run / "figures").items()
    found = {name: by_step[max(by_step)] for (name, suffix), by_step in pictures if suffix == ".png"}
    place = {name: next((i for i, start in enumerate(FIRST) if name.startswith(start)), len(FIRST)) for name in found}
    return {name: found[name] for name in sorted(found, key=lambda name: (place[name], name))[:NUM_FIGURES]}


def _card(run: Path, config: dict[str, Any], model: LatentVariableModel, figures: Sequence[str], name: str) -> str:
    """The text of the model card."""
    numbers, status = read_dict(run / "metrics.json")[0], runs.read_status(run)
    data = config["data"]["_target_"].rpartition(".")[2]
    licence, terms = locate(config["data"]["_target_"], "data").licence
    title = f"{type(model).__name__} on {data}"
    keys = [key for key in sorted(numbers, key=catalogue.metric_order) if _is_shown(key, numbers)]
    settings = runs.placeless(config["data"]).items()
    about = " ".join(f"{key}={shown(value)}" for key, value in settings if value is not None and key != "_target_")
    command = without_paths(str(status.get("command", "")))
    parts = [
        f"---\n{yaml.safe_dump(_metadata(title, data, licence, {k: numbers[k] for k in keys}), sort_keys=False)}---",
        f"# {title}",
        f"A variational autoencoder with named latent blocks, trained with `vae_zoo` on images of {list(model.image_shape)} "
        f"(channels, height, width).",
        _table(["block", "size", "kind", "meant to hold"], [[n, b.size, b.kind, b.holds] for n, b in model.blocks.items()]),
        f'```python\nfrom vae_zoo import load_model\n\nmodel = load_model("{name}")  # in eval mode\n'
        f"codes = model.codes(images)  # images: float32 [N, C, H, W] in [0, 1]\nimages = model.decode(codes)\n```",
        "## Training",
        f"```\n{command or 'unknown'}\n```",
        _table(
            ["steps", "seed", "commit", "hardware", "versions"],
            [
                [
                    model.step,
                    config.get("seed", ""),
                    status.get("commit", ""),
                    status.get("hardware", ""),
                    ", ".join(f"{package} {version}" for package, version in status.get("versions", {}).items()),
                ]
            ],
        ),
        "## Numbers",
        "On test images. Controls need no trained model: chance, pixels, an untrained encoder, or a constant.",
        _table(
            ["metric", "value", "control", "meaning"],
            [[f"`{k}`", _digits(numbers[k]), _controls(k, numbers) or "none", catalogue.entry(k).meaning] for k in keys],
        ),
        *_probes(numbers),
        "## Figures",
        *(f"![{catalogue.caption(figure)}](figures/{figure}.png)\n\n{catalogue.caption(figure)}" for figure in figures),
        "## Data and licence",
        f"{data}: {terms}. Settings of the data: `{about}`.",
        "The code of the model has the MIT licence; these weights have the licence of the data, stated in the metadata.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(title: str, data: str, licence: str, numbers: dict[str, float]) -> dict[str, Any]:
    """The metadata of the card, as the hub reads them."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-feature-extraction",
            dataset_type=data.lower(),
            dataset_name=data,
            dataset_split="test",
            metric_type=key,
            metric_value=value,
        )
        for key, value in numbers.items()
    ]
    return ModelCardData(
        library_name="vae_zoo",
        license=licence,
        license_name="terms-of-the-data" if licence == "other" else None,
        pipeline_tag="image-feature-extraction",
        tags=["vae", "representation-learning", "disentanglement"],
        model_name=title,
        eval_results=results or None,
    ).to_dict()


def _is_shown(key: str, numbers: dict[str, float]) -> bool:
    """Whether a number is a headline of the whole model, or has a control beside it, and is no control itself."""
    known, is_control = catalogue.entry(key), key.endswith(tuple(f"_{word}" for word in CONTROLS))
    if not key.startswith("test/") or key.count("/") > 1 or is_control:
        return False
    return bool(known.compared or known.card or _controls(key, numbers))


def _controls(key: str, numbers: dict[str, float]) -> str:
    found = {word: numbers[f"{key}_{word}"] for word in CONTROLS if f"{key}_{word}" in numbers}
    return ", ".join(f"{word} {_digits(value)}" for word, value in found.items())


def _probes(numbers: dict[str, float]) -> list[str]:
    """The block-factor matrix, with the rows of pixels and of the untrained encoder."""
    scores = runs.block_scores(numbers)
    if not scores:
        return []
    factors = list(next(iter(scores.values())))
    rows = [[block, *(_digits(row[f]) for f in factors)] for block, row in scores.items()]
    head = "Score of a probe for each factor from each block, 0 to 1; the last rows are controls:"
    return [head, _table(["block", *factors], rows)]


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
