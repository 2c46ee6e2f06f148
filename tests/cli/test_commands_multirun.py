"""Sweeps: what fails is told and does not stop the rest; what is done is not done again."""

import re

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from tests.cli.calls import TINY, call, contents
from vae_zoo.cli import compose
from vae_zoo.config import config_dir

SWEEPS = config_dir() / "sweep"

MODEL = """
from vae_zoo.models.vae import VAE


class Moody(VAE):
    def __init__(self, *args, fail=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.fail = fail

    def objective(self, batch):
        if self.fail and self.step == 2:
            raise RuntimeError("the third step is too much")
        return super().objective(batch)
"""


@pytest.fixture
def moody(tmp_path):
    """A folder with a model of one's own that fails on demand."""
    (tmp_path / "moody.py").write_text(MODEL)
    conf = tmp_path / "conf" / "model"
    conf.mkdir(parents=True)
    (conf / "moody.yaml").write_text("defaults: [_vae]\n_target_: moody.Moody\nfail: false\n")
    return tmp_path


def test_failures_are_told_and_the_rest_goes_on_and_is_not_repeated(moody, jobs_in_this_process):
    words = f"train --config-dir conf -m {TINY} model=moody"
    answer = call(moody, f"{words} model.fail=true,false trainer.max_steps=5,-1")
    assert answer.code == 1
    jobs = {}
    for folder in (moody / "outputs" / "moody-digits").iterdir():
        assert re.fullmatch(r"seed0_[0-9a-f]{8}", folder.name)
        config = folder / "config.yaml"
        jobs[yaml.safe_load(config.read_text())["model"]["fail"] if config.is_file() else folder.name] = folder
    done, failed = jobs.pop(False), jobs.pop(True)
    assert (done / "metrics.json").is_file() and not (done / "error.txt").exists()
    text = (failed / "error.txt").read_text()
    assert text.startswith("Traceback") and text.endswith("RuntimeError: the third step is too much\n")
    assert not (failed / "metrics.json").exists() and (failed / "checkpoints" / "last.ckpt").is_file()
    assert len(jobs) == 2
    for refused in jobs.values():
        sentence = "trainer.max_steps=-1 is not allowed; give a whole number >= 1\n"
        assert contents(refused).keys() == {"error.txt"} and (refused / "error.txt").read_text() == sentence
        assert f"error: {sentence}" in answer.err

    before = contents(done)
    checkpoint = done / "checkpoints" / "last.ckpt"
    written = checkpoint.stat().st_mtime_ns
    again = call(moody, f"{words} model.fail=false trainer.max_steps=5,-1")
    assert again.code == 1 and again.out.startswith(f"done before: {done}\n")
    assert contents(done) == before and checkpoint.stat().st_mtime_ns == written

    repeated = call(moody, f"{words} model.fail=false sweep.rerun=true")
    assert repeated.code == 0
    assert repeated.out.startswith(f"an earlier run with this config is now in {done / 'previous'}\n")
    assert checkpoint.stat().st_mtime_ns > written and (done / "previous" / "metrics.json").is_file()
    assert len(list((moody / "outputs" / "moody-digits").iterdir())) == 4


def test_outputs_in_the_home_folder_are_there_in_a_sweep_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    answer = call(tmp_path, f"train -m {TINY} model=vae trainer.max_steps=-1 paths.outputs=\"'~/runs'\" sweep.name=mine")
    assert answer.code == 1 and not (tmp_path / "~").exists()
    found = sorted(path.name for path in (tmp_path / "home" / "runs").iterdir())
    assert found == ["sweeps", "vae-digits"], answer.err


def test_a_sweep_from_the_config_needs_no_flag_and_experiments_name_its_folders(tmp_path):
    experiment = tmp_path / "conf" / "experiment" / "mine" / "first_try.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\ntrainer:\n  max_steps: -1\n")
    words = "experiment=mine/first_try data=digits sweep=seeds5"
    assert call(tmp_path, f"train --config-dir conf {words}").code == 1
    names = sorted(p.name for p in (tmp_path / "outputs" / "mine-first_try").iterdir())
    assert [name[:5] for name in names] == [f"seed{k}" for k in range(5)]


@pytest.mark.parametrize("words", ["sweep=mine", "-m +hydra.sweeper.params.model=vae +hydra.sweeper.params.data=digits"])
def test_a_sweep_that_chooses_the_model_does_not_train_the_default_experiment(tmp_path, words):
    preset = tmp_path / "conf" / "sweep" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    params = {"model": "vae,beta_vae", "data": "digits"}
    sweep = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}}}
    preset.write_text("# @package _global_\n" + yaml.safe_dump(sweep))
    answer = call(tmp_path, f"train --config-dir conf trainer=cpu trainer.max_steps=-1 {words}")
    assert "none of model=" not in answer.out and not list(tmp_path.glob("outputs/split_vae*"))
    assert (tmp_path / "outputs" / "vae-digits").is_dir(), answer.err


@pytest.mark.parametrize(
    "words",
    [
        "-m model=vae,beta_vae data=mnist,svhn data.root=files",
        "-m data=mnist,svhn data.root=files",
        "sweep=paper/ml_vae data.root=files",
        "sweep=paper/split_table1 data.root=files",
        "-m experiment=ml_vae/mnist,mfcvae/mnist data.root=files model.optimizer.lr=1e-3,2e-3",
        "-m model=vae data=glob(mni*) data.root=files",
    ],
)
def test_settings_that_only_the_swept_choices_have_can_be_given(words):
    try:
        cfg = compose.compose("train", words.split())
    finally:
        GlobalHydra.instance().clear()
    assert cfg.data.root == "files"
    given = [word for word in words.split() if word != "-m" and not word.lstrip("+").startswith("hydra.")]
    assert [*cfg.hydra.overrides.task] == given, "the sweeper gets the words as they were, and no other"


def test_the_jobs_of_such_a_sweep_get_the_setting_and_a_typo_is_refused(tmp_path, jobs_in_this_process):
    answer = call(tmp_path, f"train -m {TINY} data=mnist,svhn data.root={tmp_path}/none data.download=false")
    assert answer.code == 1
    reasons = [path.read_text() for path in tmp_path.glob("outputs/*/*/error.txt")]
    assert len(reasons) == 2 and all(f"{tmp_path}/none" in reason for reason in reasons), answer.err
    answer = call(tmp_path, "train -m data=mnist,svhn data.rot=files")
    assert answer.code == 2 and "data.rot is not a key of the config; did you mean data.root?" in answer.err


def test_interpolations_are_resolved_by_each_job(tmp_path, jobs_in_this_process):
    words = "data.batch_size=-1,-2 'trainer.max_steps=${data.batch_size}' 'hydra.sweep.subdir=s${hydra.job.num}'"
    assert call(tmp_path, f"train -m model=vae data=digits {words}").code == 1  # each is refused
    reasons = {path.parent.name: path.read_text().split(" is")[0] for path in tmp_path.glob("outputs/*/error.txt")}
    assert reasons == {"s0": "trainer.max_steps=-1", "s1": "trainer.max_steps=-2"}


def test_a_preset_does_not_replace_what_is_given_and_a_package_is_part_of_the_key(tmp_path):
    preset = tmp_path / "conf" / "sweep" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    params = {"model": "spair,split_spair", "model/network@model.object_network": "mlp,conv", "data": "scenes"}
    sweep = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}}}
    preset.write_text("# @package _global_\n" + yaml.safe_dump(sweep))
    words = [
        "sweep=mine",
        "model/network@model.object_network=conv",
        "model.object_network.channels=[8]",
        "model.what_dim=8",
    ]
    try:
        cfg = compose.compose("train", ["--config-dir", str(tmp_path / "conf"), *words])
    finally:
        GlobalHydra.instance().clear()
    assert [*cfg.hydra.overrides.task] == words and cfg.model.object_network.channels == [8]


def test_several_presets_at_once_are_refused_without_m(tmp_path):
    answer = call(tmp_path, "train sweep=seeds5,seeds10 model=vae data=digits")
    assert answer.code == 2 and "-m" in answer.err and not (tmp_path / "outputs").exists()


def test_settings_of_a_sweeper_that_ones_own_experiment_chooses_can_be_given(tmp_path):
    experiment = tmp_path / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nhydra:\n  sweeper:\n    trials: 3\n")
    try:
        cfg = compose.compose(
            "train", ["--config-dir", str(tmp_path / "conf"), "experiment=mine", "hydra.sweeper.trials=40"]
        )
    finally:
        GlobalHydra.instance().clear()
    assert cfg.hydra.sweeper.trials == 40


@pytest.mark.parametrize("preset", sorted(str(p.relative_to(SWEEPS).with_suffix("")) for p in SWEEPS.rglob("*.yaml")))
def test_presets_of_sweeps_use_the_default_experiment_only_if_they_choose_none(tmp_path, preset):
    answer = call(tmp_path, f"train sweep={preset} --cfg hydra")
    chooses = any(f"      {key}: " in (SWEEPS / f"{preset}.yaml").read_text() for key in ("experiment", "model", "data"))
    assert answer.code == 0 and ("- experiment=split_vae/first_run" in answer.out) is not chooses, answer.err
