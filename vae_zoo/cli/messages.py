"""Rewrites errors of Hydra and OmegaConf as one sentence that suggests the nearest name."""

import contextlib
import re
import sys
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vae_zoo.config import config_dir
from vae_zoo.config.check import OPTIONAL_GROUPS, choose, describe, moved, one_line, settings_of
from vae_zoo.config.renamed import MOVED_CHOICES, MOVED_SETTINGS
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.files import no_space
from vae_zoo.utils.text import override

QUOTES = "\"'"
HELP = "`python train.py --help` lists all groups, choices and keys"
LAUNCHER_PLUGINS = {  # by Hydra's own name of the launcher, which is a choice only where the plugin is installed
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "ray and hydra-ray-launcher",
}


def explain(error: BaseException, remedy: str) -> str | None:
    """One sentence for the user, or None if the error is not a user error.

    remedy: what to do if a file cannot be read or written.
    """
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    if isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        text = "\n".join(str(link) for link in chain)
        for pattern, sentence in SENTENCES.items():
            if found := re.search(pattern, text):
                return sentence(*found.groups())
    for link in chain:
        if isinstance(link, OverrideParseException):
            return _unreadable(str(link.override))
        if isinstance(link, YAMLError):
            return _damaged_yaml(link)
    if isinstance(error, HydraException | OmegaConfBaseException) and not isinstance(error, InstantiationException):
        first = next((str(link) for link in chain if str(link).strip()), type(error).__name__)
        return " ".join(line.strip() for line in first.strip().splitlines() if line.strip()).rstrip(".")
    if isinstance(error, OSError) and (error.filename is not None or no_space(error)):
        return f"{no_space(error) or f'{error.filename} cannot be read or written ({error.strerror})'}; {remedy}"
    return None


def _unreadable(word: str) -> str:
    """Message for an override that Hydra cannot parse; if quotes around the value are missing, it shows them."""
    key, equals, value = word.partition("=")
    if equals and re.fullmatch(r"[+~]*[A-Za-z_][\w./@-]*", key) and value[:1] not in ("[", "{"):
        return f"{word!r} is not a valid override; quote the value: {override(key, value.strip(QUOTES))}"
    return (
        f"{word!r} is not a valid override; write key=value, and lists in quotes, such as 'model.network.channels=[32,64]'"
    )


def _several_values(word: str) -> str:
    key, _, value = word.partition("=")
    return (
        f"{word} has several values; add -m to train one run per value, put them in brackets for a list, or quote a string: "
        f"{override(key, value)}"
    )


def _nothing_to_remove(key: str) -> str:
    hint = _nearest_key(key)
    hint = f"; {hint}" if hint.startswith("did you mean") else ""
    return f"{key} is not in the config, so ~{key} has nothing to remove{hint or '; leave it out'}"


def config_dirs() -> list[Path]:
    """The folders of config groups: that of the package and that of the user."""
    paths = GlobalHydra.instance().config_loader().get_search_path().get_path()
    return [Path(path.path.removeprefix("file://")) for path in paths if path.provider in ("main", "command-line")]


def _missing_choice(name: str) -> str:
    """Message for a choice that does not exist, such as `model/betavae`."""
    typed = (word.lstrip("+").partition("=")[::2] for word in sys.argv[1:])
    group = next((key for key, value in typed if f"{key}/{value}" == name), name.rpartition("/")[0])
    choice = name.removeprefix(f"{group}/")
    if name in MOVED_CHOICES:
        return f"{group}={choice} is now {MOVED_CHOICES[name]}; docs/methods/papers.md lists the settings of the papers"
    pattern = "**/*.yaml" if group in ("experiment", "sweep") else "*.yaml"  # in other groups a subfolder is a group
    if group == "hydra/launcher" and (plugin := LAUNCHER_PLUGINS.get(choice)):
        return f"launcher={choice} needs a plugin that is not installed; install {plugin} with pip (docs/how_to/clusters.md)"
    options = sorted(
        {
            str(path.relative_to(folder / group).with_suffix(""))
            for folder in config_dirs()
            for path in (folder / group).glob(pattern)
            if path.name.startswith("_") == choice.startswith("_")  # _name: base files, named by YAML files only
        }
    )
    if not options:
        return f"{group}={choice} is not a choice: the group {group} has no choices yet; {HELP}"
    near = choose(choice, options)
    every = f" (all: {', '.join(options)})" if "did you" in near else ""
    return f"{group}={choice} is not a choice of this group; {near}{every}"


def _unknown_key(key: str) -> str:
    """Message for a key that the composed config does not have."""
    if key in MOVED_SETTINGS:
        return moved(key)
    value = next((word.partition("=")[2] for word in sys.argv[1:] if word.startswith(f"{key}=")), "")
    if key in OPTIONAL_GROUPS:
        return _missing_choice(f"{key}/{value}")
    if value.startswith("{") and OmegaConf.select(_composed_without(key) or OmegaConf.create(), key) is not None:
        return f"{key}={value} adds keys; write each as a setting of its own, such as +{key}.<key>=<value>"
    if key.startswith("hydra."):
        return f"{key} is not a key of Hydra's config; `python train.py --cfg hydra` lists them"
    return f"{key} is not a key of the config; {_nearest_key(key)}"


def _nearest_key(key: str) -> str:
    """The most similar key of the config that the rest of the command line composes."""
    node, path = _composed_without(key), ""
    *parents, name = key.split(".")
    for part in parents:
        if not isinstance(node, DictConfig):
            break
        if part not in node:
            if (config_dir() / (path or ".") / f"{part}.yaml").is_file():
                return f"choose {path}={part} first"
            return choose(part, [str(k) for k in node], f"{path}." if path else "")
        node, path = node[part], f"{path}.{part}".lstrip(".")
    if not isinstance(node, DictConfig):
        return HELP
    there = [str(k) for k in node if not str(k).startswith("_")]
    allowed = settings_of(node.get("_target_", "")) or there
    if name in allowed:
        return f"it can be added with +{key}=<value>"
    if not allowed:
        return f"{path} ({node.get('_target_')}) has no settings; remove it"
    return choose(name, allowed, f"{path}." if path else "")


def _composed_without(key: str) -> DictConfig | None:
    """The config composed from the group choices of the command line, or None if that fails."""
    groups = [w for w in sys.argv[1:] if re.fullmatch(r"\+?[a-z/]+=[A-Za-z0-9_/,-]+", w) and not w.startswith(f"{key}=")]
    hydra, command = GlobalHydra.instance().hydra, JobRuntime.instance().get("name")
    for words in (groups, []):
        with contextlib.suppress(Exception):  # other errors of the command line
            assert hydra is not None
            return hydra.compose_config(command, words, RunMode.MULTIRUN)
    return None


def _damaged_yaml(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"a config file cannot be read as YAML ({one_line(error)}); correct it"
    return f"{mark.name} cannot be read as YAML ({getattr(error, 'problem', None)} in line {mark.line + 1}); correct it"


SENTENCES = {  # pattern of Hydra's message: our message, made from its groups
    r"Could not (?:find|load) '([^']+)'": _missing_choice,
    r"Could not override '([^']+)'": _unknown_key,
    r"Could not delete from config\. '([^']+)' does not exist": _nothing_to_remove,
    r"Could not delete from config\. The value of '([^']+)' is (.+) and not (.+?)\.?$": lambda key, value, given: (
        f"{key} is {value}, not {given}, so ~{key}={given} removes nothing; write ~{key}"
    ),
    r"Could not delete '([^'=]+)=?([^']*)'\. No match in the defaults list": lambda group, choice: (
        f"{group}={choice} is not chosen, so ~{group}={choice} removes nothing; leave it out"
    ),
    r"Could not append to config\. An item is already at '([^']+)'": lambda key: (
        f"{key} is already in the config; write it without +"
    ),
    r"Error merging override ([^=]+=.*)[\s\S]*could not be converted to (\w+)": lambda word, kind: (
        f"{word} is not allowed; give {describe({'Integer': int, 'Float': float, 'Boolean': bool}[kind])}"
    ),
    r"Ambiguous value for argument '([^']+)'": _several_values,
    r"Multiple values for ([^ .]+)": lambda group: (
        f"{group} is chosen more than once; name one choice, and in a YAML file write `- override /{group}: <choice>`"
    ),
    r"([\w/]+) appears more than once in the final defaults list": lambda group: (
        f"{group} is chosen more than once; name one choice of each group, or train several runs with -m model=a,b"
    ),
    r"Config group override must be a string or a list. Got (\w+)": lambda kind: (
        f"a group of configs is chosen by a name, not by {kind.replace('NoneType', 'null')}; "
        f"write group=choice, such as model=beta_vae, or key=value"
    ),
    r"Invalid defaults list in '([^']+)'": lambda name: (
        f"{name}.yaml has an invalid defaults list; write `defaults: [_common]`, or one `- group: choice` per line"
    ),
}
