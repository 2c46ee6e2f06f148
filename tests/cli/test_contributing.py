"""The files that CONTRIBUTING.md shows, taken from it as they stand, do what it says."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.cli.calls import TINY, call
from tests.commands import REPOSITORY
from vae_zoo import UserError, load_model

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^python (train|evaluate)\.py (.*)$", TEXT, re.MULTILINE)
SMALL = "model/network=mlp model.network.hidden=[32] trainer=cpu callbacks=none"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("contributing") / "my_project"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def first(project) -> Path:
    """The run of the first command, made short and small."""
    (script, words), *_ = COMMANDS
    words = words.replace("trainer.max_steps=2000", "trainer.max_steps=20 data.num_images=500")
    answer = call(project, f"{script} {words} {SMALL}")
    assert answer.code == 0, answer.err
    return project / "first"


def test_it_shows_a_method_of_about_60_lines_a_data_set_of_about_30_and_a_suite_of_about_40():
    lengths = {name: text.count("\n") for name, text in FILES.items()}
    assert lengths["coarse_fine.py"] <= 65 and lengths["squares.py"] <= 35 and lengths["mirror.py"] <= 45, lengths
    assert [script for script, _ in COMMANDS] == ["train", "train", "evaluate", "evaluate"]


def test_figures_metrics_and_report_come_for_nothing(first):
    figures = {p.stem.rpartition("_")[0] for p in (first / "figures").iterdir()}
    blocks = {f"{figure}_{block}" for figure in ("swap", "traversals") for block in ("coarse", "fine")}
    assert {"reconstructions", "samples", "kl_per_dimension"} | blocks == figures
    metrics = json.loads((first / "metrics.json").read_text())
    names = {"elbo", "rec", "kl_coarse", "kl_fine", "active_units_coarse", "active_units_fine"}
    assert {f"test/{name}" for name in names} <= metrics.keys()
    header = (first / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/rec_coarse", "train/weighted/kl_fine", "val/loss"} <= set(header)
    report = (first / "report.html").read_text()
    assert "what is still seen when the image is blurred" in report and "coarse_fine.CoarseFine" in report


def test_resume_evaluate_and_load_model_need_trust(project, first, small_evaluation):
    _, (resume, resume_words), (evaluate, evaluate_words), _ = COMMANDS
    resume_words = resume_words.replace("trainer.max_steps=4000", "trainer.max_steps=30")
    for script, words in ((resume, resume_words), (evaluate, evaluate_words)):
        untrusted = call(project, f"{script} {re.sub('trust=.*', '', words)}")
        assert untrusted.code == 2 and "if you trust it, add trust=[coarse_fine]" in untrusted.err
        trusted = call(project, f"{script} {words}")
        assert trusted.code == 0, trusted.err
    assert torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 30
    assert "test/elbo" in json.loads((first / "evaluation" / "metrics.json").read_text())

    with pytest.raises(UserError, match="trust=\\[coarse_fine\\]"):
        load_model(first)


def test_its_method_is_exported_and_shared_with_trust(project, first):
    pytest.importorskip("huggingface_hub", reason="sharing needs huggingface_hub: pip install 'vae_zoo[export]'")
    untrusted = call(project, "export run=first format=torch_export")
    assert untrusted.code == 2 and "if you trust it, add trust=[coarse_fine]" in untrusted.err
    for words in ("format=torch_export", "format=safetensors"):
        answer = call(project, f"export run=first {words} 'trust=[coarse_fine,squares]'")
        assert answer.code == 0, answer.err
    outputs = json.loads((first / "export/model.json").read_text())["encoder"]["outputs"]
    assert [output["name"] for output in outputs] == ["coarse_mean", "coarse_logvar", "fine_mean", "fine_logvar"]
    assert "author of the run, who must state their terms of use" in (first / "hub/README.md").read_text()
    with pytest.raises(UserError, match="trust=\\[coarse_fine\\]"):
        load_model(first / "hub")


def test_its_suite_is_asked_by_both_commands(project, first, small_evaluation):
    name = "test/mirror/coarse"
    *_, (evaluate, words) = COMMANDS
    answer = call(project, f"{evaluate} {words} out=mirrored")
    assert answer.code == 0, answer.err
    assert 0 < json.loads((project / "mirrored" / "metrics.json").read_text())[name]
    assert list((project / "mirrored" / "figures").glob("mirror_*.png"))

    (train, words), *_ = COMMANDS
    words = words.replace("trainer.max_steps=2000 hydra.run.dir=first", "trainer.max_steps=5 data.num_images=500")
    while_training = "callbacks.metrics={_target_:vae_zoo.training.Metrics,every_n_steps:5}"
    own = f"evaluation=mirror evaluation.level=quick hydra.run.dir=asked {while_training}"
    answer = call(project, f"{train} {words} {SMALL} {own}")
    assert answer.code == 0, answer.err
    asked, numbers = project / "asked", json.loads((project / "asked" / "metrics.json").read_text())
    assert name in numbers and "val/mirror/coarse" in (asked / "metrics.csv").read_text().splitlines()[0]
    again = "evaluate run=asked trust=[coarse_fine,squares"
    assert call(project, f"{again}]").err.endswith("add trust=[mirror]\n")
    for words, there in (("", True), (" +evaluation.suites.mirror=null", False)):
        answer = call(project, f"{again},mirror]{words}")
        assert answer.code == 0, answer.err
        found = json.loads((asked / "evaluation" / "metrics.json").read_text())
        assert (name in found) == there and (not there or found[name] == numbers[name])


def test_a_suite_that_fails_ends_both_commands_with_1_after_all_numbers_are_written(project, small_evaluation):
    raising = FILES["mirror.py"].replace("model = context.model", "raise ArithmeticError('my bad')")
    (project / "broken.py").write_text(raising)
    suite = "+evaluation.suites.broken={_target_:broken.Mirror,count:5}"
    words = f"--config-dir conf model=coarse_fine data=squares data.num_images=500 {SMALL} trainer.max_steps=5"
    answer = call(project, f"train {words} hydra.run.dir=whole evaluation.level=quick")
    assert answer.code == 0, answer.err
    answer = call(project, f"train {words} hydra.run.dir=lacking evaluation.level=quick {suite}")
    whole, lacking = (json.loads((project / name / "metrics.json").read_text()) for name in ("whole", "lacking"))
    assert answer.code == 1 and whole.keys() == lacking.keys() and "test/elbo" in lacking
    assert all(lacking[name] == whole[name] for name in whole if name.startswith("test/"))
    assert "ArithmeticError: my bad" in (project / "lacking" / "error.txt").read_text()
    assert (project / "lacking" / "report.html").is_file()

    answer = call(project, f"evaluate run=whole trust=[coarse_fine,squares] {suite}")
    assert answer.code == 1 and "ArithmeticError: my bad" in answer.err
    found = json.loads((project / "whole" / "evaluation" / "metrics.json").read_text())
    assert {name: value for name, value in found.items() if name.startswith("test/")} == {
        name: value for name, value in whole.items() if name.startswith("test/")
    }
    own = ("squares.Squares", ",image_shape:[1,32,32],num_images:500", "is not a suite")
    for target, given, why in (("vae_zoo.distributions.Bernoulli", "", "is not allowed"), own):
        wrong = f"+evaluation.suites.wrong={{_target_:{target}{given}}}"
        for command in (f"train {words} hydra.run.dir=none", "evaluate run=whole trust=[coarse_fine,squares]"):
            answer = call(project, f"{command} {wrong}")
            assert answer.code == 2 and "evaluation.suites.wrong" in answer.err and why in answer.err


def test_the_notebook_lines_run(project, first, monkeypatch):
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "load_model" in block]
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    space: dict = {}
    exec(lines, space)  # noqa: S102
    assert space["images"].shape == (16, 1, 32, 32) and 0 <= space["images"].min() and space["images"].max() <= 1
    monkeypatch.delitem(__import__("sys").modules, "coarse_fine")


def test_its_network_can_be_chosen(project):
    words = "model=coarse_fine model/network=wide data=squares trainer.max_steps=-1"
    answer = call(project, f"train --config-dir conf {words}")
    assert answer.code == 2 and answer.err.startswith("error: trainer.max_steps=-1 is not allowed")  # and nothing else


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("model.pol=4", "model.pol is not a key of the config; did you mean model.pool?"),
        ("+model.pol=4", "model.pol is not an argument of coarse_fine.CoarseFine; did you mean model.pool?"),
        ("+data.num_image=4", "data.num_image is not an argument of squares.Squares; did you mean data.num_images?"),
        ("~model.beta", "model.beta is missing, but coarse_fine.CoarseFine needs it; add it to the YAML file"),
        ("data.group_by=gray", "data.group_by=gray is not a grouping of this data set; choose one of *"),
    ],
)
def test_mistakes_are_told_as_for_the_package_s_own(project, words, sentence):
    answer = call(project, f"train --config-dir conf model=coarse_fine data=squares {SMALL} {words}")
    assert answer.code == 2 and answer.err.startswith(f"error: {sentence.rstrip('*')}"), answer.err


OWN_PARTS = """
from torch import nn

from vae_zoo.distributions import Likelihood


class Linear:
    def __init__(self, bias):
        self.bias = bias

    def encoder(self, image_shape, num_outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, num_outputs, bias=self.bias))

    def decoder(self, num_inputs, image_shape):
        return nn.Sequential(nn.Linear(num_inputs, 32 * 32, bias=self.bias), nn.Unflatten(1, image_shape))


class Laplace(Likelihood):
    def log_prob(self, x, params):
        return -(x - params).abs().flatten(1).sum(1)

    def mean(self, params):
        return params.clamp(0, 1)
"""
LAPLACE = "_target_: own_parts.Laplace\n"


def test_a_network_and_a_likelihood_of_ones_own(tmp_path):
    (tmp_path / "own_parts.py").write_text(OWN_PARTS)
    for name, text in (("network/lin", "_target_: own_parts.Linear\nbias: true\n"), ("likelihood/lap", LAPLACE)):
        path = tmp_path / "conf" / "model" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    words = "model=vae model/network=lin model/likelihood=lap data=digits trainer=cpu trainer.max_steps=2 callbacks=none"
    answer = call(tmp_path, f"train --config-dir conf {words} hydra.run.dir=run")
    assert answer.code == 0, answer.err
    assert (tmp_path / "run" / "metrics.json").is_file()
    assert call(tmp_path, "evaluate run=run").err.endswith("add trust=[own_parts]\n")


MINIMAL = """
from vae_zoo.contract import Term
from vae_zoo.models.vae import VAE


class Minimal(VAE):
    log_weights = None

    def objective(self, batch):
        terms = super().objective(batch)
        return {"cost": Term(terms["rec"].value + terms["kl_z"].value, 1.0)}
"""


def test_what_a_method_does_not_give_is_left_out_and_said(tmp_path, caplog):
    (tmp_path / "minimal.py").write_text(MINIMAL)
    words = f"{TINY} model=vae model._target_=minimal.Minimal hydra.run.dir=run"
    answer = call(tmp_path, f"train {words}")
    assert answer.code == 0, answer.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"test/active_units_z", "train/seconds"} <= metrics.keys() and "test/elbo" not in metrics
    assert "no test/elbo: Minimal does not define log_weights" in caplog.text
