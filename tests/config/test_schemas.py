"""The schemas say what the constructors say, and every config file passes them."""

import copy
import importlib.util
import inspect
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from pydantic import Field

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config import check, schemas
from vae_zoo.config import types as kinds
from vae_zoo.config.settings import known, schema_of, targets
from vae_zoo.data import Digits, DSprites, Faces
from vae_zoo.data.sets import dsprites
from vae_zoo.runs.load import build

ARRAYS = Path(tempfile.mkdtemp()) / "images.npy"
np.save(ARRAYS, np.zeros((3, 32, 32), np.uint8))
NEEDED = {  # by a choice that does not go alone
    "arrays": [f"data.path={ARRAYS}"],
    "huggingface": ["data.path=somewhere"],
    "image_folder": ["data.path=somewhere"],
    "fc_vlae": ["model=mfcvae"],
    "conv_vlae": ["model=mfcvae"],
    "vade": ["model=vade"],
}


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (config_dir() / group).glob("*.yaml") if not p.stem.startswith("_"))


def composed(*words: str) -> dict[str, Any]:
    """The checked config of these words, which is the caller's to change."""
    variables = frozenset((name, value) for name, value in os.environ.items() if name.startswith(("WANDB_", "VAE_ZOO_")))
    return copy.deepcopy(_composed(variables, *words))


@cache
def _composed(variables: frozenset[tuple[str, str]], *words: str) -> dict[str, Any]:  # the files of conf/ read them
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return check.check_train(compose("train", list(words)))


FILES = [(g, c) for g in ("model", "data", "trainer", "callbacks", "logger") for c in choices(g)]
FILES += [(g, c) for g in ("model/network", "model/likelihood", "model/lr_schedule", "debug", "paths") for c in choices(g)]


@pytest.mark.parametrize("group, choice", FILES)
def test_every_choice_passes_the_check(group, choice):
    composed(f"{group}={choice}", *NEEDED.get(choice, []))


@pytest.mark.parametrize("group", ["model", "data", "trainer", "callbacks", "logger", "model/network", "model/likelihood"])
def test_every_target_of_a_choice_has_a_schema(group):
    for choice in choices(group):
        assert not targets_of(composed(f"{group}={choice}", *NEEDED.get(choice, []))) - {*targets()}, choice


EXPERIMENTS = [
    str(p.relative_to(config_dir() / "experiment").with_suffix(""))
    for p in sorted(config_dir().rglob("experiment/*/*.yaml"))
]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_passes_the_check(experiment):
    composed(f"experiment={experiment}", *NEEDED.get(experiment, []))


@pytest.mark.parametrize("choice", choices("model"))
def test_every_model_is_built_from_its_file(choice):
    model = build(composed(f"model={choice}", "data=digits")["model"])
    assert set(model.blocks) and model.image_shape == (1, 32, 32)


@pytest.mark.parametrize("choice", choices("data"))
def test_every_data_set_is_built_from_its_file(choice):
    cfg = composed(f"data={choice}", *NEEDED.get(choice, []))["data"]
    assert build(cfg).image_shape == tuple(cfg["image_shape"])


def test_every_schema_belongs_to_a_file_or_is_written_in_by_hand():
    """What no file uses is there to be chosen at the command line."""
    used = set().union(*(targets_of(composed(f"{g}={c}", *NEEDED.get(c, []))) for g, c in FILES))
    by_hand = {
        "torch.optim.AdamW",
        "vae_zoo.sweeps.pruning.Pruning",  # the search gives it to its jobs
        "vae_zoo.nets.RandomAffine",
        *(f"vae_zoo.nets.{name}" for name in ("Identity", "MixedPatchShuffle", "GaussianBlur", "HighLowPass")),
        *(f"vae_zoo.schedules.{name}" for name in ("Constant", "Linear", "Cosine", "Cyclic", "Staircase", "Plateau")),
    }
    assert {*targets()} - used <= by_hand


def targets_of(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set().union({node["_target_"]} if "_target_" in node else set(), *map(targets_of, node.values()))
    return set()


# ---- the settings of a target and its constructor -------------------------------------------------------------------


def test_settings_are_those_of_the_constructors():
    written = tools_settings()
    assert written.FILE.read_text() == written.text(), "a constructor has changed: make settings"


def test_a_range_without_a_name_is_refused():
    class Nameless:
        def __init__(self, size: Annotated[int, Field(ge=7)]): ...

    with pytest.raises(TypeError, match="give .* a name in vae_zoo/config/types.py"):
        tools_settings().about(Nameless)


def tools_settings():
    path = Path(__file__).parents[2] / "tools" / "settings.py"
    spec = importlib.util.spec_from_file_location("tools_settings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Components, and what follows the length of the run, are chosen by the config.
CHOSEN = {"optimizer", "discriminator_optimizer", "supervised_optimizer", "lr_schedule", "schedule"}
CHOSEN |= {"network", "object_network", "local_network", "likelihood", "view"}


@pytest.mark.parametrize("choice", [c for c in choices("model") if c != "vade"])
def test_a_model_of_a_notebook_is_that_of_its_file(choice):
    """The defaults of a constructor are the values of its file; a schedule over the run ends at the constructor's number."""
    node = composed(f"model={choice}")["model"]
    defaults = tools_settings().arguments(check.locate(node["_target_"], "model"))
    for name, value in node.items():
        if name.startswith("_") or name in CHOSEN or defaults[name].default is inspect.Parameter.empty:
            continue
        default = defaults[name].default
        if isinstance(value, dict):
            value = build(value)
            value = value.end if value != default and isinstance(default, float) else value
        assert value == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize("target", [t for t in known() if t.startswith(("vae_zoo.nets", "vae_zoo.distributions"))])
def test_a_component_of_a_notebook_is_that_of_its_file(target):
    """Where a file of conf/ bears the name of a component."""
    files = [*(config_dir() / "model" / "network").glob("*.yaml"), *(config_dir() / "model" / "likelihood").glob("*.yaml")]
    nodes = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in files}
    own = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", target.rpartition(".")[2]).lower()
    if nodes.get(own, {}).get("_target_") != target:
        pytest.skip("no file of this name")
    defaults = tools_settings().arguments(check.locate(target, target))
    for name, value in nodes[own].items():
        if name != "_target_":
            default = defaults[name].default
            assert value == (list(default) if isinstance(default, tuple) else default), name


def test_groupings_and_labels_are_those_of_the_arrays():
    names = ("label", *(f.name for f in dsprites.FACTORS))
    assert DSprites.groupings == names
    arrays = build(composed("data=digits")["data"]).load()
    assert arrays.label is not None and Digits.groupings == ("label",)
    assert not arrays.factor_info and not arrays.groups


def test_groupings_of_faces_are_the_identity_and_what_has_classes(tmp_path):
    words = ["data.num_identities=9", "data.images_per_identity=1", f"paths.cache={tmp_path}"]
    arrays = build(composed("data=faces", *words)["data"]).load()
    classes = [f.name for f in arrays.factor_info if f.kind == "categorical"]
    assert Faces.groupings == ("label", *arrays.groups, *classes)


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hint, words",
    [
        (kinds.Count, "a whole number >= 1"),
        (kinds.Share, "a number > 0 and < 1"),
        (kinds.NonNegative | None, "a number >= 0, or null"),
        (Literal["i", "ii"], "i or ii"),
        (Literal["a"], "a"),
        (bool, "true or false"),
        (list[str], "a list, each entry a string"),
        (kinds.Component, "an object with a _target_"),
    ],
)
def test_types_in_words(hint, words):
    assert check.describe(hint) == words


def test_every_field_can_be_described():
    for schema in (*map(schema_of, targets()), schemas.Train, schemas.Evaluate, schemas.Callbacks, schemas.Paths):
        for name, field in schema.model_fields.items():
            assert "mapping" not in check.describe_field(field) or name in (
                "sweep",
                "callbacks",
                "paths",
                "data",
                "logger",
                "evaluation",
            )


@pytest.mark.parametrize(
    "value, text",
    [
        (True, "true"),
        (None, "null"),
        ("abc", "abc"),
        ("", "''"),
        ([1, 2], "[1, 2]"),
        ({"a": 1}, "{a: 1}"),
        (0.5, "0.5"),
    ],
)
def test_values_are_shown_as_they_are_typed(value, text):
    assert check.shown(value) == text


def test_checking_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    _composed.__wrapped__(frozenset(), "model=factor_vae", "data=digits")
    assert torch.equal(state, torch.get_rng_state())
