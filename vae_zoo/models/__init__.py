"""Models: one file each, imported when its class is first used."""

from vae_zoo.utils.lazy import importer

FILES = {  # public name: the file that defines it
    "AnnealedVAE": "annealed_vae",
    "BetaTCVAE": "beta_tc_vae",
    "BetaVAE": "beta_vae",
    "DIPVAE": "dip_vae",
    "FactorVAE": "factor_vae",
    "GMVAE": "gmvae",
    "GMVAE2016": "gmvae2016",
    "GroupVAE": "group_vae",
    "JointVAE": "joint_vae",
    "LadderVAE": "ladder_vae",
    "MFCVAE": "mfcvae",
    "MLVAE": "ml_vae",
    "PartedVAE": "parted_vae",
    "SPAIR": "spair",
    "SplitGMVAE": "split_gmvae",
    "SplitSPAIR": "split_spair",
    "SplitVAE": "split_vae",
    "SplitVaDE": "split_vade",
    "SSVAE": "ss_vae",
    "VAE": "vae",
    "LatentVariableModel": "base",
}
__all__ = [*FILES]
__getattr__ = importer(__name__, FILES)
