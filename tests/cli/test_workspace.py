"""What W&B and TensorBoard are given, read back from their files: whole, also after a kill."""

import json
import signal
import time
from pathlib import Path

import pytest
import wandb
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from tests import wandb_files
from tests.cli.calls import TINY
from tests.commands import REPOSITORY, run, start
from vae_zoo.training.loggers import WandB

WORDS = "data=digits model=vae model/network=mlp model.network.hidden=[16] model.latent_dim=4 trainer=cpu seed=3".split()
WORDS += "trainer.max_steps=600 trainer.log_every_n_steps=20 trainer.val_check_interval=200 logger=many".split()
WORDS += "callbacks.checkpoint.every_n_steps=40 callbacks.figures.every_n_steps=200 evaluation.level=quick".split()


def table(live: Path, written: dict, name: str) -> dict:
    """{"columns": [], "data": []} of the last table of that name."""
    return json.loads((live / "files" / written["summary"][name]["path"]).read_text())


@pytest.mark.slow
def test_dashboards_are_whole_after_a_kill_and_a_resume(tmp_path):
    folder = tmp_path / "run"
    killed = start(tmp_path, "train", *WORDS, "hydra.run.dir=run")
    while not list((folder / "figures").glob("*_200.png")) if (folder / "figures").is_dir() else True:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    run(tmp_path, "train", "resume=run")

    [live] = (folder / "wandb").glob("offline-run-*")
    written, numbers = wandb_files.read(live), json.loads((folder / "metrics.json").read_text())
    assert written["run"].run_id == (folder / "wandb_id").read_text()
    assert written["config"]["model"]["latent_dim"] == 4 and written["config"]["seed"] == 3
    losses = [row["trainer/global_step"] for row in written["history"] if "train/loss" in row]
    assert losses == list(range(20, 601, 20)), "each row once, those from before the kill too"
    assert [row["trainer/global_step"] for row in written["history"] if "val/loss" in row] == [200, 400, 600]
    rows = [row for row in written["history"] if "train/loss" in row]
    assert all({"train/kl_z", "train/weighted/kl_z", "train/images_per_second"} <= row.keys() for row in rows)
    assert {name: written["summary"][name] for name in numbers} == numbers

    pictures = [row["figures/reconstructions"] for row in written["history"] if "figures/reconstructions" in row]
    assert [picture["caption"] for picture in pictures] == [
        f"images, each above its reconstruction, step {step}" for step in (200, 400, 600)
    ]
    for picture in pictures:
        assert Image.open(live / "files" / picture["path"]).size == (picture["width"], picture["height"])
    blocks = table(live, written, "tables/blocks")
    assert [row[:2] for row in blocks["data"] if row[0] == "z"] == [["z", numbers[f"test/block/z/{blocks['columns'][1]}"]]]
    assert written["summary"]["figures/blocks"]["caption"] == "score of a probe for each factor from each block, step 600"
    assert dict(table(live, written, "tables/test")["data"]) == {k: v for k, v in numbers.items() if k.startswith("test")}
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert {step.step for step in events.Scalars("train/loss")} == set(losses)
    assert events.Scalars("test/elbo")[-1].value == pytest.approx(numbers["test/elbo"])
    assert "figures/reconstructions" in events.Tags()["images"]
    hparams = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    session = plugin_data_pb2.HParamsPluginData.FromString(hparams.plugin_data.content).session_start_info
    assert session.hparams["model/latent_dim"].number_value == 4 and session.hparams["seed"].number_value == 3


def test_a_file_that_is_still_written_has_the_records_before_the_last(tmp_path):
    """The helper of these tests: it raised on half a record, when wandb's service was late."""
    WandB(tmp_path, offline=True).log_hyperparams({"seed": 0})
    wandb.finish()
    [live] = (tmp_path / "wandb").glob("offline-run-*")
    wandb_files.read(live)  # waits for the end
    content = next(live.glob("*.wandb")).read_bytes()
    records = list(wandb_files._records(content))
    for cut in range(1, 200):
        found = list(wandb_files._records(content[:-cut]))
        assert found == records[: len(found)] and len(found) < len(records)


def test_blocks_against_factors_are_a_table(tmp_path):
    board = WandB(tmp_path, offline=True)
    board.log_hyperparams({"seed": 0})
    scores = {"test/block/z/x": 0.5, "test/block/z/y": 0.25, "test/block/u/x": 0.0, "test/block/u/y": 1.0, "test/elbo": -3.0}
    board.log_summary(scores, 10)
    wandb.finish()
    [live] = (tmp_path / "wandb").glob("offline-run-*")
    found = table(live, wandb_files.read(live), "tables/blocks")
    assert found["columns"] == ["block", "x", "y"] and found["data"] == [["z", 0.5, 0.25], ["u", 0.0, 1.0]]


def agents_command() -> list[str]:
    """The words of the command in docs/how_to/wandb.md with the first value of each parameter, as `wandb agent` has them."""
    text = (REPOSITORY / "docs" / "how_to" / "wandb.md").read_text()
    sweep = yaml.safe_load(next(part for part in text.split("```") if part.startswith("yaml")).removeprefix("yaml"))
    chosen = [f"{name}={(p.get('values') or [p.get('value', p.get('min'))])[0]}" for name, p in sweep["parameters"].items()]
    words = []
    for word in sweep["command"]:
        words += chosen if word == "${args_no_hyphens}" else [word]
    assert words[:3] == ["${env}", "${interpreter}", "${program}"] and sweep["program"] == "train.py"
    return words[3:]


@pytest.mark.slow
def test_command_of_wandbs_agent_trains_under_the_agents_run(tmp_path):
    words = ["logger=wandb_offline" if word == "logger=wandb" else word for word in agents_command()]
    assert "logger=wandb_offline" in words
    agent = {"WANDB_SWEEP_ID": "sweep123", "WANDB_RUN_ID": "abcd1234"}
    run(tmp_path, "train", *words, *(w for w in TINY.split()), **agent)
    [folder] = (path.parent for path in Path(tmp_path).rglob("config.yaml") if "wandb" not in path.parts)
    [live] = (folder / "wandb").glob("offline-run-*")
    written = wandb_files.read(live)
    assert written["run"].run_id == "abcd1234" == (folder / "wandb_id").read_text()
    assert written["run"].sweep_id == "sweep123"
    assert {"test/elbo", "val/loss"} <= written["summary"].keys(), "what the sweep may search for"
    assert any(tag.startswith("model.beta=") for tag in written["run"].tags)


def test_workspace_has_a_section_for_everything_we_log():
    pytest.importorskip("wandb_workspaces")
    from vae_zoo.cli.workspace import workspace

    view = workspace("us", "vae_zoo")
    names = [section.name for section in view.sections]
    assert names == ["Objective", "Blocks", "Metrics", "Figures", "System and throughput"]
    assert all(section.panels for section in view.sections)
