"""Which numbers there are follows from the data and the blocks; each image is encoded once; the numbers repeat."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import annotations
from tests.training.test_trainer import SMALL, train
from vae_zoo import UserError
from vae_zoo.contract import Block, HasClasses
from vae_zoo.data.arrays import Factor
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import Bernoulli
from vae_zoo.evaluation import protocol, suite
from vae_zoo.evaluation.context import Codes
from vae_zoo.evaluation.suite import LEVELS, Result, Suite
from vae_zoo.evaluation.suites import factors
from vae_zoo.metrics import judge
from vae_zoo.models.vae import VAE
from vae_zoo.nets import MLP

BOUNDS = {"test/elbo", "test/rec", "test/rate", "test/kl_z", "test/bits_per_dim", "test/active_units_z"}
BOUNDS |= {"test/worth", "test/worth/z", "test/worth_rec/z"}


class Halves(VAE):
    """A VAE whose code is called two blocks of three dimensions; it has no bound."""

    log_weights = None

    def __init__(self):
        torch.manual_seed(0)
        super().__init__((1, 8, 8), 6, MLP(hidden=(32,)), Bernoulli())
        self.blocks = {name: Block(3, "gaussian", "half of it") for name in ("left", "right")}

    def encode(self, batch):
        q = super().encode(batch)["z"]
        return {"left": q[:, :3], "right": q[:, 3:]}

    def infer(self, batch):
        q = super().encode(batch)["z"]
        z = q.rsample()
        return q, z, -self.likelihood.log_prob(batch["image"], self.decoder(z))

    def sample_prior(self, n):
        return {name: torch.randn(n, 3) for name in self.blocks}


@pytest.fixture(scope="module")
def halves():
    data = Digits(size=8)
    data.setup()
    return Halves().eval(), data


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    _, model, data = train(tmp_path_factory.mktemp("digits"), *SMALL, "data.size=8", "model=vae", "trainer.max_steps=100")
    return model.eval(), data


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    words = ["model=vae", "data=dsprites", "model/network=mlp", "model.network.hidden=[32]", "trainer.max_steps=2"]
    words += ["callbacks=none"]
    _, model, data = train(tmp_path_factory.mktemp("sprites"), *words, "data.val_size=8", "data.test_size=600")
    return model.eval(), data


def test_labels_are_probed_where_no_factors_are_known(digits):
    model, data = digits
    results = protocol.evaluate(model, data, "quick", untrained=model)
    probes = {f"test/block/{row}/label" for row in ("z", "untrained", "pixels")} | {"test/linear/z/label"}
    assert set(results.numbers) == BOUNDS | probes | {"test/nll_iw100"}
    assert 0.3 < results.numbers["test/block/z/label"] <= 1, "100 steps are enough to tell most digits apart"
    _, values, rows, columns = results.tables["blocks"]
    assert rows == ["z", "untrained", "pixels"] and columns == ["label"] and values.shape == (3, 1)
    again = protocol.evaluate(model, data, "basic", untrained=model).numbers
    assert "test/elbo" in again and again.items() <= results.numbers.items()


@annotations.unchecked()
def test_blocks_are_summed_up_where_the_data_say_which_factors_are_of_identities(monkeypatch):
    label = torch.arange(600) % 3
    values = torch.stack([label, torch.arange(600) % 2, torch.rand(600)], dim=1)
    codes = {"content": values[:, :1].numpy(), "style": values[:, 1:2].numpy()}
    kinds = {"a": "categorical", "b": "categorical", "c": "continuous"}
    data = SimpleNamespace(factors=values, factor_info=[Factor(n, 0, k) for n, k in kinds.items()])
    data.identity_factors, data.style_factors = ("a",), ("b", "c")
    rows = {"train": np.arange(400), "scored": np.arange(400, 600), "untrained": None, "seed": 0}
    blocks = SimpleNamespace(blocks=lambda i: {k: v[i] for k, v in codes.items()}, names=[*codes])
    monkeypatch.setattr(factors, "pixels", lambda data, index: data.factors[index].numpy())
    numbers = factors.BlockFactors().run(SimpleNamespace(data=data, codes=blocks, **rows)).numbers
    assert numbers["block_mean/content/identity"] == 1 and numbers["block_mean/content/style"] < 0.1
    assert numbers["block_mean/style/style"] == pytest.approx((1 + numbers["block/style/c"]) / 2)
    assert numbers["block_mean/style/identity"] == numbers["block/style/a"] < 0.1


def test_no_test_label_decides_a_probe(digits):
    """Poisoned test labels change what is scored, never what is predicted: the probe of shuffled labels reads nothing."""
    model, data = digits
    label, test = data.label.clone(), data.indices["test"]
    data.label[test] = data.label[test][torch.from_numpy(np.random.default_rng(0).permutation(len(test)))]
    try:
        assert protocol.evaluate(model, data, "quick").numbers["test/block/z/label"] < 0.1
    finally:
        data.label = label


def test_a_grid_is_scored_on_draws_from_the_whole_of_it(sprites, small_evaluation):
    model, data = sprites
    assert data.is_grid
    numbers = protocol.evaluate(model, data, "basic").numbers
    scores = {"test/mig", "test/modularity", "test/irs", "test/sap"}
    assert set(numbers) == BOUNDS | scores
    assert all(0 <= numbers[name] <= 1 for name in scores)


def test_full_adds_swaps_aggregates_and_distances(halves, monkeypatch):
    model, data = halves
    annotations.set_defaults(monkeypatch, judge.train_judge, {"steps": 200})
    results = protocol.evaluate(model, data, "full")
    numbers = results.numbers
    assert 0.8 < numbers["test/judge/label"] <= 1 and 0 <= numbers["test/judge_rec/label"] <= 1
    assert {"test/swap/left/label", "test/swap/right/label"} <= set(numbers)
    terms = [numbers[f"test/aggregate/left/{name}"] for name in ("kl", "total_correlation", "dimension_wise_kl")]
    assert terms[0] == pytest.approx(terms[1] + terms[2])
    assert numbers["test/kid_judge"] > 0, "an untrained decoder draws no digits"
    assert "test/fid_judge" not in numbers, "359 test images are too few for 64 features"
    title, values, rows, columns = results.tables["swaps"]
    assert (
        rows == ["left", "right"]
        and columns == ["label"]
        and (values[0, 0], values[1, 0])
        == (
            numbers["test/swap/left/label"],
            numbers["test/swap/right/label"],
        )
    )


def test_full_of_a_model_of_one_block_has_distances_and_no_swaps(digits, monkeypatch):
    model, data = digits
    annotations.set_defaults(monkeypatch, judge.train_judge, {"steps": 20})
    results = protocol.evaluate(model, data, "full")
    assert {"test/kid_judge", "test/aggregate/z/kl"} <= set(results.numbers)
    assert not [name for name in results.numbers if "swap" in name]


def test_numbers_of_the_validation_split_have_its_name_and_its_images(halves, small_evaluation):
    model, data = halves
    numbers = protocol.evaluate(model, data, "quick", split="val").numbers
    assert numbers and all(name.startswith("val/") for name in numbers)
    label, test = data.label.clone(), data.indices["test"]
    data.label[test] = -1
    try:
        assert protocol.evaluate(model, data, "quick", split="val").numbers == numbers
    finally:
        data.label = label


def test_evaluating_touches_no_generator_and_no_weight(halves, small_evaluation):
    model, data = halves
    state, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    protocol.evaluate(model, data, "quick")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_each_image_is_encoded_once(digits, monkeypatch):
    model, data = digits
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda batch: seen.append(batch["index"]) or encode(batch))
    codes = Codes(model, data, batch_size=100)
    first = codes(np.array([5, 3, 5, 7]))
    again = codes(np.array([7, 9, 3]))
    assert sorted(torch.cat(seen).tolist()) == [3, 5, 7, 9]
    assert (first[0] == first[2]).all() and (again[0] == first[3]).all() and (again[2] == first[1]).all()
    assert list(codes.blocks(np.array([3]))) == ["z"]


# ---- which suites run, and what becomes of their results ---------------------------------------------------------------


class Asked(Suite):
    """Counts how often it is asked."""

    name = "asked"

    def __init__(self, **attributes):
        self.times = 0
        vars(self).update(attributes)

    def run(self, context):
        self.times += 1
        return Result({"asked": 1}, {"asked": ("title", np.eye(1), ["a"], ["b"])}, {"asked": np.zeros((1, 1, 3), np.uint8)})


class Broken(Asked):
    def run(self, context):
        raise ZeroDivisionError("of its own making")


def test_a_suite_of_one_s_own_comes_after_all_others(halves):
    found = protocol.evaluate(*halves, suites=[Asked()])
    assert list(found.numbers)[-1] == "test/asked" and "asked" in found.tables and "asked" in found.pictures


@pytest.mark.parametrize("level, names", [("basic", ["basic"]), ("quick", ["basic", "quick"]), ("full", list(LEVELS))])
def test_a_level_has_the_suites_of_lower_levels_too(halves, monkeypatch, level, names):
    monkeypatch.setattr(protocol, "SUITES", ())
    suites = {name: Asked(level=name) for name in LEVELS}
    protocol.evaluate(*halves, level, suites.values())
    assert [name for name, suite in suites.items() if suite.times] == names


@pytest.mark.parametrize(
    "attributes, reason",
    [
        ({"capability": HasClasses}, "the model has no classes"),
        ({"needs": frozenset({"labels", "groups"})}, "the data set has no groups"),
        ({"needs": frozenset({"boxes"})}, "the data set has no boxes"),
        ({"needs": frozenset({"factors"})}, "the data set has no factors"),
        ({"split": "test_unseen"}, "the data set has no split test_unseen, or it is not scored during training"),
    ],
)
def test_a_suite_that_does_not_apply_is_not_asked_and_the_log_says_why(halves, monkeypatch, caplog, attributes, reason):
    monkeypatch.setattr(protocol, "SUITES", ())
    asked = Asked(**attributes)
    with caplog.at_level(logging.INFO):
        assert not protocol.evaluate(*halves, suites=[asked]).numbers
    assert asked.times == 0 and f"not applicable: asked ({reason})" in caplog.text


def test_a_suite_may_find_out_by_itself_that_it_does_not_apply(halves, caplog):
    with caplog.at_level(logging.INFO):
        found = protocol.evaluate(*halves)
    assert "clusters (the model has no categorical blocks, or its clusters are facets)" in caplog.text and not found.failed


@pytest.mark.parametrize("broken", [Broken(), Broken(needs=frozenset({"labelz"})), Asked(run=lambda context: None)])
def test_a_suite_that_fails_costs_no_number_of_the_others(halves, monkeypatch, caplog, broken):
    monkeypatch.setattr(protocol, "SUITES", (*protocol.SUITES[:1], broken, *protocol.SUITES[1:]))
    found = protocol.evaluate(*halves)
    monkeypatch.undo()
    assert found.numbers == protocol.evaluate(*halves).numbers
    assert "asked failed" in caplog.text and "Traceback" in caplog.text
    with pytest.raises(ExceptionGroup, match="asked") as raised:
        found.raise_failures()
    assert raised.value.exceptions == (found.failed["asked"],)


def test_a_suite_of_the_user_needs_a_name():
    class Nameless(Suite):
        def run(self, context):
            return Result()

    nodes = {"mine": {"_target_": "a.Nameless"}, "none": None}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="suites.mine=a.Nameless has no name"):
        patch.setattr(suite, "build", lambda node: Nameless())
        suite.own_suites(nodes)
