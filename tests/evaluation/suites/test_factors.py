"""A code's score does not depend on how a class is written down, and what is chosen on validation saw no test image."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import annotations
from vae_zoo.contract import Block
from vae_zoo.data.arrays import Factor
from vae_zoo.evaluation.suite import DoesNotApply
from vae_zoo.evaluation.suites import factors
from vae_zoo.evaluation.suites.factors import Disentanglement
from vae_zoo.metrics import disentanglement

DSPRITES = (3, 6, 40, 32, 32)  # shape, scale, orientation, x, y


class Perfect:
    """Of each image of a grid the factors themselves: the first as a class or as a number, and one dimension each."""

    def __init__(self, sizes, categorical):
        self.sizes, self.categorical, self.names = sizes, categorical, ["shape", "rest"]
        self.seen = set()

    def blocks(self, index):
        self.seen |= set(index.tolist())
        factors = np.stack(np.unravel_index(index, self.sizes), axis=1).astype(np.float32)
        shape = np.eye(self.sizes[0], dtype=np.float32)[factors[:, 0].astype(int)] if self.categorical else factors[:, :1]
        return {"shape": shape, "rest": factors[:, 1:]}


@pytest.fixture(autouse=True)
def namespaces_for_contexts():
    with annotations.unchecked():
        yield


@pytest.fixture
def few(monkeypatch):
    """Estimators that see few images; what they say is tested elsewhere."""
    monkeypatch.setattr(factors, "NUM_TRAIN", 300)
    monkeypatch.setattr(factors, "NUM_TEST", 200)
    monkeypatch.setattr(factors, "NUM_MORE", 500)
    annotations.set_defaults(monkeypatch, disentanglement.dci, {"jobs": 1})
    for score in (disentanglement.beta_vae_score, disentanglement.factor_vae_score):
        few = {"num_train": 200, "num_eval": 200, "num_variance": 200}
        names = inspect.signature(score).parameters
        annotations.set_defaults(monkeypatch, score, {name: count for name, count in few.items() if name in names})


def context(sizes, categorical, split="test", level="basic"):
    codes, count = Perfect(sizes, categorical), int(np.prod(sizes))
    kind = Block(sizes[0], "categorical", "") if categorical else Block(1, "gaussian", "")
    order = np.random.default_rng(0).permutation(count)
    train, val, test = np.split(order, [int(0.6 * count), int(0.8 * count)])
    grid = np.indices(sizes).reshape(len(sizes), -1).T
    data = SimpleNamespace(factors=torch.from_numpy(grid.astype(np.float32)), factor_sizes=sizes, is_grid=True)
    data.factor_info = [Factor(f"f{j}", size, "ordered") for j, size in enumerate(sizes)]
    model = SimpleNamespace(blocks={"shape": kind, "rest": Block(len(sizes) - 1, "gaussian", "")})
    parts = {"train": train[:300], "scored": (val if split == "val" else test)[:200], "split": split, "seed": 0}
    e = SimpleNamespace(data=data, model=model, codes=codes, is_at_least=lambda asked: asked in ("basic", level), **parts)
    return e, set(test.tolist())


def test_a_factor_that_is_constant_in_the_scored_images_is_left_out(few):
    e, _ = context((3, 4, 5), False, level="full")
    e.data.is_grid = False
    e.scored = e.scored[e.data.factors[e.scored, 1] == 2]
    assert factors.varying_columns(e) == [0, 2]
    numbers = dict(factors.scores(e, ["shape", "rest"]))
    assert {"mig", "explicitness", "dci_disentanglement"} <= numbers.keys() and numbers["explicitness"] > 0.9


@pytest.mark.parametrize(
    ("sizes", "mig", "sap"), [((3, 4, 5), 1.0, 0.666), pytest.param(DSPRITES, 0.896, 0.228, marks=pytest.mark.slow)]
)
def test_a_perfect_code_scores_the_same_with_the_shape_as_a_number_or_as_a_class(sizes, mig, sap):
    number, one_hot = (Disentanglement().run(context(sizes, kind)[0]).numbers for kind in (False, True))
    scores = ("mig", "modularity", "irs", "sap")
    assert [one_hot[name] for name in scores] == [number[name] for name in scores]
    assert number["mig"] == pytest.approx(mig, abs=0.01) and number["sap"] == pytest.approx(sap, abs=0.01)


def test_scores_are_said_of_the_gaussian_blocks_alone_too_where_a_model_has_both_kinds():
    one_hot, plain = (Disentanglement().run(context((3, 4, 5), kind)[0]).numbers for kind in (True, False))
    assert set(one_hot) == {*plain, *(f"{name}/gaussian" for name in plain)}
    assert not any(name.endswith("/gaussian") for name in plain)
    assert one_hot["mig/gaussian"] == pytest.approx(2 / 3, abs=0.02), "they know nothing of the shape"
    assert one_hot["modularity/gaussian"] == pytest.approx(1, abs=0.01)


def test_what_reads_all_columns_reads_the_probabilities(few):
    numbers = Disentanglement().run(context((3, 2, 4), True, level="full")[0]).numbers
    assert numbers["dci_informativeness"] == numbers["factor_vae"] == 1
    assert numbers["explicitness"] == pytest.approx(1, abs=0.01)
    assert numbers["dci_informativeness/gaussian"] < 0.85 and numbers["factor_vae/gaussian"] < 0.8


def test_the_whole_grid_need_not_be_encoded_for_any_score(few, monkeypatch):
    for name, count in {"NUM_TRAIN": 80, "NUM_TEST": 60, "NUM_MORE": 100}.items():
        monkeypatch.setattr(factors, name, count)
    e, _ = context((3, 4, 5, 6), True, level="full")
    assert {"beta_vae", "factor_vae"} <= set(Disentanglement().run(e).numbers)
    assert len(e.codes.seen) <= 80 + 60 + 100


def test_a_class_and_nothing_else_is_one_column():
    e, _ = context((3, 4, 5), True)
    e.codes.names = ["shape"]
    with pytest.raises(DoesNotApply, match="at least two code dimensions are needed, the model has 1"):
        Disentanglement().run(e)


def test_while_training_no_test_image_of_a_grid_is_seen(few):
    e, test = context((2, 3, 4, 6), True, "val", "full")
    numbers = Disentanglement().run(e).numbers
    assert not e.codes.seen & test
    assert "dci_informativeness" in numbers and not {"beta_vae", "factor_vae"} & set(numbers), "they need the whole grid"
    final, _ = context((2, 3, 4, 6), True)
    assert Disentanglement().run(final).numbers["mig"] != numbers["mig"] and final.codes.seen & test


@pytest.mark.parametrize("sizes", [(7,), (7, 1)])
def test_one_factor_that_varies_is_too_few(sizes):
    with pytest.raises(DoesNotApply, match="two discrete factors that vary, but the data set has 1"):
        Disentanglement().run(context(sizes, False)[0])


def test_numbers_of_clusters_are_names():
    """More classes than bins, under other numbers: equal-width bins would merge neighbours."""
    rng = np.random.default_rng(0)
    values = rng.integers(30, size=(4000, 1))
    codes = np.hstack([values, rng.normal(size=(4000, 1))])
    other = np.hstack([rng.permutation(30)[values], codes[:, 1:]])
    for score in (disentanglement.mig, disentanglement.modularity):
        target = np.hstack([values // 2, rng.integers(3, size=(4000, 1))])
        found = [score(table, target, classes=[0]) for table in (codes, other)]
        assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert disentanglement.mig(codes, target) != pytest.approx(disentanglement.mig(other, target), abs=1e-3)
