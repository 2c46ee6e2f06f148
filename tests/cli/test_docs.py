"""Pages of docs/ name what exists: their commands pass the checks before training, their keys are in conf/."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tests.commands import REPOSITORY
from vae_zoo import config_dir
from vae_zoo.cli import compose
from vae_zoo.config import check

DOCS = REPOSITORY / "docs"
PAGES = {str(p.relative_to(DOCS)): p.read_text() for p in sorted(DOCS.rglob("*.md")) if p.parent.name != "journal"}
PAGES |= {"README.md": (REPOSITORY / "README.md").read_text()}
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GROUPS = "model|data|trainer|sweep|callbacks|logger|paths|evaluation"
OTHERS = (".py", ".yaml", ".csv", ".json", ".safetensors", ".md", ".decode")  # files and methods that look like keys
OF_LAUNCHERS = re.compile(r"[~+]*(launcher=|hydra\.launcher)")  # whose plugins may not be installed


def commands(text: str, script: str) -> list[list[str]]:
    """The words of each `python <script>.py ...` of a page, with a name in place of <what the reader fills in>."""
    lines = "\n".join(FENCE.findall(text)).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"<[^<>\n]+>", "given", line) for line in lines if line.startswith(f"python {script}.py ")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


def first_of(word: str) -> str:
    """A word with the first of the values that a sweep tries."""
    key, is_set, value = word.partition("=")
    found = re.match(r"(?:tag\(\w+,)?(?:interval|choice|range)\((\w+)", value)
    return f"{key}={found[1]}" if found else word if {"[", "{"} & {*value} or not is_set else f"{key}={value.split(',')[0]}"


def composed(script: str, words: list[str]) -> DictConfig:
    """The config of one command."""
    compose.register_resolvers()
    try:
        return compose.compose(script, words)
    finally:
        GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """All dotted keys that conf/ has, and their beginnings."""
    spec = importlib.util.spec_from_file_location("config_reference", REPOSITORY / "tools" / "config_reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    found = {
        key for name in ("train", "evaluate", "export") for key, *_ in reference.Choice(config_dir() / f"{name}.yaml").keys
    }
    for folder, _, _ in reference.GROUPS.values():
        group = folder.replace("/", ".")
        for path in (config_dir() / folder).glob("*.yaml"):
            plain = [key for key, *_ in reference.Choice(path).keys]
            found |= {*plain, *(f"{group}.{key}" for key in plain)}
    return {".".join(parts[:n]) for parts in (key.split(".") for key in found) for n in range(1, len(parts) + 1)}


def _write_arrays(path: Path, keys: set[str]) -> None:
    arrays = dict.fromkeys(keys, np.zeros((2, 64, 64), np.uint8))
    if path.suffix == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.update(arrays)
    else:
        np.savez(path, **arrays)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if commands(text, "train")])
def test_training_commands_pass_the_checks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands(PAGES[page], "train"):
        if {"--config-dir", "--help"} & {*words} or any(word.startswith("resume=") for word in words):
            continue
        words = [first_of(word) for word in words if word != "-m" and not OF_LAUNCHERS.match(word)]
        if "data=arrays" in words:  # whose shape of images is read from the file
            (path,) = [Path(word.partition("=")[2]) for word in words if word.startswith("data.path=")]
            keys = {"images"} | {word.partition("=")[2] for word in words if word.startswith("data.keys.images=")}
            _write_arrays(tmp_path / path.name, keys)
        words = [word for word in words if "given" not in word.partition("=")[0] and not word.startswith("experiment=given")]
        check.check_train(compose.settings(composed("train", words)))


READERS = [(page, script) for page, text in PAGES.items() for script in ("evaluate", "export") if commands(text, script)]


@pytest.mark.parametrize("page, script", READERS)
def test_commands_that_read_a_run_compose(page, script):
    for words in commands(PAGES[page], script):
        if "--config-dir" not in words:
            assert composed(script, words) is not None


@pytest.mark.parametrize("page", PAGES)
def test_named_experiments_and_keys_exist(page, keys):
    for name in re.findall(r"experiment=([\w/]+)", PAGES[page]):
        assert (config_dir() / "experiment" / f"{name}.yaml").is_file(), name
    named = re.findall(rf"(?<![\w/.+])((?:{GROUPS})(?:\.\w+)+)(?![\w(./-])", PAGES[page])
    assert not {key for key in named if key not in keys and Path(key).suffix not in OTHERS}


def test_pictures_and_pages_that_pages_link_exist():
    """Of docs/, its journal and the parts of CONTRIBUTING.md that docs/ includes; generated pages are left out."""
    missing = []
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text()
        for part in re.findall(r"^--8<-- \"CONTRIBUTING.md:(\w+)\"$", text, re.MULTILINE):
            included = (REPOSITORY / "CONTRIBUTING.md").read_text()
            text += included.split(f"--8<-- [start:{part}]")[1].split(f"--8<-- [end:{part}]")[0]
        for target in re.findall(r"\]\(([^)#\s]+\.(?:md|png|jpg|webp))[^)]*\)", FENCE.sub("", text)):
            generated = "reference/" in target or "reference" in page.parts
            if not target.startswith("http") and not generated and not (page.parent / target).exists():
                missing.append(f"{page.relative_to(DOCS)}: {target}")
    assert not missing
