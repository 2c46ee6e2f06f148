"""The page in headless Chromium: sliders, swaps, uploads, objects, links; without an error in the console."""

import os
import statistics
import time
from contextlib import contextmanager
from shutil import which
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.cli.calls import call
from tests.cli.test_contributing import FILES
from tests.commands import served
from tests.conftest import shrink_evaluation
from vae_zoo.utils.files import write_json

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM") or which("chromium") or which("chromium-browser") or which("google-chrome")
WAIT = 60_000  # milliseconds, of a machine that is busy with other tests

MEASURE = """async (walk, share) => {
  const slider = walk.querySelector('input[data-dim]'), now = walk.querySelector('img.now');
  const before = now.src, start = performance.now();
  slider.value = +slider.min + share * (slider.max - slider.min);
  slider.dispatchEvent(new Event('input', {bubbles: true}));
  while (now.src === before) {
    if (performance.now() - start > 20000) throw new Error('the picture does not change');
    await new Promise(resolve => setTimeout(resolve, 2));
  }
  return performance.now() - start;
}"""

SLIDE = """(slider, share) => {
  slider.value = +slider.min + share * (slider.max - slider.min);
  for (const kind of ['input', 'change']) slider.dispatchEvent(new Event(kind, {bubbles: true}));
}"""


@pytest.fixture(scope="module")
def chromium():
    pytest.importorskip("gradio", reason="gradio is not installed; pip install 'vae_zoo[explore]'")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; install it or set CHROMIUM=<path>")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, url: str, width: int = 1280):
    """A page at which nothing may go wrong and which may ask nobody else."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(WAIT)
    wrong = []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    own = f"http://{urlsplit(url).netloc}/"
    page.on("request", lambda request: request.url.startswith((own, "data:", "blob:")) or wrong.append(request.url))
    page.goto(url)
    page.wait_for_selector(".walk img.now")
    yield page
    page.close()
    assert not wrong, wrong


def source(page, selector: str = ".walk img.now") -> str:
    return page.get_attribute(selector, "src")


def changes(page, before: str, selector: str = ".walk img.now") -> str:
    """The new source of a picture, once it has changed."""
    script = "([selector, before]) => document.querySelector(selector)?.src !== before"
    page.wait_for_function(script, arg=[selector, before])
    return source(page, selector)


@pytest.fixture(scope="module")
def address(chromium, finished_run, tmp_path_factory):
    with served(tmp_path_factory.mktemp("explorer"), f"run={finished_run}") as url:
        yield url


def slide(page, place: int, share: float) -> None:
    """Moves a slider as a person does: the picture follows, then the slider is let go."""
    page.locator(".walk input[data-dim]").nth(place).evaluate(SLIDE, share)


def milliseconds(walk) -> float:
    """Median time from a movement of the first slider to the new picture."""
    walk.evaluate(MEASURE, 0.0)
    return statistics.median(walk.evaluate(MEASURE, share) for share in np.linspace(0, 1, 22)[1:])


def test_the_picture_follows_a_slider_within_100_ms(chromium, address):
    with opened(chromium, address) as page:
        assert milliseconds(page.locator(".walk")) <= 100


def test_the_first_page_is_there_within_5_s(chromium, address):
    taken = []
    for _ in range(3):  # the quickest, since other tests run beside this one
        context, start = chromium.new_context(), time.monotonic()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".walk img.now", timeout=WAIT)
        taken.append(time.monotonic() - start)
        context.close()
    assert min(taken) <= 5, taken


def test_undo_reset_and_the_link_bring_settings_back(chromium, address):
    with opened(chromium, address) as page:
        own = source(page)
        slide(page, 0, 0.05)
        first = changes(page, own)
        slide(page, 1, 0.95)
        second = changes(page, first)
        link = page.url
        page.click("[data-do=undo]")
        assert changes(page, second) == first
        page.click("[data-do=reset]")
        assert changes(page, first) == own
        page.click("[data-do=undo]")
        assert changes(page, own) == first
    with opened(chromium, link) as page:
        linked = source(page)
        assert near(page, linked, second)
        page.click("[data-do=reset]")
        assert changes(page, linked) == own


def test_on_a_phone_the_picture_stays_in_sight_of_the_sliders(chromium, address):
    with opened(chromium, address, 390) as page:
        page.locator(".walk input[data-dim]").last.evaluate("slider => slider.scrollIntoView({block: 'end'})")
        page.evaluate("document.querySelector('.walk').style.paddingBottom = '900px'")
        page.evaluate("window.scrollTo(0, document.querySelector('.walk').getBoundingClientRect().top + scrollY + 300)")
        assert 0 <= page.locator(".walk img.now").bounding_box()["y"] < 100


def near(page, one: str, other: str) -> bool:
    """Whether two pictures differ by one grey level at most: a link has three decimals of each value."""
    script = """async sources => {
      const pixels = await Promise.all(sources.map(async source => {
        const image = new Image();
        image.src = source;
        await image.decode();
        const canvas = document.createElement('canvas'), paper = canvas.getContext('2d');
        [canvas.width, canvas.height] = [image.width, image.height];
        paper.drawImage(image, 0, 0);
        return paper.getImageData(0, 0, image.width, image.height).data;
      }));
      return Math.max(...pixels[0].map((value, i) => Math.abs(value - pixels[1][i])));
    }"""
    return page.evaluate(script, [one, other]) <= 1


@pytest.mark.parametrize(
    "link", ["?image=test:99999", "?image=../x", "?image=test:0&run0=z:1,2", "?image=test:0&run0=%3Cb%3E"]
)
def test_a_link_that_does_not_fit_is_told_in_a_sentence(link, chromium, address):
    with opened(chromium, address) as page:
        own = source(page)
        page.goto(f"{address}/{link}")
        page.wait_for_selector(".walk img.now")
        assert source(page) == own
        page.get_by_text("choose test:0" if "image=test:0" not in link else "the link ").first.wait_for()


def test_uploads_of_every_kind_are_shown_or_refused_in_a_sentence(chromium, address, tmp_path):
    rng = np.random.default_rng(0)
    pictures = {"grey.png": (30, 50), "alpha.png": (30, 50, 4), "large.png": (3000, 4000)}
    for name, shape in pictures.items():
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "heavy.png").write_bytes(b"\x89PNG" + bytes(21_000_000))
    refused = {"text.png": "not a picture", "bomb.png": "more than 50,000,000 pixels", "heavy.png": "maximum"}
    with opened(chromium, address) as page:
        for name in pictures:
            before = source(page, ".walk img.image")
            page.set_input_files(".image-row input[type=file]", tmp_path / name)
            changes(page, before, ".walk img.image")
        kept = source(page, ".walk img.image")
        for name, sentence in refused.items():
            page.set_input_files(".image-row input[type=file]", tmp_path / name)
            page.get_by_text(sentence).first.wait_for()
            assert source(page, ".walk img.image") == kept


def test_another_test_image_and_a_draw_from_the_prior_are_shown(chromium, address):
    with opened(chromium, address) as page:
        before = source(page, ".walk img.image")
        page.get_by_role("button", name="Prior sample").click()
        drawn = changes(page, before, ".walk img.image")
        assert source(page) == drawn  # the codes are the drawn ones
        page.get_by_role("button", name="Another").click()
        changes(page, drawn, ".walk img.image")


def test_a_dimension_is_played_and_pictures_and_codes_are_saved(chromium, address, tmp_path):
    with opened(chromium, address) as page:
        own = source(page)
        with page.expect_download() as download:
            page.click("a.save")
        with Image.open(download.value.path()) as image:
            assert image.format == "PNG" and download.value.suggested_filename.endswith(".png")
        page.locator("[data-do=play]").first.click()
        assert changes(page, own).startswith("data:image/webp")
        with page.expect_download() as download:
            page.click("a.save")
        with Image.open(download.value.path()) as image:
            assert image.format == "WEBP" and image.n_frames > 10
        with page.expect_download() as download:
            page.click("[data-do=save]")
        with np.load(download.value.path()) as codes:
            assert {name: code.ndim for name, code in codes.items()} == {"z": 2}


# ---- every method, side by side -------------------------------------------------------------------------------------

SMALL = "data=digits data.size=24 data.subset=200 data.test_size=60 trainer=cpu trainer.max_steps=20 callbacks=none"
MLP = "model/network=mlp model.network.hidden=[16]"
METHODS = {
    "split_vae": MLP,
    "ml_vae": MLP,
    "parted_vae": MLP,
    "mfcvae": "model.facet_dims=[3,3] model.num_clusters=[4,5]",
    "spair": "model.channels=[8,8,8] model.features=8 model.head_hidden=[8] model.what_dim=3",
    "beta_tc_vae": MLP,
    "coarse_fine": f"--config-dir conf model.pool=8 {MLP}",  # of CONTRIBUTING.md
}


@pytest.fixture(scope="module")
def every_method(chromium, tmp_path_factory):
    """The address of a page with a run of each method."""
    folder = tmp_path_factory.mktemp("methods")
    for name in ("coarse_fine.py", "conf/model/coarse_fine.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(FILES[name])
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink_evaluation(monkeypatch)
        for name, words in METHODS.items():
            answer = call(folder, f"train model={name} {SMALL} {words} hydra.run.dir={name}")
            assert answer.code == 0, answer.err
    write_json(folder / "split_vae" / "evaluation" / "metrics.json", {"test/block/z_global/label": 0.5})
    with served(folder, f"run=[{','.join(METHODS)}]", "trust=[coarse_fine]") as url:
        yield url


def tab(page, name: str):
    """Opens a tab. Returns its contents."""
    page.get_by_role("tab", name=name, exact=True).click()
    return page.locator("[role=tabpanel]:visible")


@pytest.mark.slow
def test_every_method_is_walked_in(chromium, every_method):
    with opened(chromium, every_method) as page:
        walks = page.locator(".walk")
        assert walks.count() == len(METHODS)
        for i in range(walks.count()):
            now, before = walks.nth(i).locator("img.now"), walks.nth(i).locator("img.now").get_attribute("src")
            walks.nth(i).locator("input[data-dim]").first.evaluate(SLIDE, 0.02)
            page.wait_for_function("([image, before]) => image.src !== before", arg=[now.element_handle(), before])
            assert milliseconds(walks.nth(i)) <= 100
        chosen = walks.nth(2)  # parted_vae: another class moves the class-related code
        values = chosen.locator("input[data-block=u]").evaluate_all("sliders => sliders.map(s => s.value)")
        old = chosen.locator("select").input_value()
        chosen.locator("select").select_option("3" if old != "3" else "4")
        page.wait_for_function(
            "([walk, old]) => [...walk.querySelectorAll('input[data-block=u]')].some((s, i) => s.value !== old[i])",
            arg=[chosen.element_handle(), values],
        )
        assert {f"run{i}" for i in range(len(METHODS))} <= set(parse_qs(urlsplit(page.url).query))


@pytest.mark.slow
def test_every_panel_of_every_method_shows_pictures_and_follows_the_image(chromium, every_method):
    runs_of = {"Swap": 6, "Groups": 1, "Clusters": 1, "Classes": 1, "Local/global": 1}
    with opened(chromium, every_method) as page:
        for name, count in runs_of.items():
            panel = tab(page, name)
            panel.locator(".strip").first.wait_for()
            page.wait_for_function("([n]) => document.querySelectorAll('[role=tabpanel] .strip').length >= n", arg=[count])
            assert panel.locator(".strip img").evaluate_all("images => images.every(i => i.naturalWidth > 0)")
        before = page.locator("[role=tabpanel]:visible .strip img").first.get_attribute("src")
        page.get_by_label("test image, 0 to 59", exact=True).fill("7")
        changes(page, before, "[role=tabpanel]:not([style*=none]) .strip img")
        panel = tab(page, "Clusters")
        panel.locator("[data-key]").nth(1).click()
        number = panel.locator("[data-key]").nth(1).get_attribute("data-key")
        panel.get_by_text(f"members of cluster {number}, most confident first").wait_for()


@pytest.mark.slow
def test_a_click_removes_moves_copies_and_changes_an_object(chromium, every_method):
    with opened(chromium, every_method) as page:
        panel = tab(page, "Objects")
        scene = panel.locator("svg.scene image")
        scene.wait_for()
        before = panel.locator("svg.scene rect").count()
        assert before > 0

        def redrawn(old: str) -> str:
            page.wait_for_function("old => document.querySelector('svg.scene image').getAttribute('href') !== old", arg=old)
            return scene.get_attribute("href")

        def click(place: int) -> None:
            panel.locator("svg.scene rect").nth(place).dispatch_event("click", {"bubbles": True})

        first = scene.get_attribute("href")
        click(0)
        now = redrawn(first)
        assert panel.locator("svg.scene rect").count() == before - 1
        panel.get_by_label("change", exact=True).check()
        panel.get_by_text("gives it the appearance of another object").wait_for()
        click(0)
        now = redrawn(now)
        panel.get_by_label("copy", exact=True).check()
        panel.get_by_text("the position of its copy").wait_for()
        click(1)
        panel.locator("svg.scene rect.held").wait_for()
        scene.dispatch_event("click", {"bubbles": True})
        now = redrawn(now)
        assert panel.locator("svg.scene rect").count() == before
        panel.get_by_role("button", name="Reset").click()
        assert redrawn(now) == first


@pytest.mark.slow
def test_a_click_on_a_point_shows_its_image_and_on_a_cell_plays_a_traversal(chromium, every_method):
    with opened(chromium, every_method) as page:
        own = source(page, ".thumbnail img")
        panel = tab(page, "Data")
        panel.locator(".scatter circle").first.wait_for()
        panel.locator("svg.scatter").first.locator("circle").nth(5).dispatch_event("click", {"bubbles": True})
        panel.get_by_text("test image").first.wait_for()
        changes(page, own, ".thumbnail img")
        panel.locator("td[data-key]").first.click()
        film = panel.locator("img[src^='data:image/webp']")
        film.first.wait_for()
        assert film.first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 24


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_no_panel_is_wider_than_the_page(width, chromium, every_method):
    with opened(chromium, every_method, width) as page:
        for name in page.get_by_role("tab").all_text_contents():
            if page.get_by_role("tab", name=name, exact=True).is_visible():
                tab(page, name)
                page.wait_for_timeout(1000)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
