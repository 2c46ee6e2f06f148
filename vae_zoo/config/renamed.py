"""Targets of run folders and checkpoints of version 0.1, which named files; since then a target names a package's class."""

from typing import Any

_MODELS = {
    "annealed_vae": "AnnealedVAE",
    "beta_tc_vae": "BetaTCVAE",
    "beta_vae": "BetaVAE",
    "dip_vae": "DIPVAE",
    "factor_vae": "FactorVAE",
    "gmvae": "GMVAE",
    "group_vae": "GroupVAE",
    "joint_vae": "JointVAE",
    "ladder_vae": "LadderVAE",
    "mfcvae": "MFCVAE",
    "ml_vae": "MLVAE",
    "parted_vae": "PartedVAE",
    "spair": "SPAIR",
    "split_gmvae": "SplitGMVAE",
    "split_spair": "SplitSPAIR",
    "split_vae": "SplitVAE",
    "ss_vae": "SSVAE",
    "vae": "VAE",
}
_DATA = {
    "celeba": ("CelebA",),
    "digits": ("Digits",),
    "dsprites": ("DSprites",),
    "faces": ("Faces",),
    "image_folder": ("ImageFolder",),
    "mnist": ("MNIST", "FashionMNIST"),
    "scenes": ("Scenes",),
    "shapes3d": ("Shapes3D",),
    "street_digits": ("StreetDigits",),
    "svhn": ("SVHN",),
}
_CALLBACKS = ("Checkpoint", "Figures", "Metrics", "Monitor", "Progress")

RENAMED = {
    **{f"vae_zoo.models.{file}.{name}": f"vae_zoo.models.{name}" for file, name in _MODELS.items()},
    **{f"vae_zoo.data.{file}.{name}": f"vae_zoo.data.{name}" for file, names in _DATA.items() for name in names},
    **{f"vae_zoo.callbacks.{name}": f"vae_zoo.training.{name}" for name in _CALLBACKS},
    "vae_zoo.callbacks.Pruning": "vae_zoo.sweeps.pruning.Pruning",
    "vae_zoo.loggers.TensorBoard": "vae_zoo.training.TensorBoard",
    "vae_zoo.loggers.WandB": "vae_zoo.training.WandB",
    "vae_zoo.trainer.Trainer": "vae_zoo.training.Trainer",
}


def with_present_targets(node: Any) -> Any:
    """A config, or a part of one, whose `_target_`s are today's."""
    if isinstance(node, dict):
        node = {key: with_present_targets(value) for key, value in node.items()}
        target = node.get("_target_")
        return node | {"_target_": RENAMED.get(target, target)} if "_target_" in node else node
    return [with_present_targets(value) for value in node] if isinstance(node, list) else node
