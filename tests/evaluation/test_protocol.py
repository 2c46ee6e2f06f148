"""Which numbers there are follows from the data and the blocks; each image is encoded once; the numbers repeat."""

import numpy as np
import pytest
import torch

from tests.test_training import SMALL, train
from vae_zoo.evaluation import protocol


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    _, model, data = train(tmp_path_factory.mktemp("digits"), *SMALL, "model=vae", "trainer.max_steps=100")
    return model.eval(), data


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    words = ["model=vae", "data=dsprites", "model/network=mlp", "model.network.hidden=[32]", "trainer.max_steps=2"]
    _, model, data = train(tmp_path_factory.mktemp("sprites"), *words, "data.val_size=8", "data.test_size=600")
    return model.eval(), data


def test_labels_are_probed_where_no_factors_are_known(digits):
    model, data = digits
    results = protocol.evaluate(model, data, "quick", untrained=model)
    assert {"test/block/z/label", "test/block/untrained/label", "test/block/pixels/label", "test/nll_iw100"} == set(
        results.numbers
    )
    assert 0.3 < results.numbers["test/block/z/label"] <= 1, "100 steps are enough to tell most digits apart"
    values, rows, columns = results.tables["blocks"]
    assert rows == ["z", "untrained", "pixels"] and columns == ["label"] and values.shape == (3, 1)
    again = protocol.evaluate(model, data, "quick", untrained=model)
    assert again.numbers == results.numbers


def test_no_test_label_decides_a_probe(digits):
    """Poisoned test labels change what is scored, never what is predicted: the probe of shuffled labels reads nothing."""
    model, data = digits
    label, test = data.label.clone(), data.indices["test"]
    data.label[test] = data.label[test][torch.from_numpy(np.random.default_rng(0).permutation(len(test)))]
    try:
        assert protocol.evaluate(model, data, "quick").numbers["test/block/z/label"] < 0.1
    finally:
        data.label = label


def test_a_grid_is_scored_on_draws_from_the_whole_of_it(sprites):
    model, data = sprites
    assert data.is_grid
    numbers = protocol.evaluate(model, data, "basic").numbers
    assert set(numbers) == {"test/mig", "test/modularity", "test/irs", "test/sap"}
    assert all(0 <= value <= 1 for value in numbers.values())


def test_each_image_is_encoded_once(digits, monkeypatch):
    model, data = digits
    seen = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda batch: seen.append(batch["index"]) or encode(batch))
    codes = protocol.Codes(model, data, batch_size=100)
    first = codes(np.array([5, 3, 5, 7]))
    again = codes(np.array([7, 9, 3]))
    assert sorted(torch.cat(seen).tolist()) == [3, 5, 7, 9]
    assert (first[0] == first[2]).all() and (again[0] == first[3]).all() and (again[2] == first[1]).all()
    assert list(codes.blocks(np.array([3]))) == ["z"]
