"""The schemas say what the constructors say, and every config file passes them."""

import inspect
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config import check, schemas
from vae_zoo.config.schemas import SCHEMAS
from vae_zoo.runs.load import build

GIVEN_BY_RUN = {"folder", "run_config", "logger", "callbacks", "default_root_dir"}  # not in the config
NOT_OURS = {"torch.optim.Adam", "torch.optim.AdamW"}  # the schema offers some of the arguments, and OPTIONAL ones
NEEDED = {  # by a choice that does not go alone
    "image_folder": ["data.path=somewhere"],
    "parted_vae/celeba": ["data.labels_from=labels.csv"],
    "fc_vlae": ["model=mfcvae"],
    "conv_vlae": ["model=mfcvae"],
    "vade": ["model=vade"],
}


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (config_dir() / group).glob("*.yaml") if not p.stem.startswith("_"))


def composed(*words: str) -> dict[str, Any]:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return check.check_train(compose("train", list(words)))


FILES = [(g, c) for g in ("model", "data", "trainer", "callbacks", "logger") for c in choices(g)]
FILES += [(g, c) for g in ("model/network", "model/likelihood", "debug", "paths") for c in choices(g)]


@pytest.mark.parametrize("group, choice", FILES)
def test_every_choice_passes_the_check(group, choice):
    composed(f"{group}={choice}", *NEEDED.get(choice, []))


@pytest.mark.parametrize("group", ["model", "data", "trainer", "callbacks", "logger", "model/network", "model/likelihood"])
def test_every_target_of_a_choice_has_a_schema(group):
    for choice in choices(group):
        assert not targets(composed(f"{group}={choice}", *NEEDED.get(choice, []))) - SCHEMAS.keys(), choice


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
    used = set().union(*(targets(composed(f"{g}={c}", *NEEDED.get(c, []))) for g, c in FILES))
    by_hand = {
        "torch.optim.AdamW",
        "vae_zoo.sweeps.pruning.Pruning",  # the search gives it to its jobs
        "vae_zoo.nets.RandomAffine",
        *(f"vae_zoo.nets.{name}" for name in ("Identity", "MixedPatchShuffle", "GaussianBlur", "HighLowPass")),
        *(f"vae_zoo.schedules.{name}" for name in ("Constant", "Linear", "Cosine", "Cyclic", "Staircase")),
    }
    assert SCHEMAS.keys() - used <= by_hand


def targets(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set().union({node["_target_"]} if "_target_" in node else set(), *map(targets, node.values()))
    return set()


# ---- the schema of a target and its constructor ---------------------------------------------------------------------


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Named arguments, those of the bases where **kwargs are passed on."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(cls):
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base, eval_str=True).parameters.values()
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, p)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


@pytest.mark.parametrize("target", sorted(SCHEMAS))
def test_fields_are_the_named_arguments(target):
    fields, real = SCHEMAS[target].model_fields, arguments(check.locate(target, target))
    if target in NOT_OURS or target == "vae_zoo.training.Trainer":  # passes on to Lightning's, of which it offers some
        assert fields.keys() <= real.keys()
    else:
        assert fields.keys() == real.keys() - GIVEN_BY_RUN
    for name, field in fields.items():
        assert field.is_required() or real[name].default is not inspect.Parameter.empty, f"{name} cannot be left out"


@pytest.mark.parametrize("target", sorted(SCHEMAS.keys() - NOT_OURS))
def test_types_are_those_of_the_arguments_or_narrower(target):
    cls = check.locate(target, target)
    for name, field in SCHEMAS[target].model_fields.items():
        parameter = arguments(cls).get(name)
        if parameter is None or parameter.annotation in (inspect.Parameter.empty, Any):
            continue
        if target == "vae_zoo.training.Trainer" and name not in vars(cls)["__init__"].__annotations__:
            continue  # Lightning's own, whose types are wider
        real = kinds(parameter.annotation)
        for kind in kinds(field.annotation):  # a literal may stand for its type
            assert kind in real or kinds(type(kind)) <= real, f"{name}: {kind} is not among {real}"


def kinds(hint: Any) -> set:
    """A type as a config sees it: str, float, bool, None, list, dict or the literal values themselves.

    Whole numbers count as float, whose range a schema may narrow; a Path is a str; any other class is a dict, an object
    with its own _target_.
    """
    if get_origin(hint) is Annotated:
        return kinds(get_args(hint)[0])
    if get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(kinds, get_args(hint)))
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    hint = get_origin(hint) or hint
    if hint in (list, tuple, Sequence):
        return {list}
    return {{int: float, Path: str}.get(hint, hint if hint in (float, str, bool, types.NoneType) else dict)}


@pytest.mark.parametrize("target", [t for t, s in SCHEMAS.items() if issubclass(s, schemas.Model)])
def test_needs_are_those_of_the_model(target):
    assert SCHEMAS[target].needs == check.locate(target, target).needs


@pytest.mark.parametrize("target", [t for t, s in SCHEMAS.items() if issubclass(s, schemas.Data)])
def test_default_group_is_that_of_the_data(target):
    assert SCHEMAS[target].default_group == check.locate(target, target).default_group


def test_groupings_and_labels_are_those_of_the_arrays():
    from vae_zoo.data.sets import dsprites

    names = ("label", *(f.name for f in dsprites.FACTORS))
    assert SCHEMAS["vae_zoo.data.DSprites"].groupings == names
    arrays = build(composed("data=digits")["data"]).load()
    schema = SCHEMAS["vae_zoo.data.Digits"]
    assert schema.labels is (arrays.label is not None) and schema.groupings == ("label",)
    assert not arrays.factor_info and not arrays.groups


def test_groupings_of_faces_are_the_identity_and_what_has_classes(tmp_path):
    words = ["data.num_identities=9", "data.images_per_identity=1", f"paths.cache={tmp_path}"]
    arrays = build(composed("data=faces", *words)["data"]).load()
    classes = [f.name for f in arrays.factor_info if f.kind == "categorical"]
    assert SCHEMAS["vae_zoo.data.Faces"].groupings == ("label", *arrays.groups, *classes)


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hint, words",
    [
        (schemas.Count, "a whole number >= 1"),
        (schemas.Share, "a number > 0 and < 1"),
        (schemas.NonNegative | None, "a number >= 0, or null"),
        (Literal["i", "ii"], "i or ii"),
        (Literal["a"], "a"),
        (bool, "true or false"),
        (list[str], "a list, each of them a text"),
        (schemas.Component, "an object with a _target_"),
    ],
)
def test_types_in_words(hint, words):
    assert check.describe(hint) == words


def test_every_field_can_be_described():
    for schema in {*SCHEMAS.values(), schemas.Train, schemas.Evaluate, schemas.Callbacks, schemas.Paths}:
        for name, field in schema.model_fields.items():
            assert "mapping" not in check.describe_field(field) or name in (
                "sweep",
                "callbacks",
                "paths",
                "data",
                "logger",
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
    composed("model=factor_vae", "data=digits")
    assert torch.equal(state, torch.get_rng_state())
