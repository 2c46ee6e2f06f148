"""Charts show what they are given, twice the same, and touch no global state."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from vae_zoo.figures import theme
from vae_zoo.figures.charts import MAX_POINTS, cluster_sizes, curves, heat_map, kl_per_dimension

SVG = "{http://www.w3.org/2000/svg}"


def area(picture, colour):
    return (picture == theme.rgb(colour)).all(-1).sum()


def points(svg, line=0):
    """[N, 2] pixels of one line of a chart."""
    path = ElementTree.fromstring(svg).findall(f"./{SVG}svg/{SVG}g")[line].find(f"{SVG}path").get("d")
    return np.array([pair.split() for pair in re.split("[ML]", path)[1:]], float)


def texts(svg):
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_kl_bars_have_the_colour_of_their_block_and_the_height_of_their_value():
    picture = kl_per_dimension({"content": np.array([2.0, 2.0, 0.005]), "style": np.array([1.0, 0.0])})
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    bars = picture[65:]  # below the legend, which has patches of the same colours
    assert area(bars, theme.SERIES[0]) / area(bars, theme.SERIES[1]) == pytest.approx(4, rel=0.05)
    assert area(bars, theme.SERIES[2]) == 0


def test_kl_draws_inactive_undefined_and_many_dimensions():
    kl_per_dimension({"z": np.zeros(3)})
    kl_per_dimension({"z": np.array([np.nan, 1.0])})
    assert kl_per_dimension({"z_$a": np.ones(300), "z_b": np.ones(1)}).shape[1] <= 1440


def test_heat_map_colours_grow_with_the_value_and_nan_has_none():
    picture = heat_map([[0.0, 1.0], [np.nan, 0.0]], ["a", "b"], ["x", "y"], "")
    assert area(picture, theme.ACCENT) > 1000
    low = area(heat_map([[0.0, 0.0]], ["a"], ["x", "y"], ""), "#eef1ee")
    assert area(heat_map([[0.0, np.nan]], ["a"], ["x", "y"], ""), "#eef1ee") == pytest.approx(low / 2, rel=0.1)
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        heat_map([[0.0]], ["a"], ["x", "y"], "")


def test_cluster_sizes_have_a_panel_for_each_facet_and_bars_as_high_as_their_share():
    shares = {"facet0": np.array([0.1, 0.6, 0.3]), "facet1": np.array([0.25, 0.25, 0.25, 0.25])}
    picture = cluster_sizes(shares, used=0.005)
    columns = (picture == theme.rgb(theme.SERIES[0])).all(-1).sum(0)
    heights = columns[columns > 0.9 * columns[columns > 0].min()]
    assert (np.diff(heights[heights > 0]) <= 2).all(), "from the largest to the smallest; the broken line hides two pixels"
    assert heights.max() / heights.min() == pytest.approx(6, rel=0.1)
    assert area(picture[:, : picture.shape[1] // 2], theme.SERIES[1]) == 0 < area(picture, theme.SERIES[1])
    assert cluster_sizes({"z": np.array([1.0, 0.0])}, used=0.005).shape[1] < picture.shape[1]
    assert cluster_sizes({f"facet{j}": np.ones(200) / 200 for j in range(3)}, used=0.005).dtype == np.uint8


def test_curves_join_the_points_over_gaps():
    train, val = [3.0, 2.0, 1.0, 0.0], [np.nan, 1.0, np.nan, 1.0]
    svg = curves([0, 10, 20, 30], {"train": train, "val": val})
    first, second = points(svg, 0), points(svg, 1)
    assert np.allclose(np.diff(first[:, 0]), np.diff(first[:, 0])[0], atol=0.11)  # equal steps; y grows downwards
    assert (np.diff(first[:, 1]) > 0).all()
    assert (second[:, 0] == first[[1, 3], 0]).all() and second[0, 1] == second[1, 1] == first[2, 1]
    assert texts(svg)[-1] == "train 0val 1"


def test_curves_escape_names():
    name = "</svg><script>alert('1')</script>\"&"
    svg = curves([0, 1], {name: [1.0, 2.0]})
    assert "<script" not in svg and svg.count("</svg>") == 2
    assert texts(svg)[-1] == f"{name} 2"


def test_curves_are_small_deterministic_and_keep_the_extremes():
    y = np.random.default_rng(0).normal(size=100_000)
    y[54_321] = 9.0
    svg = curves(np.arange(100_000), {"loss": y})
    assert svg == curves(np.arange(100_000), {"loss": y}) and len(svg) < 12_000
    line = points(svg)
    assert len(line) <= MAX_POINTS + 2
    assert line[line[:, 1].argmin(), 0] == pytest.approx(54_321 / 99_999 * line[-1, 0], abs=0.1)


def test_a_steep_start_does_not_flatten_the_rest():
    steps = np.arange(100)
    y = np.where(steps < 5, 5000.0, 100 - steps)
    assert np.ptp(points(curves(steps, {"loss": y}))[10:, 1]) > 100  # of 132 pixels
    assert np.ptp(points(curves(steps, {"loss": y}, log=True))[10:, 1]) < 100  # a logarithmic axis shows everything


def test_logarithmic_axis():
    svg = curves([0, 1, 2, 3], {"loss": [100.0, 0.0, 10.0, 1.0]}, log=True)
    line = points(svg)
    assert len(line) == 3 and np.allclose(np.diff(line[:, 1]), np.diff(line[:, 1])[0], atol=0.11)
    assert {"1", "10", "100"} <= set(texts(svg)) and texts(svg)[-1] == "loss 1"


@pytest.mark.parametrize(
    "y",
    [
        [],
        [np.nan, np.nan],
        [np.inf, 1.0],
        [0.0, 0.0],
        [1e-9, 2e-9],
        [1e-320, 2e-320],
        [-1e29, 1e29],
        [1e300, 1.0],
        [0.99999, 0.99998],
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_curves_draw_anything(y, log):
    svg = curves(np.arange(len(y)), {"x": y}, log)
    assert "nan" not in svg and "inf" not in svg
    ElementTree.fromstring(svg)


def test_charts_leave_pyplot_and_its_settings_alone():
    code = """
import sys, numpy as np
from vae_zoo.figures.charts import curves, heat_map, kl_per_dimension
curves([0, 1], {"a": [0, 1]})
assert "matplotlib" not in sys.modules
import matplotlib
keys = "font.size", "axes.facecolor", "text.parse_math"
before = [matplotlib.rcParams[key] for key in keys]
kl_per_dimension({"z": np.ones(2)}), heat_map(np.ones((1, 1)), ["a"], ["b"], "c")
assert [matplotlib.rcParams[key] for key in keys] == before and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
