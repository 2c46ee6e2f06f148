"""Run folders of version 0.1, whose config names files that have moved, load, go on and are evaluated.

v0_1/ was written by commit 29a4fe5: `train.py model=vae data=digits model/network=mlp model.network.hidden=[8]
model.latent_dim=2 trainer=cpu trainer.max_steps=10 callbacks=none`; weights_at_20.pt is what the same commit had after
`train.py resume=<a copy> trainer.max_steps=20`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from tests.cli.calls import call
from vae_zoo import load_model
from vae_zoo.config.check import check_train, locate
from vae_zoo.config.renamed import as_today, with_present_names
from vae_zoo.models.vae import VAE
from vae_zoo.runs.folder import read_config, write_config
from vae_zoo.runs.load import read_checkpoint

FOLDER = Path(__file__).with_name("v0_1")


@pytest.fixture
def run(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "run"))


def test_the_folder_is_one_of_0_1():
    config = yaml.safe_load((FOLDER / "config.yaml").read_text())
    old = [config["model"], config["data"], config["trainer"], config["callbacks"]["checkpoint"]]
    assert all(with_present_names(node)["_target_"] != node["_target_"] for node in old)
    assert json.loads((FOLDER / "run.json").read_text())["versions"]["vae_zoo"] == "0.1.0"


def test_it_loads(run):
    model = load_model(run)
    assert type(model) is VAE and model.trained_steps == 10
    assert model.sample(2).shape == (2, 1, 32, 32)


def test_it_goes_on_to_the_weights_that_0_1_would_have_had(run):
    answer = call(run.parent, "train resume=run trainer.max_steps=20")
    assert answer.code == 0, answer.err
    got, wanted = (
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"],
        torch.load(run / "weights_at_20.pt", weights_only=True),
    )
    before = read_checkpoint(FOLDER / "checkpoints" / "last.ckpt")["state_dict"]
    assert got.keys() == wanted.keys()
    for name, weight in wanted.items():  # bit-equal where it was written; other processors round otherwise
        torch.testing.assert_close(got[name], weight, rtol=0, atol=1e-6)
    assert max((before[name] - weight).abs().max() for name, weight in wanted.items()) > 1e-3


def test_it_is_evaluated(run):
    answer = call(run.parent, "evaluate run=run")
    assert answer.code == 0, answer.err
    before, after = (json.loads((run / part).read_text()) for part in ("metrics.json", "evaluation/metrics.json"))
    shared = [name for name in before if name.startswith("test/")]
    assert shared and {name: after[name] for name in shared} == pytest.approx(
        {name: before[name] for name in shared}, rel=1e-5
    )


@pytest.mark.parametrize("metrics, level", [({"level": "full"}, "full"), ({}, "basic"), (None, "basic")])
def test_its_level_of_evaluation_is_kept(run, metrics, level):
    config = yaml.safe_load((run / "config.yaml").read_text())
    node = metrics if metrics is None else {"_target_": "vae_zoo.callbacks.Metrics", "every_n_steps": 0} | metrics
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"callbacks": config["callbacks"] | {"metrics": node}}))
    found = read_config(run)
    assert found["evaluation"] == {"level": level, "suites": {}}
    check_train(OmegaConf.create(found))
    write_config(run, found)
    assert read_config(run) == found


@pytest.mark.parametrize(
    "old",
    [
        *("models.beta_tc_vae.BetaTCVAE", "models.ss_vae.SSVAE", "data.mnist.FashionMNIST", "data.shapes3d.Shapes3D"),
        *(f"callbacks.{name}" for name in ("Checkpoint", "Figures", "Metrics", "Monitor", "Progress", "Pruning")),
        *("loggers.TensorBoard", "loggers.WandB", "trainer.Trainer"),
    ],
)
def test_every_name_of_0_1_is_now_one_of_a_class(old):
    (new,) = with_present_names({"_target_": f"vae_zoo.{old}"}).values()
    assert locate(new, "model").__name__ == old.rpartition(".")[2] and with_present_names({"_target_": new}) == {
        "_target_": new
    }


def test_arguments_that_were_renamed_are_read():
    old = {"model": {"_target_": "vae_zoo.models.spair.SPAIR", "wheels_steps": 3}, "evaluation": {}}
    assert as_today(old)["model"] == {"_target_": "vae_zoo.models.SPAIR", "presence_warmup_steps": 3}
