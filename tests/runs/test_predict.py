"""`evaluate.py run=... predict=...`: the clusters of pictures in a folder."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.calls import call
from vae_zoo import load_model
from vae_zoo.distributions import Bernoulli
from vae_zoo.models.joint_vae import JointVAE
from vae_zoo.nets import MLP
from vae_zoo.runs import predict

RUN = (
    "train data=digits data.size=8 trainer=cpu trainer.max_steps=3 callbacks=none model=mfcvae hydra.run.dir=run "
    "'model.network.hidden=[[16],[16]]' model.network.decoder_hidden=null 'model.num_clusters=[3,4]'"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and eight pictures in two folders; they are of its size, so that nothing is resized."""
    folder = tmp_path_factory.mktemp("predict")
    assert call(folder, RUN).code == 0
    rng = np.random.default_rng(0)
    for n in range(8):
        (folder / "pictures" / f"part {n % 2}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"part {n % 2}" / f"{n}, a.png")
    return folder


def test_every_picture_has_its_likeliest_clusters_and_how_likely_they_are(folder):
    before = {path.name for path in (folder / "run").iterdir()}
    answer = call(folder, "evaluate run=run predict=pictures")
    assert answer.code == 0 and "predictions.csv: the clusters of 8 images in facet0, facet1" in answer.out
    with (folder / "run" / "evaluation" / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["file", "facet0", "facet0_confidence", "facet1", "facet1_confidence"]
    assert [line["file"] for line in lines] == [f"part {n % 2}/{n}, a.png" for n in (0, 2, 4, 6, 1, 3, 5, 7)]
    model = load_model(folder / "run")
    for line in lines:
        pixels = torch.from_numpy(np.asarray(Image.open(folder / "pictures" / line["file"])) / np.float32(255))
        with torch.no_grad():
            probs = model.clusters(model.encode(pixels[None, None]))
        for facet in ("facet0", "facet1"):
            assert int(line[facet]) == probs[facet].argmax()
            assert float(line[f"{facet}_confidence"]) == pytest.approx(float(probs[facet].max()), abs=1e-4)
    assert {path.name for path in (folder / "run").iterdir()} == before | {"evaluation"}, "nothing else is evaluated"


def test_the_table_goes_where_out_says(folder):
    assert call(folder, "evaluate run=run predict='pictures/part 0' out=elsewhere").code == 0
    lines = (folder / "elsewhere" / "predictions.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[1].startswith('"0, a.png",')


def test_pictures_may_lie_anywhere_below_the_folder(folder):
    mixed = folder / "mixed"
    (mixed / "empty").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (mixed / name).parent.mkdir(exist_ok=True)
        shutil.copy(next((folder / "pictures").rglob("*.png")), mixed / name)
    assert call(folder, "evaluate run=run predict=mixed out=mixed_out").code == 0
    lines = (folder / "mixed_out" / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["a.png", "sub/b.png"]


@pytest.mark.parametrize(
    "name, told",
    [
        ("nowhere", "predict=nowhere is not a folder; give a folder of images"),
        ("empty", "predict=empty has no images; give a folder of PNG or JPEG files"),
        ("text", "text/notes.png cannot be read as an image ("),
        ("pictures/part 0/0, a.png", "is not a folder"),
    ],
)
def test_what_is_no_folder_of_images_is_told(folder, name, told):
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "text").mkdir(exist_ok=True)
    (folder / "text" / "notes.png").write_text("taken in May")
    answer = call(folder, f"evaluate run=run 'predict=\"{name}\"' out=refused")
    assert answer.code == 2 and told in answer.err and answer.err.count("\n") == 1
    assert not (folder / "refused").exists()


def test_categorical_blocks_are_clusters_too():
    torch.manual_seed(0)
    model = JointVAE((1, 8, 8), 2, [5, 3], MLP(hidden=(16,)), Bernoulli(), feature_dim=16).eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8), dtype=np.uint8)
    probs = predict.predict(model, images, batch_size=3)
    names = predict.clustering_blocks(model)
    assert list(probs) == names and [part.shape for part in probs.values()] == [(7, 5), (7, 3)]
    assert all(np.allclose(part.sum(1), 1) for part in probs.values())
