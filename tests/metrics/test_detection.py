"""Scores of boxes, numbers and masks with known answers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from vae_zoo.metrics import detection
from vae_zoo.metrics.detection import adjusted_rand, average_precision, connected_components, recall

BOX, OTHER, FAR = [2.0, 2, 10, 10], [14.0, 2, 22, 10], [2.0, 14, 10, 22]


def detections(*scored):
    """(score, box) pairs of one image."""
    boxes = torch.tensor([box for _, box in scored]).reshape(-1, 4)
    return {
        "boxes": boxes,
        "scores": torch.tensor([s for s, _ in scored]),
        "labels": torch.zeros(len(scored), dtype=torch.long),
    }


def truth(*boxes):
    return torch.tensor(boxes).reshape(-1, 4)


def test_perfect_boxes_and_a_better_scored_false_one_on_an_empty_image():
    found, boxes = [detections((0.9, BOX), (0.8, OTHER)), detections()], [truth(BOX, OTHER), truth()]
    assert average_precision(found, boxes) == pytest.approx({"ap50": 1, "map": 1})
    found[1] = detections((0.99, FAR))
    assert average_precision(found, boxes)["ap50"] == pytest.approx(2 / 3, abs=1e-3)


def test_boxes_beyond_those_of_an_image_are_false():
    """What the published code of SPAIR passes over: recall up to a half at precision 1, then 2/3."""
    found = [detections((0.9, BOX), (0.8, FAR)), detections((0.7, BOX))]
    assert average_precision(found, [truth(BOX), truth(BOX)])["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-3)


def test_looser_boxes_count_at_smaller_iou():
    loose = [2.0, 2, 10, 14]  # IoU 2/3
    scores = average_precision([detections((0.9, loose))], [truth(BOX)])
    assert scores["ap50"] == 1 and scores["map"] == pytest.approx(0.4, abs=1e-3)  # 0.5, 0.55, 0.6, 0.65 of ten


def test_without_objects_there_is_no_average_precision():
    assert np.isnan(average_precision([detections()], [truth()])["ap50"])


def test_recall_takes_a_box_once():
    shifted = [4.0, 2, 12, 10]  # IoU 0.6
    found = [torch.tensor([BOX, shifted]), torch.empty(0, 4)]
    assert recall(found, [truth(BOX), truth(OTHER)], [0.3, 0.5]) == [0.5, 0.5]
    assert recall([torch.tensor([shifted])], [truth(BOX, OTHER)], [0.5, 0.7]) == [0.5, 0.0]


def test_recall_pairs_boxes_anew_for_each_iou():
    """The pairs of the largest sum of IoU, 0.481 + 0.538, would leave out the one pair above 0.75."""
    wanted = torch.tensor([[0.143, 0.481], [0.538, 0.818]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "box_iou", lambda found, truth: wanted)
        assert recall([torch.zeros(2, 4)], [torch.zeros(2, 4)], [0.1, 0.3, 0.5, 0.75, 0.9]) == [1, 1, 0.5, 0.5, 0]


def test_adjusted_rand_index():
    generator = torch.Generator().manual_seed(0)
    found, true = torch.randint(4, (6, 8, 8), generator=generator), torch.randint(3, (6, 8, 8), generator=generator)
    true[5] = 0
    for foreground in (True, False):
        scores = adjusted_rand(found, true, foreground)
        for i in range(5):
            kept = (true[i] > 0).flatten() if foreground else slice(None)
            assert scores[i] == pytest.approx(adjusted_rand_score(true[i].flatten()[kept], found[i].flatten()[kept]))
    assert np.isnan(adjusted_rand(found, true)[5])
    names = torch.tensor([5, 3, 1])[true]
    np.testing.assert_allclose(adjusted_rand(names, true)[:5], 1)
    np.testing.assert_allclose(adjusted_rand(torch.zeros_like(true), true)[:5], 0, atol=1e-12)
    one = (torch.arange(64).view(1, 8, 8) < 20).long()
    assert adjusted_rand(one, one) == 1  # a single part in both


def test_connected_components():
    image = np.full((1, 3, 24, 24), 0.5, np.float32)
    image[0, 0, 2:10, 2:10], image[0, 1, 2:10, 14:22], image[0, 2, 20, 20] = 1, 0, 1  # one pixel is no object
    assert sorted(connected_components(image)[0].tolist()) == sorted([BOX, OTHER])
    assert connected_components(np.zeros((1, 3, 8, 8), np.float32))[0].shape == (0, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_commonest_colour_is_that_of_a_search_over_whole_pixels(channels):
    for seed in range(50):
        image = np.random.default_rng(seed).integers(0, 3, (channels, 5, 7)).astype(np.float32) / 255
        colours, number = np.unique(image.reshape(channels, -1), axis=1, return_counts=True)
        assert (detection.commonest_colour(image) == colours[:, number.argmax()]).all()
