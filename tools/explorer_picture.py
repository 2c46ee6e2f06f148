"""Make the animated picture of the explorer for README.md: docs/figures/explorer.webp, about a minute.

Serves the run of `ml_vae/faces` of tools/gallery.py (trained if it is missing), moves sliders in headless Chromium
and saves the screenshots. The same run and the same Chromium give the same picture.
`python tools/explorer_picture.py run=<folder>` takes another run.
"""

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from shutil import which

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import gallery  # noqa: E402

SIZE, SHOWN = (1100, 560), 820  # pixels: of the browser's window, width of the picture
MOST_BYTES = 1_500_000
# slider by place, and the shares of its range that it goes through
MOVES = ((0, (0.05, 0.95, 0.5)), (3, (0.9, 0.1, 0.5)), (10, (0.05, 0.95, 0.4)), (12, (0.95, 0.1)))
STEPS = 9  # frames from one share to the next
MOVE = """([place, share]) => {
  const slider = document.querySelectorAll('.walk fieldset > .dim input')[place];
  slider.value = +slider.min + share * (slider.max - slider.min);
  slider.dispatchEvent(new Event('input', {bubbles: true}));
}"""


def frame(page: Page) -> Image.Image:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return image.resize((SHOWN, SHOWN * SIZE[1] // SIZE[0]), Image.Resampling.LANCZOS)


def frames(page: Page) -> list[Image.Image]:
    page.wait_for_selector(".walk img.now")
    page.wait_for_timeout(1000)
    found = [frame(page)] * 6
    for place, shares in MOVES:
        now = page.locator(".walk fieldset > .dim input").nth(place).evaluate("s => (s.value - s.min) / (s.max - s.min)")
        for share in shares:
            for value in np.linspace(now, share, STEPS + 1)[1:]:
                before = page.get_attribute(".walk img.now", "src")
                page.evaluate(MOVE, [place, float(value)])
                page.wait_for_function("before => document.querySelector('.walk img.now').src !== before", arg=before)
                found.append(frame(page))
            now = share
    return found


def main() -> None:
    given = [word.removeprefix("run=") for word in sys.argv[1:] if word.startswith("run=")]
    run = given[0] if given else gallery.folder(gallery.PANELS[1].words)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "explore.py", f"run={run}", f"port={port}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process, sync_playwright() as playwright:
        try:
            assert process.stdout is not None
            if not any("the explorer is at" in line for line in process.stdout):
                sys.exit("the explorer did not start")
            chromium = os.environ.get("CHROMIUM") or which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            page.goto(f"http://127.0.0.1:{port}/?image=test:5")
            found = frames(page)
            browser.close()
        finally:
            process.terminate()
    out = gallery.PICTURES / "explorer.webp"
    found[0].save(out, save_all=True, append_images=found[1:], duration=90, loop=0, quality=70, method=4)
    print(f"{out}: {len(found)} frames, {out.stat().st_size / 1e3:.0f} kB")
    assert out.stat().st_size <= MOST_BYTES, f"the picture must have at most {MOST_BYTES} bytes"


if __name__ == "__main__":
    main()
