"""Trains a run in a folder with its config: `python -m vae_zoo.runs.train <run folder> --fresh|--resume`.

The folder is the only input, so ranks of ddp, which Lightning starts by repeating this command, read the same composed
config. The process that starts the job locks the folder, and the job inherits the lock.
"""

import argparse
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from vae_zoo.config import check
from vae_zoo.runs import folder as runs
from vae_zoo.utils import launch, threads
from vae_zoo.utils.console import quiet, tolerant_streams
from vae_zoo.utils.errors import Pruned, UserError
from vae_zoo.utils.files import no_space, write_atomic, write_json
from vae_zoo.utils.signals import Interrupted, Signals, exit_code, handled, stopping
from vae_zoo.utils.text import readable


def main(arguments: list[str] | None = None) -> int:
    """Trains, evaluates and writes the report; the outcome is in run.json and in the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fresh", dest="resume", action="store_false", help="start; the config is trusted")
    parser.add_argument("--resume", dest="resume", action="store_true", help="continue from last.ckpt")
    parser.add_argument("--command", default="", help="command line of the user, for the report")
    options = parser.parse_args(arguments)
    folder, is_writer, started, signals = options.folder, True, time.monotonic(), Signals()
    with handled(signals, *stopping()):
        about, before, text = runs.environment() | {"command": options.command}, runs.read_status(folder), ""
        try:
            tolerant_streams()
            quiet()
            cfg, step, last = runs.read_config(folder), 0, None
            is_writer = launch.rank(cfg["trainer"]) == 0
            if options.resume:
                last = folder / "checkpoints" / "last.ckpt"
                step = check_checkpoint(last, cfg)
            ready = prepare(folder, cfg)
            if is_writer:
                about["digests"] = runs.digests(cfg["data"])
                about["threads"] = _threads(before.get("threads") if options.resume else None, cfg["trainer"])
                runs.write_status(folder, state="running", error=None, limit=None, **about)
                (folder / "error.txt").unlink(missing_ok=True)
            state, code = train(folder, cfg, step, last, *ready, signals), 0
        except Pruned as error:
            state, code = {"state": "pruned"}, 0
            print(error)
        except UserError as error:
            state, code = {"state": "failed", "error": str(error)}, 2
            text = f"{error}\n"
            print(f"error: {error}", file=sys.stderr)
            if options.resume and is_writer:  # the run is unchanged
                write_json(folder / "run.json", before)
                return code
        except BaseException as error:
            signum = signals.received or (error.signum if isinstance(error, Interrupted) else None)
            if signum or isinstance(error, KeyboardInterrupt):
                state, code = {"state": "interrupted"}, exit_code(signum or signal.SIGINT)
            else:
                text, code = _failure(error, folder), 1
                state = {"state": "failed", "error": check.one_line(error)}
        if is_writer:
            try:
                _close(folder, about | state | {"seconds": time.monotonic() - started}, text)
            except OSError as error:
                text, code = _failure(error, folder) if code == 0 else text, code or 1
        if state["state"] == "interrupted" and is_writer:
            print(f"stopped; {runs.how_to_go_on(folder)}", file=sys.stderr)
    return code


def _failure(error: BaseException, folder: Path) -> str:
    """Prints the error that ended the run, as one sentence if the disk is full, and returns it."""
    if full := no_space(error):
        text = f"error: {full}; make space; {runs.how_to_go_on(folder)}"
    else:
        text = "".join(traceback.format_exception(error))
    print(text.rstrip("\n"), file=sys.stderr, flush=True)
    return text


def _close(folder: Path, status: dict[str, Any], text: str) -> None:
    """Writes the state and the report of a run that has ended. text: for error.txt if it failed."""
    from vae_zoo.reports.report import closing_lines, write_report

    (folder / "report.html").unlink(missing_ok=True)  # of an earlier state
    if status["state"] == "failed":
        write_atomic(folder / "error.txt", text)
    runs.write_status(folder, **status)
    write_report(folder)
    if runs.is_over(status["state"]) or status["state"] == "pruned":
        print(closing_lines(folder), flush=True)


def _threads(before: int | None, trainer: dict[str, Any]) -> int:
    """Sets and prints the number of threads; `before`: that of a run that is resumed. Lightning sets those of ranks."""
    import torch

    now, cores = torch.get_num_threads() if launch.has_ranks(trainer) else threads.set_threads(before), threads.num_cores()
    shared = "; other processes use them too" if before is None and now > cores else ""
    print(f"threads: {now} on {cores} cores{shared} ({threads.THREADS} sets their number)", flush=True)
    if before not in (None, now):  # another number of threads changes the rounding of sums
        print(
            f"the run had {before} threads and now has {now}: its weights will differ from an uninterrupted run's",
            flush=True,
        )
    return now


def train(folder: Path, cfg: dict[str, Any], step: int, last: Path | None, trainer, model, data, signals: Signals) -> dict:
    """Trains the model from `step` on, whose checkpoint is `last`, then evaluates the final weights.

    Returns the state of the run: finished, or stopped by one of the trainer's limits.
    """
    from vae_zoo.runs.evaluate import evaluate_trained
    from vae_zoo.training.loggers import WandB

    csv, *dashboards = trainer.loggers
    wandb_loggers = [logger for logger in dashboards if isinstance(logger, WandB)]
    try:
        if trainer.is_global_zero:
            csv.cut_back(step)
            blocks = [{"name": n, "size": b.size, "kind": b.kind, "holds": b.holds} for n, b in model.blocks.items()]
            runs.write_status(folder, blocks=blocks)
            for logger in dashboards:
                logger.log_hyperparams(readable(cfg))
                if hasattr(logger, "rewrite_history"):
                    logger.rewrite_history(folder / "metrics.csv", step)
            if last is not None and trainer.max_steps > step:
                runs.set_evaluation_aside(folder, step)  # its numbers are not those of the model that is now trained on
        trainer.checkpoint_callback.signals = signals
        with signals.saving():
            trainer.fit(model, datamodule=data, ckpt_path=last)
        state = {"state": "finished", "limit": None}
        if trainer.global_step < trainer.max_steps:
            limit = {"name": trainer.stopped_by(), "step": trainer.global_step}
            state = {"state": f"stopped: {limit['name']}", "limit": limit}
            if trainer.is_global_zero:
                print(runs.stop_sentence(folder, limit, cfg), flush=True)
        if trainer.is_global_zero:
            if trainer.global_step > step and (folder / "evaluation").is_dir():  # of a checkpoint of this session
                runs.set_evaluation_aside(folder, step)
            evaluation = evaluate_trained(trainer, model, data, folder)
            metrics = evaluation.numbers | evaluation.times
            for logger in dashboards:
                if hasattr(logger, "log_summary"):
                    logger.log_summary(metrics | {"best/val_loss": trainer.checkpoint_callback.best}, trainer.global_step)
            evaluation.raise_failures()
    finally:
        for logger in trainer.loggers:
            logger.save()
        if wandb_loggers and trainer.is_global_zero:
            import wandb

            wandb.finish(exit_code=0 if sys.exc_info()[0] is None else 1)
    return state


def prepare(folder: Path, cfg: dict[str, Any], data=None):
    """Builds the trainer with loggers and callbacks, the model with initial weights, and the data module unless given."""
    import torch
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from vae_zoo.data.datamodule import EvalBatches
    from vae_zoo.evaluation.suite import own_suites
    from vae_zoo.runs.load import build, check_device
    from vae_zoo.training.loggers import MetricsCSV

    rank_zero_only.rank = launch.rank(cfg["trainer"])  # Lightning takes it from the environment alone
    check_device(cfg["trainer"]["accelerator"], "trainer.accelerator")
    torch.manual_seed(cfg["seed"])
    model, data = build(cfg["model"]), data or build(cfg["data"])
    data.serve(model)
    given = {  # stored in the checkpoint as plain containers
        "figures": {"folder": folder / "figures"},
        "checkpoint": {"folder": folder / "checkpoints", "run_config": cfg, "_recursive_": False},
        "metrics": {"level": cfg["evaluation"]["level"], "suites": own_suites(cfg["evaluation"]["suites"])},
    }
    callbacks = {name: build(node, **given.get(name, {})) for name, node in cfg["callbacks"].items() if node is not None}
    loggers = [MetricsCSV(folder / "metrics.csv"), *(build(node, folder=folder) for node in cfg["logger"].values())]
    extra = {"logger": loggers, "callbacks": list(callbacks.values())}
    trainer = build(cfg["trainer"], **extra)
    model.check_trainer(trainer)
    placement = {"rank": 0, "world_size": trainer.world_size, "device": "cpu"}
    limit, batches = trainer.limit_val_batches, len(EvalBatches(data, "val", placement))
    if isinstance(limit, float) and 0 < limit * batches < 1:
        raise UserError(
            f"trainer.limit_val_batches={limit:g} of {batches} validation batches is less than one; give at least "
            f"{1 / batches:.2g}, or a whole number of batches"
        )
    return trainer, model, data


def check_checkpoint(path: Path, cfg: dict[str, Any]) -> int:
    """The step of a checkpoint. Raises UserError if it does not match the config."""
    from vae_zoo.runs.load import read_checkpoint

    checkpoint = read_checkpoint(path)
    theirs, ours = checkpoint["config"]["model"], cfg["model"]
    if theirs != ours:
        differs = next(k for k in [*theirs, *ours] if theirs.get(k) != ours.get(k))
        raise UserError(
            f"{path} is the checkpoint of another model: its model.{differs} is {check.shown(theirs.get(differs))}, but "
            f"config.yaml has {check.shown(ours.get(differs))}; restore the checkpoint of this run or train again"
        )
    step, steps = checkpoint["global_step"], cfg["trainer"]["max_steps"]
    if step > steps:
        raise UserError(
            f"trainer.max_steps must be at least {step}, the steps already trained, got {steps}; increase or remove it"
        )
    return step


if __name__ == "__main__":
    sys.exit(main())
