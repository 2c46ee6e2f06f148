"""A search is a study in a file: what Hydra's words mean to it, who runs which trial, and that a kill loses nothing."""

import math
import signal
import time
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hydra_plugins.vae_zoo.search import Search
from tests.cli.calls import TINY, call
from tests.commands import run, start
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.utils.errors import UserError

pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from vae_zoo.sweeps import search

MODEL = """
import math
import torch
from vae_zoo.contract import Term
from vae_zoo.models.beta_vae import BetaVAE


class Toy(BetaVAE):
    def objective(self, batch):
        terms = super().objective(batch)
        return terms | {"gap": Term(torch.tensor(math.log(self.beta(self.step) / 4) ** 2))}
"""
SPACE = "model.beta=tag(log,interval(0.25,64))"
SEARCH = ["--config-dir", "conf", *TINY.split(), "model=toy", "trainer.max_steps=4", "trainer.val_check_interval=2"]
SEARCH += ["sweep=random", "hydra.sweeper.sampler=tpe", "hydra.sweeper.pruner=median", "sweep.metric=val/gap"]
SEARCH += ["hydra.sweeper.direction=minimize", "~hydra.sweeper.params", SPACE]


@pytest.fixture
def toy(tmp_path):
    """A folder with a model whose val/gap is 0 at beta 4, whatever it learns."""
    (tmp_path / "toy.py").write_text(MODEL)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "toy.yaml").write_text("defaults: [beta_vae]\n_target_: toy.Toy\n")
    return tmp_path


def open_study(record, sampler="random", pruner=None, metric="val/loss", direction="minimize"):
    return search.open_study(record, sampler, pruner, metric, direction, seed=0)


def tell(study, record, trial, state, value=None):
    """Of a run in <record>/../runs/<number>, beside it as in outputs."""
    search.tell(study, record, trial, folder_of(record, trial), state, value)


def folder_of(record, trial):
    return record.parent / "runs" / str(trial.number)


def test_words_of_hydra_become_distributions():
    said = {
        "interval(1,16)": FloatDistribution(1.0, 16.0),
        "tag(log,interval(0.1,10))": FloatDistribution(0.1, 10.0, log=True),
        "int(interval(1,16))": IntDistribution(1, 16),
        "range(4,33,4)": IntDistribution(4, 32, step=4),
        "range(0.0,1.0,0.25)": FloatDistribution(0.0, 0.75, step=0.25),
        "choice(32,64)": CategoricalDistribution(["32", "64"]),
        "conv,mlp": CategoricalDistribution(["conv", "mlp"]),
    }
    parsed = OverridesParser.create().parse_overrides([f"x={words}" for words in said])
    assert [search.distribution(override) for override in parsed] == list(said.values())


def test_a_trial_of_a_dead_command_is_given_out_again_and_no_other(tmp_path):
    study, space = open_study(tmp_path), {"x": FloatDistribution(0, 1)}
    with runs.locked(sweeps.worker(tmp_path)):
        first = search.ask(study, tmp_path, space, most=2, trials=3)
        assert [t.number for t in first] == [0, 1]
        assert [t.number for t in search.ask(study, tmp_path, space, most=2, trials=3)] == [2], "the others are being run"
        tell(study, tmp_path, first[0], "finished", 0.5)
    again = search.ask(study, tmp_path, space, most=5, trials=3)
    assert [t.number for t in again] == [1, 2] and again[0].params == first[1].params


def test_a_trial_whose_run_outlives_its_command_is_given_out_again_once_that_is_over(tmp_path):
    record, space = tmp_path / "study", {"x": FloatDistribution(0, 1)}
    study = open_study(record)
    with runs.locked(sweeps.worker(record)):
        (trial,) = search.ask(study, record, space, most=1, trials=1)
        with runs.locked(folder_of(record, trial)):
            tell(study, record, trial, "running")
            assert search.ask(study, record, space, most=1, trials=1) == [] and search.waits_for_runs(study, record)
        assert not search.waits_for_runs(study, record)
        (again,) = search.ask(study, record, space, most=1, trials=1)
        assert again.number == trial.number
        assert not search.waits_for_runs(study, record), "this command has it"


@pytest.mark.parametrize(
    "space, sentence",
    [
        (
            {"x": CategoricalDistribution(["1", "2", "3"])},
            r"x is choice\(1,2\) in the study in .*, but choice\(1,2,3\) in this command",
        ),
        ({"x": FloatDistribution(0.0, 1.0)}, r"x is choice\(1,2\) in .*, but numbers from 0.0 to 1.0 in"),
        (
            {"x": CategoricalDistribution(["1", "2"]), "y": IntDistribution(1, 3)},
            "y is not searched in .*, but whole",
        ),
        ({"y": IntDistribution(1, 3)}, "but not searched in this command"),
    ],
)
def test_a_study_is_not_continued_in_another_space_and_stays_as_it_is(tmp_path, space, sentence):
    study = open_study(tmp_path)
    (trial,) = search.ask(study, tmp_path, {"x": CategoricalDistribution(["1", "2"])}, most=1, trials=9)
    before = (tmp_path / search.STUDY).read_bytes()
    with pytest.raises(UserError, match=f"{sentence}.*choose another sweep.name"):
        search.ask(study, tmp_path, space, most=1, trials=9)
    assert (tmp_path / search.STUDY).read_bytes() == before and len(study.get_trials()) == 1


def test_bounds_of_a_study_may_widen(tmp_path):
    study = open_study(tmp_path)
    for high in (1.0, 2.0):
        (trial,) = search.ask(study, tmp_path, {"x": FloatDistribution(0.0, high)}, most=1, trials=9)
        tell(study, tmp_path, trial, "finished", 1.0)
    assert len(study.get_trials()) == 2


def test_a_trial_without_its_settings_is_never_run(tmp_path):
    """Its command was killed between the trial and its settings, or the space was refused by Optuna alone."""
    study = open_study(tmp_path)
    study.ask()
    trials = search.ask(study, tmp_path, {"x": FloatDistribution(0, 1)}, most=5, trials=2)
    assert [t.number for t in trials] == [1, 2] and all("x" in t.params for t in trials), "nor counted"
    assert study.get_trials()[0].state == TrialState.FAIL


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
def test_a_study_whose_last_line_is_cut_goes_on(tmp_path, when):
    study, space, file = open_study(tmp_path), {"x": FloatDistribution(0, 1)}, tmp_path / search.STUDY
    (first,) = search.ask(study, tmp_path, space, most=1, trials=1)
    tell(study, tmp_path, first, "finished", 0.5)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"worker_id":"a')
    study = open_study(tmp_path) if when.startswith("before") else study
    (second,) = search.ask(study, tmp_path, space, most=1, trials=2)
    tell(study, tmp_path, second, "finished", 0.25)
    assert [t.value for t in open_study(tmp_path).get_trials()] == [0.5, 0.25]
    assert file.read_bytes().startswith(whole) and b'"a{' not in file.read_bytes()


def test_a_study_that_is_damaged_elsewhere_is_told_with_its_line(tmp_path):
    open_study(tmp_path)
    file = tmp_path / search.STUDY
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"{half\n", *lines[1:]]))
    with pytest.raises(UserError, match=r"line 2 of .*study.log is damaged; remove it, or choose another sweep.name"):
        open_study(tmp_path)


@pytest.mark.parametrize(
    "word", ["x=interval(16,1)", "x=tag(log,interval(0,1))", "x=range(5,5)", "x=interval(0,inf)", "x=range(9,1)"]
)
def test_bounds_that_are_no_range_are_told(word):
    (override,) = OverridesParser.create().parse_overrides([word])
    with pytest.raises(UserError, match="is not a search range; give two finite bounds, the lower first"):
        search.distribution(override)


def test_range_that_falls_is_a_range():
    (override,) = OverridesParser.create().parse_overrides(["x=range(9,0,-3)"])
    assert search.distribution(override) == IntDistribution(3, 9, step=3)


@pytest.mark.parametrize("word", ["trials=0", "trials=many", "max_batch_size=-1"])
def test_counts_of_a_search_are_checked(tmp_path, word):
    answer = call(tmp_path, f"train {TINY} model=vae sweep=random hydra.sweeper.{word}")
    assert answer.code == 2 and f"hydra.sweeper.{word} is not allowed; give a whole number >= 1" in answer.err


def test_a_trial_that_a_limit_stopped_has_its_value(tmp_path):
    study, space = open_study(tmp_path), {"x": FloatDistribution(0, 1)}
    first, second = search.ask(study, tmp_path, space, most=2, trials=2)
    tell(study, tmp_path, first, "stopped: patience", 0.5)
    tell(study, tmp_path, second, "stopped: max_time")
    assert [(t.state, t.value) for t in study.get_trials()] == [(TrialState.COMPLETE, 0.5), (TrialState.FAIL, None)]


def test_a_trial_whose_job_has_died_is_given_out_again_unless_left_to_the_next_command(tmp_path):
    study, space = open_study(tmp_path), {"x": FloatDistribution(0, 1)}
    with runs.locked(sweeps.worker(tmp_path)):
        (trial,) = search.ask(study, tmp_path, space, most=1, trials=1)
        tell(study, tmp_path, trial, "died")
        assert search.ask(study, tmp_path, space, most=1, trials=1, leave={0}) == []
        assert [t.number for t in search.ask(study, tmp_path, space, most=1, trials=1)] == [0]


def test_a_trial_that_a_command_drew_and_died_is_given_out(tmp_path):
    study, space = open_study(tmp_path), {"x": FloatDistribution(0, 1)}
    drawn = study.ask(space)
    assert not search.waits_for_runs(study, tmp_path)
    assert [t.number for t in search.ask(study, tmp_path, space, most=1, trials=1)] == [drawn.number]


@pytest.mark.parametrize(
    ("batch", "launcher", "jobs", "at_once"),
    [(None, {}, 2, 2), (None, {"array_parallelism": 16}, 1, 16), (3, {"array_parallelism": 16}, 1, 3), (8, {}, 2, 8)],
)
def test_so_many_trials_are_launched_at_once(batch, launcher, jobs, at_once):
    config = OmegaConf.create({"hydra": {"launcher": launcher}, "sweep": {"jobs": jobs}})
    assert Search._at_once(SimpleNamespace(max_batch_size=batch, config=config)) == at_once


def test_a_study_that_goes_on_draws_other_numbers(tmp_path):
    space = {"x": FloatDistribution(0, 1)}
    drawn = []
    for _ in range(2):
        study = open_study(tmp_path)
        for trial in search.ask(study, tmp_path, space, most=2, trials=len(drawn) + 2):
            drawn.append(trial.params["x"])
            tell(study, tmp_path, trial, "finished", 0.0)
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(("metric", "direction"), [("val/rec", "minimize"), ("val/loss", "maximize")])
def test_a_study_is_not_continued_by_another_metric_or_direction(tmp_path, metric, direction):
    open_study(tmp_path)
    with pytest.raises(UserError, match=r"uses val/loss \(minimize\), not .*choose another sweep.name"):
        open_study(tmp_path, metric=metric, direction=direction)
    assert open_study(tmp_path).direction.name == "MINIMIZE"


def test_what_became_of_a_run_is_told(tmp_path):
    study, space = open_study(tmp_path), {"x": FloatDistribution(0, 1)}
    told = {"finished": 1.0, "pruned": None, "failed": None, "running": None, "interrupted": None, "died": None}
    trials = search.ask(study, tmp_path, space, most=6, trials=6)
    for trial, (state, value) in zip(trials, told.items()):
        tell(study, tmp_path, trial, state, value)
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, *[TrialState.RUNNING] * 3]


def test_a_job_reports_to_its_trial_until_that_is_over(tmp_path):
    """With five finished trials at 0 the median pruner ends one that reports 1 at the same step."""
    study, space = open_study(tmp_path, pruner="median"), {"x": FloatDistribution(0, 1)}
    *others, last = search.ask(study, tmp_path, space, most=6, trials=6)
    for trial in others:
        search.open_trial(tmp_path / search.STUDY, trial.number).report(0.0, step=2)
        tell(study, tmp_path, trial, "finished", 0.0)
    reporting = search.open_trial(tmp_path / search.STUDY, last.number)
    reporting.report(1.0, step=2)
    assert reporting.should_prune()
    tell(study, tmp_path, last, "pruned", None)
    assert search.open_trial(tmp_path / search.STUDY, last.number) is None


def test_pruning_reports_a_number_once_and_at_the_step_it_is_of(tmp_path):
    from vae_zoo.sweeps.pruning import Pruning

    study = open_study(tmp_path, metric="val/mig")
    (trial,) = search.ask(study, tmp_path, {"x": FloatDistribution(0, 1)}, most=1, trials=1)
    pruning = Pruning(str(tmp_path / search.STUDY), trial.number, "val/mig")
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    module = SimpleNamespace(latest={}, latest_at={})
    for validation in (250, 500, 750, 1000):
        if validation % 500 == 0:
            module.latest, module.latest_at = {"val/mig": validation / 1000}, {"val/mig": validation}
        pruning.on_validation_end(SimpleNamespace(is_global_zero=True, strategy=strategy, global_step=validation), module)
    assert study.get_trials()[0].intermediate_values == {500: 0.5, 1000: 1.0}


def test_figures_are_drawn_of_what_there_is(tmp_path):
    study, space = open_study(tmp_path), {"x": FloatDistribution(0, 1)}
    assert search.write_figures(study, tmp_path / "figures", "val/loss") == []
    for trial in search.ask(study, tmp_path, space, most=4, trials=4):
        tell(study, tmp_path, trial, "finished", trial.params["x"])
    names = [path.name for path in search.write_figures(study, tmp_path / "figures", "val/loss")]
    assert names == ["history.png", "importances.png"]


def test_a_wrong_search_is_told_in_a_sentence(tmp_path):
    answer = call(tmp_path, f"train {TINY} model=vae sweep=optuna hydra.sweeper.sampler=grid")
    assert answer.code == 2 and "hydra.sweeper.sampler=grid is not allowed; give tpe or random" in answer.err
    answer = call(tmp_path, f"train {TINY} model=vae sweep=optuna sweep.metric=val/kl_z")
    assert answer.code == 2 and "the direction of sweep.metric=val/kl_z is unknown" in answer.err
    for metric in ("test/elbo", "test_unseen/map"):
        answer = call(tmp_path, f"train {TINY} model=vae sweep=optuna sweep.metric={metric}")
        assert answer.code == 2 and f"sweep.metric={metric} is a test metric" in answer.err
    assert not (tmp_path / "outputs").exists()
    answer = call(tmp_path, f"train {TINY} model=vae sweep=optuna ~hydra.sweeper.params")
    assert answer.code == 2 and "the search space is empty" in answer.err


def test_a_study_whose_trials_are_used_up_is_no_success(tmp_path, jobs_in_this_process):
    words = f"train {TINY} model=vae sweep=random sweep.name=used hydra.sweeper.trials=2"
    assert call(tmp_path, f"{words} data.val_size=-1").code == 1  # both are refused
    answer = call(tmp_path, words)
    assert answer.code == 1 and "all 2 trials of this study have been used, and none has a value; increase" in answer.err


def test_runs_done_before_without_the_metric_are_told_and_are_no_success(tmp_path, jobs_in_this_process):
    """The same seed draws the same settings, so the search by another metric meets the runs of the first."""
    words = f"train {TINY} model=vae sweep=random hydra.sweeper.trials=1"
    assert call(tmp_path, words).code == 0
    answer = call(tmp_path, f"{words} sweep.metric=val/mig sweep.name=second")
    assert answer.code == 1 and "| no value | finished, but without val/mig |" in answer.out
    assert "1 trials of this command have no val/mig" in answer.err and "sweep.rerun=true" in answer.err
    answer = call(tmp_path, f"{words} sweep.metric=val/mig sweep.name=second")
    assert answer.code == 1 and "have been used, and none has a value" in answer.err


@pytest.mark.slow
def test_study_of_twenty_trials_is_continued_after_a_kill_and_finds_the_best_beta(toy):
    """Five of six betas of this space are more than 1.6 times off; of 20 at random none is nearer in one search of fifty.
    A lost trial would show in the count."""
    words = [*SEARCH, "hydra.sweeper.trials=20"]
    killed = start(toy, "train", *words)
    while len(list((toy / "outputs" / "toy-digits").glob("*/metrics.json"))) < 6:
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()  # of the job that outlived it
    record = next((toy / "outputs" / "sweeps").iterdir())
    before = {t.number: t.params for t in open_study(record, metric="val/gap").get_trials()}
    assert 6 <= len(before) < 20

    said = run(toy, "train", *words).stdout
    trials = open_study(record, metric="val/gap").get_trials()
    assert len(trials) == 20 and all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    assert before == {number: trials[number].params for number in before}
    assert any(t.state == TrialState.PRUNED for t in trials) and "pruned" in (record / "table.md").read_text()
    best = open_study(record, metric="val/gap").best_trial
    assert abs(math.log(best.params["model.beta"] / 4)) < math.log(1.6)
    assert f"best: val/gap={best.value:.4g} by model.beta=" in said
    assert {"history.png", "importances.png"} <= {p.name for p in (record / "figures").iterdir()}
    folders = [job.folder for job in sweeps.read_record(record)]
    betas = {yaml.safe_load((folder / "config.yaml").read_text())["model"]["beta"] for folder in folders}
    assert betas == {t.params["model.beta"] for t in trials} and len(betas) == 20
