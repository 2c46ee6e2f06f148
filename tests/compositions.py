"""Hydra reads each config file of the package once a process, composes a choice of them once, and returns copies.

Values given on the command line are set by Hydra itself every time. Files that a test wrote are read every time.
"""

import copy
import pickle
from dataclasses import replace

from hydra._internal import config_loader_impl as loader
from hydra._internal import defaults_list as tree
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType

from vae_zoo import config_dir


def remember() -> None:
    """Replaces the reading and the composing of Hydra for the rest of the process."""
    _remember_files()
    _remember_compositions()
    _map_choices_where_they_are_asked_for()
    ConfigRepository.__deepcopy__ = lambda self, memo: copy.copy(self)  # its sources are replaced, never changed


def _remember_files() -> None:
    load, read = ConfigRepository.load_config, {}

    def remembered(self, config_path):
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or not _is_ours(source):
            return load(self, config_path)
        key = (source.path, config_path)
        if key not in read:
            read[key] = pickle.dumps(load(self, config_path))
        return pickle.loads(read[key])  # a third of the time of copy.deepcopy

    ConfigRepository.load_config = remembered


def _map_choices_where_they_are_asked_for() -> None:
    """A third of the time of a choice of files that is new."""
    create = tree._create_interpolation_map

    def where_asked_for(overrides, defaults_list, self_added):
        if any(default.is_interpolation() for default in defaults_list):
            return create(overrides, defaults_list, self_added)
        return None

    tree._create_interpolation_map = where_asked_for


def _remember_compositions() -> None:
    compose, choose = loader.ConfigLoaderImpl._compose_config_from_defaults_list, loader.create_defaults_list
    chosen, composed = {}, {}

    def remembered_choice(repo, config_name, overrides_list, prepend_hydra, skip_missing):
        arguments = dict(repo=repo, config_name=config_name, prepend_hydra=prepend_hydra, skip_missing=skip_missing)
        if not all(map(_is_ours, repo.get_sources())):
            return choose(overrides_list=overrides_list, **arguments)
        groups, values = [], []
        for o in overrides_list:
            is_value = not o.is_sweep_override() and (isinstance(o.value(), dict) or not repo.group_exists(o.key_or_group))
            (values if is_value else groups).append(o)
        key = (config_name, prepend_hydra, skip_missing, *(o.input_line for o in groups))
        if key not in chosen:
            chosen[key] = choose(overrides_list=groups, **arguments)
        return replace(chosen[key], config_overrides=values)

    def remembered_config(self, defaults, repo):
        if not all(map(_is_ours, repo.get_sources())):
            return compose(self, defaults, repo)
        key = tuple((d.config_path, d.package, d.parent, d.is_self, d.primary) for d in defaults)
        if key not in composed:
            composed[key] = pickle.dumps(compose(self, defaults, repo))
        return pickle.loads(composed[key])

    loader.create_defaults_list = remembered_choice
    loader.ConfigLoaderImpl._compose_config_from_defaults_list = remembered_config


def _is_ours(source) -> bool:
    return source.scheme() != "file" or source.path == str(config_dir())
