"""What is said of a model that knows the scenes, of one that sees nothing, and of the pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.models.test_spair import spair
from vae_zoo.data.sets.scenes import Scenes
from vae_zoo.evaluation import protocol
from vae_zoo.evaluation.context import Context
from vae_zoo.evaluation.suites.objects import Objects, UnseenObjects, edits, instance_map, numbers, of_tiles, pictures
from vae_zoo.figures.scenes import ZOOM, with_boxes
from vae_zoo.metrics.detection import adjusted_rand
from vae_zoo.models.spair import SPAIR, Scene


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    sizes = {"train_size": 20, "val_size": 8, "test_size": 24}
    scenes = Scenes(size=24, sprite_size=9, num_objects=(0, 3), cache=str(folder), **sizes)
    scenes.setup()
    return scenes


class Oracle(SPAIR):
    """Finds what is there: boxes, numbers and pixels. blind: nothing."""

    blind = False

    def encode(self, batch):
        self.truth = batch
        return super().encode(batch)

    def detect(self, batch, least=0.05):
        n = 0 if self.blind else None
        return [
            {"boxes": box[:n], "scores": torch.full((len(box[:n]),), 0.9), "labels": torch.zeros(len(box[:n])).long()}
            for box in batch["boxes"]
        ]

    def render(self, codes):
        mask, image = self.truth["mask"], self.truth["image"]
        share = torch.stack([(mask == i + 1).float() * (not self.blind) for i in range(self.num_cells)], 1)
        nothing = torch.zeros(len(mask), self.num_cells)
        box = torch.rand(len(mask), self.num_cells, 4)
        sprite = torch.zeros(*nothing.shape, 3, 2, 2)
        return Scene(image, image, box, sprite, sprite[:, :, :1], nothing, SimpleNamespace(share=share))


@pytest.mark.parametrize("split", ["test", "test_unseen"])
def test_a_model_that_knows_the_scenes_and_one_that_sees_nothing(data, split):
    model = spair((3, 24, 24), kind=Oracle).eval()
    found = numbers(Context(model, data), split)
    perfect = {
        "count_accuracy": 1,
        "count_mae": 0,
        "ap50": 1,
        "map": 1,
        "recall75": 1,
        "ari_fg": 1,
        "mse": 0,
        "duplicates": 0,
    }
    assert {name: found[name] for name in perfect} == pytest.approx(perfect)
    assert found["ap50_shuffled"] < 0.5 < found["count_accuracy_components"]
    empty = np.mean([len(data.single(i[None])["boxes"][0]) == 0 for i in data.indices[split]])
    assert found["count_accuracy_cells"] == empty < 1, "no cell of the oracle is occupied, whatever it detects"
    model.blind = True
    found = numbers(Context(model, data), split)
    assert found["ap50"] == found["recall30"] == 0 and found["count_accuracy"] == empty and found["count_bias"] < -1
    assert found["ari_fg"] == found["ari_fg_nothing"] < 0.7  # 0 where there are two objects or more; one part is one part


def test_a_detector_that_tiles_the_image_scores_as_its_control(data):
    """Squares of the mean side of the objects, wherever the objects are."""
    batch = data.single(data.indices["test"])
    masks, boxes = batch["mask"], torch.cat(batch["boxes"])
    mean = round(float((boxes[:, 2:] - boxes[:, :2]).mean()))
    scores = {}
    for side in (mean, mean + 3):
        tiles = np.kron(np.arange((24 // side + 1) ** 2).reshape(-1, 24 // side + 1), np.ones((side, side)))
        tiling = torch.from_numpy(tiles[:24, :24]).long().expand_as(masks)
        scores[side] = np.nanmean(adjusted_rand(tiling, masks))
    control = of_tiles(masks, boxes)["ari_fg_tiles"]
    assert scores[mean] == pytest.approx(control) and scores[mean + 3] != pytest.approx(control)
    assert 0.1 < control, "what a detector without eyes is praised for"


def test_numbers_and_pictures_of_the_protocol(data):
    model = spair((3, 24, 24)).eval()
    for suite, split in ((Objects(), "test"), (UnseenObjects(), "test_unseen")):
        found = suite.run(Context(model, data))
        assert {"count_accuracy", "ap50", "ap50_shuffled"} <= found.numbers.keys()
        assert {f"{name}_{split}" for name in ("boxes", "glimpses", "edits")} == found.pictures.keys()
    unseen = [name for name in protocol.evaluate(model, data).numbers if name.startswith("test_unseen/")]
    assert unseen == [f"test_unseen/{name}" for name in found.numbers]


def test_pictures_of_grey_scenes():
    model = spair((1, 24, 24)).eval()
    batch = {"image": torch.rand(3, 1, 24, 24), "boxes": [torch.tensor([[2.0, 2, 9, 9]])] * 3}
    with torch.no_grad():
        assert all(image.shape[2] == 3 for image in pictures(model, batch).values())


def test_edits_change_one_object():
    model = spair((3, 24, 24)).eval()
    batch = {"image": torch.rand(3, 3, 24, 24)}
    codes = model.codes(batch)
    objects = codes["objects"]
    without, moved = (edited["objects"] for edited in edits(model, codes, batch))
    surest = model.encode(batch)["objects"].logit.argmax(1)
    for changed, column in ((without, -1), (moved, 2)):
        places = (changed != objects).unflatten(1, (model.num_cells, -1)).nonzero()
        expected = [[i, int(surest[i]), column % model.code_size] for i in range(3)]
        assert all(place in expected for place in places.tolist())


def test_a_pixel_is_of_what_has_most_of_it():
    share = torch.zeros(1, 2, 1, 3)
    share[0, 0, 0, 0], share[0, 1, 0, 1] = 0.6, 0.4
    share[0, 0, 0, 1] = 0.3
    assert instance_map(share).tolist() == [[[1, 2, 0]]]


def test_boxes_are_drawn_around_their_pixels():
    drawn = with_boxes(np.zeros((1, 3, 8, 10), np.float32), [np.array([[2, 1, 5, 4]])], "#ff0000")
    rows, columns = np.nonzero(drawn[0, 0])
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    grey = with_boxes(np.zeros((1, 1, 8, 10), np.float32), [np.array([[2, 1, 5, 4]])], "#ff0000")
    assert (grey == drawn).all()
    assert ends == [2 * ZOOM, ZOOM, 5 * ZOOM, 4 * ZOOM] and not drawn[0, 1].any() and drawn[0, 0].sum() == 4 * (3 * ZOOM - 1)
