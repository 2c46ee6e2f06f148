"""Hydra's and OmegaConf's errors in one sentence, with the nearest name."""

import re
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from vae_zoo import config_dir
from vae_zoo.config.check import choose
from vae_zoo.errors import UserError


def explain(error: BaseException) -> str | None:
    """One sentence for the person at the terminal, or None when the error is not theirs to mend."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    text = "\n".join(str(link) for link in chain)
    if found := re.search(r"Could not find '([^']+)'", text):
        return _missing_choice(found[1], chain)
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"{found[1]} is not a key of the config; {_nearest_key(found[1])}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        first = next((str(link) for link in chain if str(link).strip()), type(error).__name__)
        return " ".join(line.strip() for line in first.strip().splitlines() if line.strip()).rstrip(".")
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be written ({error.strerror}); choose another folder with hydra.run.dir=<folder>"
    return None


def _missing_choice(name: str, chain: list[BaseException]) -> str:
    """`model/betavae`: no such choice in its group."""
    group, _, choice = name.rpartition("/")
    options = next((link.options for link in chain if isinstance(link, MissingConfigException)), None) or []
    options = [option for option in options if not option.startswith("_")]
    if not options:
        return f"{name} is not a config; `python train.py --help` lists what there is"
    return f"{group}={choice} is not known; {choose(choice, options)}" + (
        f" (all: {', '.join(options)})" if len(options) < 40 else ""
    )


def _nearest_key(key: str) -> str:
    """The key that was probably meant, in the config that the rest of the command line composes."""
    parent, _, name = key.rpartition(".")
    others = [word for word in sys.argv[1:] if not word.startswith(f"{key}=")]
    groups = [word for word in others if re.fullmatch(r"[a-z/]+=[A-Za-z0-9_/]+", word)]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            node = compose(Path(sys.argv[0]).stem.rpartition("-")[2], overrides=groups)
        for part in filter(None, parent.split(".")):
            node = node[part]
        return choose(name, [str(child) for child in node])
    except (HydraException, OmegaConfBaseException, AttributeError, TypeError):
        return "`python train.py --help` shows all keys"
