"""The numbers and pictures of a trained model: the same for every method, from the contract alone."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import track

from vae_zoo import noise, runs
from vae_zoo.callbacks.figures import log_image
from vae_zoo.callbacks.monitor import Monitor
from vae_zoo.config.check import check_trust
from vae_zoo.data.datamodule import DataModule, EvalBatches
from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.pictures import animations, kl_chart, stills
from vae_zoo.evaluation.report import write_report
from vae_zoo.figures.charts import heat_map
from vae_zoo.figures.encode import to_webp
from vae_zoo.files import write_atomic, write_json
from vae_zoo.loading import build, load_model
from vae_zoo.models.base import LatentVariableModel

log = logging.getLogger(__name__)


def evaluate_trained(trainer: L.Trainer, model: LatentVariableModel, data: DataModule, folder: Path) -> dict[str, float]:
    """Final numbers of a run that has just been trained; its figures go to the run folder and to the loggers."""
    model.to(trainer.strategy.root_device)
    results = evaluate_model(model, data, folder / "figures", trainer.loggers)
    results |= protocol.evaluate(model.eval(), data, "basic").numbers
    monitor = next(c for c in trainer.callbacks if isinstance(c, Monitor))
    steps, images = trainer.global_step, len(data.train_indices(0))
    results["train/steps"] = steps
    results["train/seconds"] = monitor.seconds
    results["train/images_per_second"] = steps * images / monitor.seconds if monitor.seconds else math.nan
    return finite(results)


def evaluate_command(cfg: dict[str, Any]) -> None:
    """`python evaluate.py run=<folder>`: rewrites <run>/evaluation, or `out`."""
    run = Path(cfg["run"]).expanduser()
    config = runs.read_config(run)
    check_trust(config, cfg["trust"])
    model = load_model(run, cfg["device"], trust=cfg["trust"])
    if cfg["data"]["root"] is not None:
        runs.change(config, "data", "root", cfg["data"]["root"])
    data = build(config["data"])
    data.needs = model.needs
    data.setup()
    out = Path(cfg["out"]).expanduser() if cfg["out"] else run / "evaluation"
    metrics = evaluate_model(model, data, out / "figures")
    torch.manual_seed(config["seed"])
    untrained = build(config["model"]).to(model.device).eval()
    results = protocol.evaluate(model, data, cfg["metrics"], untrained)
    for name, (values, rows, columns) in results.tables.items():
        table = heat_map(values, rows, columns, title="what a probe reads of each factor from each block")
        log_image([], out / "figures", name, table, model.step)
    metrics = finite(metrics | results.numbers)
    write_json(out / "metrics.json", metrics)
    write_report(run, out=out / "report.html", metrics=out / "metrics.json", figures=out / "figures")
    for name, value in metrics.items():
        print(f"{name:32s} {value:.4f}")
    print(f"written to {out}")


@torch.no_grad()
def evaluate_model(model: LatentVariableModel, data: DataModule, figures: Path, loggers: Iterable = ()) -> dict[str, float]:
    """Bounds on the test images, and all figures of the contract. test/rec and test/kl_<block>: cost, nats per image.

    test/elbo: one draw of z an image, weights 1 whatever the training loss was. Noise belongs to the image.
    """
    training, step = model.training, model.step
    model.eval()
    sums: dict[str, float] = {}
    kl: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    bounded = type(model).log_weights is not LatentVariableModel.log_weights
    if not bounded:
        log.warning("no test/elbo: %s does not write log_weights", type(model).__name__)
    batches = EvalBatches(data, "test", {"device": model.device})
    count = sum(len(index) for index in batches.batches)
    for batch in track(batches, "test", console=Console(stderr=True), transient=True, disable=not Console().is_terminal):
        with noise.per_image(batch["index"]):
            terms = model.objective(batch)
        names = [name for name in ("rec", *(f"kl_{block}" for block in model.blocks)) if name in terms]
        per_batch = {name: terms[name].cpu().double().mean() * len(batch["image"]) for name in names}
        if bounded:
            with noise.per_image(batch["index"]):
                per_batch["elbo"] = model.log_weights(batch, 1)[0].cpu().double().sum()
        posterior = model.encode(batch)
        for name, value in per_batch.items():
            sums[f"test/{name}"] = sums.get(f"test/{name}", 0.0) + float(value)
        for name, value in model.kl_per_dim(posterior).items():
            kl[name] = kl.get(name, 0) + value.cpu().double().sum(0)
            mean = posterior[name].mean.cpu().double()
            moments[name] = moments.get(name, 0) + torch.stack([mean.sum(0), mean.square().sum(0)])
    results = {name: total / count for name, total in sums.items()}
    for name, (first, second) in moments.items():
        results[f"test/active_units_{name}"] = float((second / count - (first / count).square() > 0.01).sum())

    index = data.indices["test"]
    shown = data.batch(index[torch.linspace(0, len(index) - 1, min(16, len(index))).long()], model.device)
    for name, image in stills(model, shown):
        log_image(loggers, figures, name, image, step)
    if kl:
        chart = kl_chart(model, {name: (value / count).cpu().numpy() for name, value in kl.items()})
        log_image(loggers, figures, "kl_per_dimension", chart, step)
    for name, frames in animations(model, shown):
        write_atomic(figures / f"{name}_{step}.webp", to_webp(frames))
    model.train(training)
    return results


def finite(values: dict[str, float]) -> dict[str, float]:
    """What may stand in metrics.json; the log says what is left out."""
    for name, value in values.items():
        if not math.isfinite(value):
            log.warning("%s is %s and left out of metrics.json", name, value)
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
