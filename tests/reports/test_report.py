"""The report holds what the folder holds, nothing of it can break out, and nothing is fetched."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vae_zoo.figures.encode import to_png
from vae_zoo.reports.report import EARLIER, closing_lines, write_report

EVIL = "</svg></style></pre><script src='http://evil.example/x.js'>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def picture(value):
    return np.full((4, 6, 3), value, np.uint8)


@pytest.fixture
def run(tmp_path):
    """A finished run; the colour of a figure is its step."""
    folder = tmp_path / "ml_vae-dsprites" / "seed3_1f3a9c2b"
    (folder / "figures").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "seed: 3\nmodel:\n  _target_: vae_zoo.models.MLVAE\n  beta: 1.5\ndata:\n  name: dsprites\n"
    )
    (folder / "metrics.csv").write_text(
        "epoch,step,train/loss,train/rec,val/loss,val/kl_z10,val/kl_z2,lr-Adam\n"
        "0,49,30.5,20.25,,,,0.001\n0,99,25.5,18.0,,,,0.001\n0,99,,,27.75,1.0,2.0,\n1,149,24.5,17.5,,,,0.001\n1,199,2"
    )
    scores = {"test/elbo": -41.23456, "test/mig": 0.3125, "train/images_per_second": 9126.3, "plain": 5.0}
    scores |= {"test/block/content/shape": 0.75, "test/block/style/scale": 0.5, "test/facet2/nmi": 0.1}
    (folder / "metrics.json").write_text(json.dumps(scores))
    for step in (10, 20, 100):
        (folder / "figures" / f"swap_content_{step}.png").write_bytes(to_png(picture(step)))
    first, second = (Image.fromarray(picture(value)) for value in (0, 255))
    first.save(folder / "figures" / "moves_100.gif", save_all=True, append_images=[second])
    (folder / "figures" / "note_100.txt").write_text("not a figure")
    facts = {
        "command": "python train.py model=ml_vae seed=3",
        "state": "finished",
        "started": "2026-01-12T14:03:22",
        "seconds": 3723.4,
        "versions": {"torch": "2.9.0"},
        "hardware": "2 x CPU",
        "commit": "4f2c9d1",
        "blocks": [{"name": "content", "size": 10, "kind": "gaussian", "holds": "content shared by all images of a group"}],
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


class Page(HTMLParser):
    """Tags, the visible text, and every URL that a browser would fetch."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.urls, self.text, self.handlers, self._hidden = [], [], "", [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._hidden = tag in ("style", "script")
        self.urls += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += "" if self._hidden else data

    def pictures(self):
        return [Image.open(BytesIO(b64decode(url.split(",")[1]))) for url in self.urls]


def read(folder, **options):
    return Page(write_report(folder, **options).read_text())


def test_report_shows_what_the_run_folder_holds(run):
    page = read(run)
    for text in (
        ["ml_vae on dsprites, seed 3", "finished", "2026-01-12 14:03:22", "ml_vae-dsprites/seed3_1f3a9c2b"]
        + [
            "python train.py model=ml_vae seed=3",
            "-41.23",
            "0.3125",
            "9,126",
            "1:02:03",
            "beta: 1.5",
            "2.9.0",
            "2 x CPU",
        ]
        + ["4f2c9d1", "content shared by all images of a group", "test/block/content", "test/facet2", "plain"]
    ):
        assert text in page.text, text


def test_train_and_val_of_a_term_share_a_chart_in_natural_order(run):
    html = write_report(run).read_text()
    charts = re.findall(r'<div class="chart"><h3>(.*?)</h3>(.*?)</div>', html)
    assert [name for name, _ in charts] == ["loss", "rec", "kl_z2", "kl_z10", "lr-Adam"]
    assert "train 2<" in charts[0][1] and "val 27.75<" in charts[0][1]  # the torn last line gave its one number
    assert "val" not in charts[1][1]


def test_blocks_are_set_against_factors(run):
    rows = re.search(r'<table class="probes">(.*?)</table>', write_report(run).read_text(), re.DOTALL)[1]
    cells = [re.sub("<.*?>", " ", row).split() for row in rows.strip().split("</tr>")[:-1]]
    assert cells == [["shape", "scale"], ["content", "0.75", "–"], ["style", "–", "0.50"]]


@pytest.mark.parametrize(
    ("score", "untrained", "holds"),
    [(0.6, None, True), (0.2, None, False), (0.6, 0.57, False), (0.6, 0.3, True), (1.0, 0.93, True)],
)
def test_a_block_holds_a_factor_only_if_it_is_ahead_of_an_untrained_encoder(run, score, untrained, holds):
    numbers = json.loads((run / "metrics.json").read_text()) | {"test/block/content/shape": score}
    numbers |= {} if untrained is None else {"test/block/untrained/shape": untrained}
    (run / "metrics.json").write_text(json.dumps(numbers))
    assert (f"holds shape ({score:.2f})" in read(run).text) is holds


@pytest.mark.parametrize(("worth", "is_unused"), [(1.25, False), (0.0004, True)])
def test_the_headline_of_two_blocks_is_the_pair_and_an_unused_block_is_told_on_top(run, worth, is_unused):
    numbers = json.loads((run / "metrics.json").read_text())
    numbers |= {"test/separation": 0.875, "test/worth": worth, "test/worth/content": worth, "test/worth/style": 2.0}
    (run / "metrics.json").write_text(json.dumps(numbers))
    html = write_report(run).read_text()
    names = re.findall(r'<div class="card(?: flawed)?"><span class="muted">(.*?)</span>', html)
    assert names == ["test/separation", "test/worth", "test/elbo"]
    assert html.count('<div class="card flawed">') == 2 * is_unused
    text = " ".join(Page(html).text.split())
    assert ("unused: the decoder ignores it (worth 0.0004)" in text) == is_unused
    assert ("swapping it changes the decoded image by 1.25 times the reconstruction error" in text) != is_unused
    assert ("unused: content" in closing_lines(run)) == is_unused


def test_latest_figure_comes_first_and_earlier_ones_are_folded(run):
    html = write_report(run).read_text()
    *steps, animation = Page(html).pictures()  # the swap of blocks is what a reader should see first
    assert animation.n_frames == 2
    assert [image.getpixel((0, 0))[0] for image in steps] == [100, 20, 10]
    assert html.index("swap_content · step 100") < html.index("2 earlier") < html.index("swap_content · step 20")


def test_many_figures_are_thinned_evenly(run):
    for step in range(200, 300):
        (run / "figures" / f"swap_content_{step}.png").write_bytes(to_png(picture(0)))
    page = read(run)
    assert len(page.urls) == 2 + EARLIER
    assert "step 299" in page.text and "step 10" in page.text


def test_report_needs_nothing_but_itself(run):
    page = read(run)
    assert page.urls and all(url.startswith("data:image/") for url in page.urls)
    assert not {"script", "link", "iframe", "object", "a"} & set(page.tags)
    html = (run / "report.html").read_text()
    assert "url(" not in html and "@import" not in html
    assert set(re.findall(r"https?://[^\"' ]*", html)) == {"http://www.w3.org/2000/svg"}  # a namespace, not a request


def test_no_string_breaks_out(run):
    (run / "config.yaml").write_text(f"seed: {json.dumps(EVIL)}\nmodel: {json.dumps(EVIL)}\n")
    key = EVIL.replace(",", "").replace('"', "")
    (run / "metrics.csv").write_text(f"epoch,step,train/{key},{key}\n0,1,1.0,2.0\n0,2,1.0,2.0\n")
    (run / "metrics.json").write_text(json.dumps({EVIL: 1.0, f"test/block/{EVIL}/{EVIL}": 0.5}))
    (run / "figures" / (EVIL.replace("/", "") + "_7.png")).write_bytes(to_png(picture(7)))
    facts = dict.fromkeys(["command", "state", "started", "hardware", "commit", "error"], EVIL)
    facts |= {"blocks": [dict.fromkeys(["name", "size", "kind", "holds"], EVIL)], "versions": {EVIL: EVIL}}
    (run / "run.json").write_text(json.dumps(facts))
    page = read(run)
    assert "script" not in page.tags and not page.handlers
    assert all(url.startswith("data:image/") for url in page.urls)
    assert page.tags.count("svg") == 2  # one chart of two lines, with its inner svg
    assert page.text.count("<script src=") >= 15  # shown as text, everywhere


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.csv", "metrics.json", "run.json", "figures", "everything", "broken"]
)
def test_a_folder_with_gaps_has_a_report(run, name):
    for path in list(run.iterdir()):
        if path.is_file() and name == "broken":
            path.write_bytes(b'{"test/elbo": \xff\0[,\n:')
        elif path.is_file() and name in (path.name, "everything"):
            path.unlink()
        elif path.is_dir() and name in (path.name, "everything"):
            path.rename(run.parent / "away")
        elif path.is_dir() and name == "broken":
            (path / "swap_content_100.png").write_bytes(b"\x89PNG torn")
    page = read(run)
    if name == "broken":
        assert "step 20" in page.text and "step 100" in page.text  # the animation of step 100 is whole
    if name in ("config.yaml", "everything"):
        assert "ml_vae-dsprites/seed3_1f3a9c2b" in page.text


def test_a_failed_run_says_why(run):
    (run / "run.json").write_text(json.dumps({"state": "failed", "error": "kl_where is NaN at step 12"}))
    html = write_report(run).read_text()
    assert 'class="state failed"' in html and '<pre class="error">kl_where is NaN at step 12</pre>' in html


def test_report_is_the_same_twice_and_leaves_no_other_file(run):
    first = write_report(run).read_bytes()
    before = sorted(run.iterdir())
    assert write_report(str(run)).read_bytes() == first
    assert sorted(run.iterdir()) == before


def test_evaluation_has_its_own_numbers_figures_and_place(run, tmp_path):
    place = run / "evaluation"
    (place / "figures").mkdir(parents=True)
    (place / "metrics.json").write_text('{"test/sap": 0.0625}')
    (place / "figures" / "clusters.png").write_bytes(to_png(picture(77)))
    out = write_report(run, place / "report.html", metrics=place / "metrics.json", figures=place / "figures")
    page = Page(out.read_text())
    assert out == place / "report.html" and not (run / "report.html").exists()
    assert "0.0625" in page.text and "-41.23" not in page.text and "clusters" in page.text
    assert [image.getpixel((0, 0))[0] for image in page.pictures()] == [77]
