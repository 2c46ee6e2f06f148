"""Evaluates a trained model: the same numbers and figures for every method."""

import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.pictures import animations, spans_of, stills
from vae_zoo.evaluation.suite import own_suites
from vae_zoo.figures.charts import heat_map
from vae_zoo.figures.encode import to_webp
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.reports.report import write_report
from vae_zoo.runs import folder as runs
from vae_zoo.runs.load import build, load_run
from vae_zoo.training.attached import RunTrainer
from vae_zoo.training.callbacks.figures import log_image
from vae_zoo.training.callbacks.monitor import Monitor
from vae_zoo.utils.console import quiet
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import check_writable, write_atomic, write_json
from vae_zoo.utils.memory import keep_freed_memory
from vae_zoo.utils.threads import set_threads


def evaluate_trained(trainer: RunTrainer, model: LatentVariableModel, data, folder: Path) -> protocol.Evaluation:
    """Evaluates a model at the end of training: writes metrics.json, then the figures, also to the loggers."""
    model.to(trainer.strategy.root_device).eval()
    config = runs.read_config(folder)
    options = {"level": config["evaluation"]["level"], "suites": own_suites(config["evaluation"]["suites"])}
    untrained = first_weights(config, model.device)
    evaluation = protocol.evaluate(model, data, untrained=untrained, **options)
    monitor = next(c for c in trainer.callbacks if isinstance(c, Monitor))
    steps, images = trainer.global_step, len(data.train_indices(0))
    evaluation.numbers |= {"train/steps": float(steps), "train/seconds": monitor.seconds}
    if monitor.seconds:
        evaluation.numbers["train/images_per_second"] = steps * images / monitor.seconds
    write_json(folder / "metrics.json", evaluation.numbers | evaluation.times)
    draw(evaluation, model, data, folder / "figures", trainer.loggers)
    return evaluation


def evaluate_command(cfg: dict[str, Any]) -> None:
    """`python evaluate.py run=<folder>`: rewrites <run>/evaluation, or `out`."""
    quiet()
    keep_freed_memory()
    set_threads()
    run = Path(cfg["run"]).expanduser()
    out = Path(cfg["out"]).expanduser() if cfg["out"] else run / "evaluation"
    check_writable(out, "out=<another folder>")
    config, model, data = load_run(run, cfg)
    untrained = first_weights(config, model.device)
    suites = own_suites(config["evaluation"]["suites"] | cfg["evaluation"]["suites"])
    options = {"level": cfg["evaluation"]["level"], "untrained": untrained, "inception": inception(cfg)}
    evaluation = protocol.evaluate(model, data, suites=suites, **options)
    write_json(out / "metrics.json", evaluation.numbers | evaluation.times | {"train/steps": float(model.step)})
    if not cfg["out"]:  # a folder that the user names may have other pictures
        shutil.rmtree(out / "figures", ignore_errors=True)
    draw(evaluation, model, data, out / "figures")
    write_report(run, out=out / "report.html", metrics=out / "metrics.json", figures=out / "figures")
    for name, value in evaluation.numbers.items():
        print(f"{name:40s} {value:.4f}")
    print(f"written to {out}")
    evaluation.raise_failures()


def inception(cfg: dict[str, Any]) -> Path | None:
    """The file of Inception weights, checked before anything is computed."""
    if cfg["inception"] is None:
        return None
    path, level = Path(cfg["inception"]).expanduser(), cfg["evaluation"]["level"]
    if level != "full":
        raise UserError(f"inception= has no effect with evaluation.level={level}; give evaluation.level=full too")
    if not path.is_file():
        raise UserError(f"inception={cfg['inception']} is not a file; give the file of the Inception weights")
    if find_spec("torch_fidelity") is None:
        raise UserError("inception= needs torch-fidelity, which is not installed; run: pip install torch-fidelity")
    return path


def draw(evaluation: protocol.Evaluation, model: LatentVariableModel, data, figures: Path, loggers: Iterable = ()) -> None:
    """Writes the figures and tables of an evaluation to files and loggers."""
    step, codes = model.step, evaluation.context.gaussian_codes
    shown = data.single(evaluation.context.to_show(16), model.device)
    spans = codes and spans_of(codes)
    for name, image in stills(model, shown, spans):
        log_image(loggers, figures, name, image, step)
    for name, frames in animations(model, shown, spans):
        write_atomic(figures / f"{name}_{step}.webp", to_webp(frames))
    for name, image in evaluation.pictures.items():
        log_image(loggers, figures, name, image, step)
    for name, (title, values, row_names, column_names) in evaluation.tables.items():
        log_image(loggers, figures, name, heat_map(values, row_names, column_names, title=title), step)


def first_weights(config: dict[str, Any], device: torch.device) -> LatentVariableModel:
    """The untrained model of a run, with the same initial weights, as a baseline."""
    with torch.random.fork_rng():
        torch.manual_seed(config["seed"])
        return build(config["model"]).to(device).eval()
