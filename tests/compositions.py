"""Hydra composes a choice of config files once a process, and copies the result where the same files are chosen again.

Values given on the command line are set by Hydra itself every time. Folders of configs that a test wrote are not remembered.
"""

import copy
from dataclasses import replace

from hydra._internal import config_loader_impl as loader

from vae_zoo import config_dir


def remember() -> None:
    compose, choose = loader.ConfigLoaderImpl._compose_config_from_defaults_list, loader.create_defaults_list
    chosen, composed = {}, {}

    def remembered_choice(repo, config_name, overrides_list, prepend_hydra, skip_missing):
        arguments = dict(repo=repo, config_name=config_name, prepend_hydra=prepend_hydra, skip_missing=skip_missing)
        if not _are_ours(repo):
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
        if not _are_ours(repo):
            return compose(self, defaults, repo)
        key = tuple((d.config_path, d.package, d.parent, d.is_self, d.primary) for d in defaults)
        if key not in composed:
            composed[key] = compose(self, defaults, repo)
        return copy.deepcopy(composed[key])

    loader.create_defaults_list = remembered_choice
    loader.ConfigLoaderImpl._compose_config_from_defaults_list = remembered_config


def _are_ours(repo) -> bool:
    return all(source.scheme() != "file" or source.path == str(config_dir()) for source in repo.get_sources())
