"""Composes the config of a command line with Hydra.

Hydra's public `compose` supports neither -m nor --config-dir, so this uses the `Hydra` object of Hydra's own `main`.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override

from vae_zoo.config import check, config_dir
from vae_zoo.runs import folder as runs
from vae_zoo.sweeps import jobs as sweeps
from vae_zoo.utils.errors import UserError
from vae_zoo.utils.launch import is_offline

FIRST_RUN = "experiment=split_vae/first_run"  # default of `python train.py`


def _chooses(word: str) -> bool:
    """Whether an override chooses what to train: a group such as model= or model/network=, or resume=."""
    group = word.partition("=")[0].lstrip("+~")
    return "." not in group and group.split("/")[0].split("@")[0] in ("model", "data", "experiment", "debug", "resume")


class _Hydra(Hydra):
    """Hydra whose sweeps may give settings that only the swept choices have: sweep=paper/ml_vae data.root=<folder>.

    Hydra leaves swept groups such as experiment=a,b out of the config from which a sweep starts, so it refuses settings that
    its default choices lack. Here this config has the first of the choices, and where that is not enough also those of the
    sweep's own parameters; every job is composed with its own as before.
    """

    def compose_config(self, config_name: str | None, overrides: list[str], run_mode: RunMode, **options) -> DictConfig:  # type: ignore[override]
        if run_mode != RunMode.MULTIRUN:
            return super().compose_config(config_name, overrides, run_mode, **options)
        parsed = OverridesParser.create().parse_overrides(overrides)
        words = [self._first(word) or str(word.input_line) for word in parsed]
        try:
            cfg = super().compose_config(config_name, words, run_mode, **options)
        except ConfigCompositionException:
            given = {word.get_key_element().lstrip("+~") for word in parsed}
            params = self.params(config_name, overrides).items()
            others = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params if k.lstrip("+") not in given])
            if not (added := [first for word in others if (first := self._first(word))]):
                raise
            cfg = super().compose_config(config_name, [*words, *added], run_mode, **options)
        with flag_override(cfg, ["readonly", "struct"], False):
            cfg.hydra.overrides.task = [str(word.input_line) for word in parsed if not word.is_hydra_override()]
        return cfg

    def params(self, config_name: str | None, overrides: Sequence[str]) -> dict[str, Any]:
        """The parameters of the sweep that the groups among the overrides choose, as sweep=<preset>, or Hydra's settings."""
        parsed = OverridesParser.create().parse_overrides([*overrides])
        of_sweep = [str(word.input_line) for word in parsed if word.is_hydra_override() or word.key_or_group == "sweep"]
        groups = [first for word in parsed if (first := self._first(word))]
        for words in ([*groups, *of_sweep], of_sweep):  # a group may exist only with the parameters of the sweep
            with suppress(HydraException):
                params = super().compose_config(config_name, words, RunMode.MULTIRUN).hydra.sweeper.get("params")
                return dict(params) if isinstance(params, Mapping) else {}
        return {}  # the error is reported when the whole command line is composed

    def _is_group(self, word: Override) -> bool:
        return bool(self.config_loader.get_group_options(word.key_or_group, None))

    def _first(self, word: Override) -> str | None:
        """A config group that is trained with the first of its choices; None for a setting, and for how jobs are run."""
        if not self._is_group(word) or word.is_hydra_override() or word.key_or_group in ("sweep", "launcher"):
            return None
        if not word.is_sweep_override():
            return str(word.input_line)
        value, choices = word.value(), self.config_loader.get_group_options(word.key_or_group)
        first = value.filter(choices)[:1] if isinstance(value, Glob) else [*islice(word.sweep_string_iterator(), 1)]
        return f"{word.get_key_element()}={first[0]}" if first else None


def _is_chosen(hydra: _Hydra, name: str, words: Sequence[str]) -> bool:
    """Whether the overrides choose what to train, themselves or by the parameters of a sweep, as of sweep=<preset>."""
    if any(map(_chooses, words)):
        return True
    by_sweep = any(word.lstrip("+~").startswith(("sweep=", "hydra.sweeper")) for word in words)
    return by_sweep and any(_chooses(f"{key}=") for key in hydra.params(name, words))


def compose(name: str, words: Sequence[str]) -> DictConfig | None:
    """Returns the config with its `hydra` node, or None if an option such as --help was handled instead.

    name: name of the command's file in conf/. words: Hydra's options and overrides.
    """
    parser = get_args_parser()
    options, unknown = parser.parse_known_intermixed_args(words)
    of_hydra_only = {"--config-path": options.config_path, "--experimental-rerun": options.experimental_rerun}
    if unknown := [*unknown, *(flag for flag, given in of_hydra_only.items() if given)]:
        raise UserError(
            f"{unknown[0]} is not an option; settings are written without dashes, such as model=beta_vae, and options "
            f"are --help, -m, --config-dir <folder> and --cfg job"
        )
    _make_importable(options.config_dir)
    hydra = _hydra(name, options.config_dir)
    is_first_run = name == "train" and options.config_name is None and not _is_chosen(hydra, name, options.overrides)
    if is_first_run:
        options.overrides = [*options.overrides, FIRST_RUN]
    name = options.config_name or name
    if _answered(hydra, name, parser, options):
        return None
    if is_first_run:
        print(f"none of model=, data=, experiment= is given: using {FIRST_RUN}", flush=True)
    words = [*options.overrides, *(["hydra.mode=MULTIRUN"] if options.multirun else [])]
    # composes once; Hydra itself would compose a second time, and only then refuse a,b without -m
    cfg = hydra.compose_config(name, words, RunMode.MULTIRUN, validate_sweep_overrides=False)
    cfg.hydra.mode = cfg.hydra.mode or RunMode.RUN
    parsed = OverridesParser.create().parse_overrides(words)
    loader = cast(ConfigLoaderImpl, hydra.config_loader)
    loader.validate_sweep_overrides_legal(parsed, cfg.hydra.mode, from_shell=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def settings(cfg: DictConfig) -> DictConfig:
    """The config without its `hydra` node."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def sweep(cfg: DictConfig, job: Callable[[DictConfig], None]) -> int:
    """Calls `job` for every config of the sweep, in the processes of its launcher. Returns the sweep's exit code."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.multirun(cfg.hydra.job.config_name, job, [*typed(cfg, "hydra"), *typed(cfg, "task")])


def typed(cfg: DictConfig, kind: str) -> list[str]:
    """The overrides of the command line, `task` or `hydra`, as typed: a `${...}` in them is resolved by each job."""
    return cast(list[str], OmegaConf.to_container(cfg.hydra.overrides[kind], resolve=False))


def _make_importable(own: str | None) -> None:
    """Makes the user's own modules importable, from the working directory and from the parent of `own`, the --config-dir."""
    folders = [os.getcwd(), *([str(Path(own).resolve().parent)] if own else [])]
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(p for p in sys.path if p))  # jobs and launchers' workers


def _hydra(name: str, own: str | None) -> _Hydra:
    """Hydra with the configs of the package and of the user; the package has priority."""
    version.setbase("1.3")
    path = create_config_search_path(str(config_dir()))
    if own is not None:
        if not Path(own).is_dir():
            raise UserError(
                f"--config-dir {own} is not a folder; give the folder that contains your model/, data/ or experiment/"
            )
        path.prepend("command-line", f"file://{Path(own).absolute()}", SearchPathQuery(provider="schema"))
    return cast(_Hydra, _Hydra.create_main_hydra2(name, path))


def _answered(hydra: Hydra, name: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> bool:
    """Handles an option such as --help; returns False if there is none."""
    if options.help:  # as hydra.app_help, which also lists Hydra's own groups and takes twice as long
        cfg = hydra.compose_config(name, options.overrides, RunMode.RUN)
        groups = hydra.format_config_groups(lambda group: group.split("/")[0] != "hydra")
        config = OmegaConf.to_yaml(settings(cfg), resolve=options.resolve)
        print(Template(cfg.hydra.help.template).substitute(APP_CONFIG_GROUPS=groups, CONFIG=config))
    elif options.hydra_help:
        options.overrides = []  # it has no config of ours
        hydra.hydra_help(name, parser, options)
    elif options.cfg:
        hydra.show_cfg(name, options.overrides, options.cfg, options.package, options.resolve)
    elif options.info:
        hydra.show_info(options.info, name, options.overrides)
    elif options.shell_completion:
        hydra.shell_completion(name, options.overrides)
    else:
        return False
    return True


# ---- resolvers that conf/ uses --------------------------------------------------------------------------------------


def register_resolvers() -> None:
    for name, resolver in {
        "channels": lambda colour: 1 if colour == "grey" else 3,
        "expanded": lambda path: str(Path(str(path)).expanduser()),
        "image_shape": _image_shape,
        "jobs_at_once": lambda *, _root_: sweeps.jobs_at_once(_root_.trainer, _root_.sweep.jobs_per_gpu),
        "run_name": _run_name,
        "tags": _tags,
        "wandb_offline": is_offline,
    }.items():
        OmegaConf.register_new_resolver(f"vae_zoo.{name}", resolver, replace=True)


def _image_shape(*, _root_: DictConfig) -> ListConfig:
    from vae_zoo.data.storage.array_file import image_shape

    data = _root_.data
    if OmegaConf.is_missing(data, "path"):  # which is reported
        return ListConfig([])
    return ListConfig(
        image_shape(str(data.path), str(data["keys"].images), data.size if isinstance(data.size, int) else None)
    )


def _run_name(*, _root_: DictConfig) -> str:
    return runs.run_name(check.resolved(settings(_root_)), _root_.hydra.runtime.choices)


def _tags() -> list[str]:
    """Overrides of the command line and of the sweep as W&B tags, which have at most 64 characters."""
    if not HydraConfig.initialized():
        return []
    words = (word.lstrip("+") for word in typed(cast(DictConfig, HydraConfig.instance().cfg), "task"))
    return [word for word in words if len(word) <= 64 and not word.startswith((*sweeps.INCIDENTAL, "resume", "callbacks"))]


register_resolvers()  # at import, since the workers of a launcher import this module and compose the config again
