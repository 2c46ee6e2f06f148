"""`python explore.py run=<run folder>`: loads the runs and serves the page."""

import logging
import threading
from pathlib import Path
from typing import Any

from vae_zoo.explorer.state import LoadedRun
from vae_zoo.runs import folder as runs
from vae_zoo.runs.load import load_run
from vae_zoo.utils.console import quiet
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import read_dict
from vae_zoo.utils.memory import keep_freed_memory


def explore_command(cfg: dict[str, Any]) -> None:
    """Serves the page of the runs until the process is stopped."""
    quiet()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio sends itself requests when it starts
    keep_freed_memory()
    try:
        from vae_zoo.explorer.panels import build_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError(
            "explore.py needs gradio, which is not installed; install it: pip install 'vae_zoo[explore]'"
        ) from error
    folders = [cfg["run"]] if isinstance(cfg["run"], str) else cfg["run"]
    loaded = [load(Path(folder).expanduser(), cfg) for folder in folders]
    for run in loaded[1:]:
        one, other = (list(r.model.image_shape) for r in (loaded[0], run))
        if one != other:
            raise UserError(
                f"run={cfg['run']}: images of {one} and {other} cannot be shown together; give runs with equal image shapes"
            )
    page = build_page(loaded)
    page.launch(cfg["host"], cfg["port"], cfg["share"])
    print(f"the explorer is at {page.blocks.local_url}; Ctrl-C stops it", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.blocks.close()


def load(folder: Path, cfg: dict[str, Any]) -> LoadedRun:
    """A run with its data."""
    _, model, data = load_run(folder, cfg)
    numbers = read_dict(folder / "metrics.json")[0]
    numbers |= runs.read_evaluation(folder, numbers)[0]
    return LoadedRun("/".join(folder.absolute().parts[-2:]), model, data, numbers)
