"""Names of version 0.1, which older run folders, checkpoints and commands still use.

In 0.1 a target named a file; now it names a class of a package. The evaluation level was a setting of a callback.
"""

from typing import Any

_FILES = {  # package: file.Class of each target in 0.1; the file is no longer part of the name
    "vae_zoo.models": (
        "annealed_vae.AnnealedVAE beta_tc_vae.BetaTCVAE beta_vae.BetaVAE dip_vae.DIPVAE factor_vae.FactorVAE gmvae.GMVAE "
        "group_vae.GroupVAE joint_vae.JointVAE ladder_vae.LadderVAE mfcvae.MFCVAE ml_vae.MLVAE parted_vae.PartedVAE "
        "spair.SPAIR split_gmvae.SplitGMVAE split_spair.SplitSPAIR split_vae.SplitVAE ss_vae.SSVAE vae.VAE"
    ),
    "vae_zoo.data": (
        "celeba.CelebA digits.Digits dsprites.DSprites faces.Faces image_folder.ImageFolder mnist.MNIST "
        "mnist.FashionMNIST scenes.Scenes shapes3d.Shapes3D street_digits.StreetDigits svhn.SVHN"
    ),
}

RENAMED = {
    **{
        f"{package}.{path}": f"{package}.{path.split('.')[1]}" for package, paths in _FILES.items() for path in paths.split()
    },
    **{
        f"vae_zoo.callbacks.{name}": f"vae_zoo.training.{name}"
        for name in "Checkpoint Figures Metrics Monitor Progress".split()
    },
    "vae_zoo.callbacks.Pruning": "vae_zoo.sweeps.pruning.Pruning",
    "vae_zoo.loggers.TensorBoard": "vae_zoo.training.TensorBoard",
    "vae_zoo.loggers.WandB": "vae_zoo.training.WandB",
    "vae_zoo.trainer.Trainer": "vae_zoo.training.Trainer",
}
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
        target = node.get("_target_")
        return node | {"_target_": RENAMED.get(target, target)} if "_target_" in node else node
    return [with_present_names(value) for value in node] if isinstance(node, list) else node
