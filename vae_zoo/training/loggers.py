"""Loggers: metrics.csv, TensorBoard and W&B."""

import csv
import io
import math
import os
import secrets
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from vae_zoo.metrics.catalogue import caption
from vae_zoo.runs.folder import block_scores, pictures, read_rows
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import write_atomic
from vae_zoo.utils.launch import is_offline


class MetricsCSV(Logger):
    """Writes `metrics.csv` in Lightning's format: a row per call, a column per name, blank if a row has no value.

    Rows are buffered until `save`; a new name rewrites the file with one more column.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = Path(path)
        self.columns: list[str] = ["epoch", "step"]
        self._waiting: list[dict[str, Any]] = []

    @property
    def name(self) -> None:
        """None: the file is directly in the run folder."""

    version = name

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing, since config.yaml has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._waiting.append({"epoch": 0, "step": step, **metrics})
        if len(self._waiting) >= 20:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        new = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in self.columns]
        if new or not self.path.is_file():
            rows, self.columns = self.rows() + rows, self.columns + sorted(new)
            write_atomic(self.path, _text(rows, self.columns, header=True))
            return
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", errors="surrogateescape") as file:
                file.write(_text(rows, self.columns, header=False))
        except OSError:  # a full disk may store only a part
            os.truncate(self.path, size)
            raise

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def rows(self) -> list[dict[str, str]]:
        """The rows on disk."""
        return read_rows(self.path)

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Removes the rows after this step, so that a resumed run does not write them twice."""
        rows = [row for row in self.rows() if row["step"] and row["step"].isdigit() and int(row["step"]) <= step]
        columns = rows[0] if rows else self.columns
        self.columns = [c for c in columns if c in ("epoch", "step") or any(row[c] for row in rows)]
        write_atomic(self.path, _text(rows, self.columns, header=True))


def _text(rows: list[dict[str, Any]], columns: list[str], header: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


class TensorBoard(TensorBoardLogger):
    """Writes event files to `tensorboard/`. A resumed run replaces them by one with the history of metrics.csv, since the
    rows after its checkpoint would be there twice."""

    def __init__(self, folder: Path):
        super().__init__(save_dir=folder, name="tensorboard", version="", default_hp_metric=False)
        self._earlier = list((Path(folder) / "tensorboard").glob("events.*"))

    @rank_zero_only
    def rewrite_history(self, metrics: Path, step: int) -> None:
        """Logs the rows of metrics.csv and the figures up to this step again, then removes the earlier files."""
        if self._earlier:
            _log_again(self, metrics, step)
            self.experiment.flush()
        for file in self._earlier:
            file.unlink(missing_ok=True)
        self._earlier = []

    @rank_zero_only
    def log_summary(self, values: dict[str, float], step: int) -> None:
        """Logs the final numbers as scalars and with the config in the HParams tab."""
        self.log_hyperparams(self.hparams, values, step)

    @rank_zero_only
    def log_figure(self, name: str, image: np.ndarray, step: int) -> None:
        self.experiment.add_image(f"figures/{name}", image, step, dataformats="HWC")


def _log_again(logger: "TensorBoard | WandB", metrics: Path, step: int) -> None:
    """Logs the rows of metrics.csv and the figures up to this step; the later ones will be logged again in training."""
    kinds = pictures(metrics.parent / "figures").items()
    drawn = ((at, name, path) for (name, suffix), steps in kinds if suffix == ".png" for at, path in steps.items())
    for at, name, path in sorted(drawn):
        if 0 <= at <= step:
            logger.log_figure(name, np.asarray(Image.open(path)), at)
    for row in read_rows(metrics):
        values = {name: float(value) for name, value in row.items() if value and name not in ("epoch", "step")}
        logger.log_metrics(values, step=int(row["step"]))


class WandB(WandbLogger):
    """Logs a run to W&B under one id, which is created at random and stored as `wandb_id` in the run folder.

    Online, a resumed run continues under its id. Offline, wandb cannot merge two folders with one id, so the earlier folder
    is moved to `wandb/replaced` and the history is written again from metrics.csv.
    """

    def __init__(
        self,
        folder: Path,
        project: str = "vae_zoo",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        job_type: str = "train",
        offline: bool = False,
    ):
        folder, offline = Path(folder), offline or is_offline()
        resumed = rank_zero_only.rank == 0 and (folder / "wandb_id").is_file()  # other ranks start after the file exists
        self._rewritten = offline and resumed
        if self._rewritten:
            replaced = folder / "wandb" / "replaced"
            replaced.mkdir(parents=True, exist_ok=True)
            for old in [p for p in (folder / "wandb").glob("offline-run-*") if p.is_dir()]:
                shutil.move(old, replaced / old.name)
        super().__init__(
            name=f"{folder.parent.name}/{folder.name}",
            save_dir=folder,
            id=self._run_id(folder),
            project=project,
            entity=entity,
            group=group or folder.parent.name,
            tags=tags,
            notes=notes,
            job_type=job_type,
            offline=offline,
            resume=None if offline else "allow",
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes an argument that wandb warns about
        self._wandb_init.setdefault("settings", {"silent": offline})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Logs the config, as plain containers, and starts the W&B run. Raises UserError if it cannot start."""
        from wandb.errors import CommError, UsageError

        try:
            super().log_hyperparams(params)
        except (UsageError, CommError) as error:
            message = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"wandb cannot start ({message}); run `wandb login`, or use logger=wandb_offline") from error

    @staticmethod
    def _run_id(folder: Path) -> str | None:
        """The id of the run; under `wandb agent` that of the agent, which wandb uses in any case."""
        file, agents = folder / "wandb_id", os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
        if rank_zero_only.rank == 0 and (agents or not file.is_file()):
            write_atomic(file, agents or secrets.token_hex(6))
        return file.read_text().strip() if file.is_file() else None

    @rank_zero_only
    def rewrite_history(self, metrics: Path, step: int) -> None:
        """Logs the rows of metrics.csv and the figures up to this step again, to the new offline folder."""
        if self._rewritten:
            _log_again(self, metrics, step)
        self._rewritten = False

    @rank_zero_only
    def log_figure(self, name: str, image: np.ndarray, step: int) -> None:
        import wandb

        picture = wandb.Image(image, caption=f"{caption(name)}, step {step}")
        self.experiment.log({f"figures/{name}": picture, "trainer/global_step": step})

    @rank_zero_only
    def log_summary(self, values: dict[str, float], step: int) -> None:
        """Logs the final numbers in the summary and as tables `tables/test` and `tables/blocks`."""
        import wandb

        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self.experiment.summary.update(values)
        tables = {
            "tables/test": wandb.Table(["metric", "value"], [[k, v] for k, v in values.items() if k.startswith("test")])
        }
        if rows := block_scores(values):
            factors = list(next(iter(rows.values())))
            tables["tables/blocks"] = wandb.Table(["block", *factors], [[name, *row.values()] for name, row in rows.items()])
        self.experiment.log(tables | {"trainer/global_step": step})
