"""Points and the block-factor matrix as HTML that can be clicked."""

import re

import numpy as np
import pytest

pytest.importorskip("gradio")

from tests.explorer.test_state import run_of  # noqa: E402
from vae_zoo.explorer.panels.data import plane, svg, table  # noqa: E402


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_every_image_is_a_point_with_its_number_and_the_colour_of_its_value(kind):
    values = np.array([0, 5, 5, 10], dtype=kind)
    html = svg(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]), values)
    points = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="4" fill="hsl\((\d+) 65% 48%\)" data-key="(\d+)"', html)
    assert points == [("10.0", "350.0", "0", "0"), ("490.0", "350.0", "150", "1"), ("10.0", "10.0", "150", "2")] + [
        ("490.0", "10.0", "300", "3")
    ]
    assert re.findall(r"</span> (\d+)", html) == ["0", "5", "10"]


def test_a_plane_shows_the_directions_of_largest_variance_and_a_line_one_dimension():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(200, 5)) * [1, 9, 1, 5, 1]
    places = plane(codes, "PCA")
    assert places.min() == 0 and places.max() == 1
    assert (
        abs(np.corrcoef(places[:, 0], codes[:, 1])[0, 1]) > 0.99 and abs(np.corrcoef(places[:, 1], codes[:, 3])[0, 1]) > 0.9
    )
    assert plane(codes[:, :1], "PCA")[:, 1].tolist() == [0] * 200


def test_only_cells_of_the_models_blocks_can_be_clicked_and_names_are_escaped():
    scores = {"z": {"size": 0.5, "<b>": None}, "pixels": {"size": 0.25, "<b>": 1.0}}
    html = table(scores, run_of("beta_tc_vae"))
    assert re.findall(r'data-key="([^"]+)"', html) == ["z|size", "z|&lt;b&gt;"]
    assert "<b>" not in html and ">0.50<" in html and ">–<" in html
