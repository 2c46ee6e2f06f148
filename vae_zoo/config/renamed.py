"""Names of version 0.1, which older run folders, checkpoints and commands still use.

In 0.1 a target named a file; now it names a class of a package. The evaluation level was a setting of a callback.
"""

import re
from typing import Any

_RENAMED = (  # a target named the file too
    (r"vae_zoo\.(models|data)\.[a-z0-9_]+\.(\w+)", r"vae_zoo.\1.\2"),
    (r"vae_zoo\.callbacks\.Pruning", "vae_zoo.sweeps.pruning.Pruning"),
    (r"vae_zoo\.(?:callbacks|loggers|trainer)\.(\w+)", r"vae_zoo.training.\1"),
)
RENAMED_ARGUMENTS = {"wheels_steps": "presence_warmup_steps"}
_PAPERS = (  # experiments that users may have typed, each before its present name in paper/
    "gmvae/svhn gmvae_table2 mfcvae/shapes3d_1 mfcvae_shapes3d_1 mfcvae/shapes3d_2 mfcvae_shapes3d_2 mfcvae/svhn "
    "mfcvae_svhn ml_vae/mnist_paper ml_vae_mnist parted_vae/celeba parted_vae_celeba parted_vae/dsprites "
    "parted_vae_dsprites split_gmvae/celeba split_gmvae_fig6_celeba split_gmvae/svhn split_gmvae_table2 "
    "split_vae/celeba split_vae_fig5_celeba split_vae/svhn split_vae_table1 "
).split()
MOVED_CHOICES = {f"experiment/{old}": f"experiment=paper/{new}" for old, new in zip(_PAPERS[::2], _PAPERS[1::2])}
MOVED_CHOICES |= {f"sweep/paper_{name}": f"sweep=paper/{name}" for name in ("mfcvae", "ml_vae", "parted_vae")}
MOVED_SETTINGS = {
    "metrics": "evaluation.level",
    "callbacks.metrics.level": "evaluation.level",
    "model.wheels_steps": "model.presence_warmup_steps",
}


def as_today(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a run with the present names and keys."""
    config = with_present_names(config)
    callbacks = config.get("callbacks")
    metrics = callbacks.get("metrics") if isinstance(callbacks, dict) else None
    level = metrics.pop("level", "basic") if isinstance(metrics, dict) else "basic"
    return config if "evaluation" in config else config | {"evaluation": {"level": level, "suites": {}}}


def with_present_names(node: Any) -> Any:
    """A config, or a part of one, with the present names of `_target_`s and their arguments."""
    if isinstance(node, dict):
        node = {RENAMED_ARGUMENTS.get(key, key): with_present_names(value) for key, value in node.items()}
        if isinstance(target := node.get("_target_"), str):
            found = ((re.fullmatch(old, target), new) for old, new in _RENAMED)
            node["_target_"] = next((match.expand(new) for match, new in found if match), target)
        return node
    return [with_present_names(value) for value in node] if isinstance(node, list) else node
