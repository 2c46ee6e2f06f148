"""Distributions: Gaussians, mixtures, categorical variables, likelihoods and the pooling of groups."""

from vae_zoo.distributions.categorical import Categorical, CategoricalVariables
from vae_zoo.distributions.likelihoods import (
    Bernoulli,
    DiscretisedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    PixelwiseGaussian,
    PixelwiseLogistic,
)
from vae_zoo.distributions.mixture import ComponentTable, MixturePrior, bhattacharyya, kl_normal, kl_normal_per_dim
from vae_zoo.distributions.normal import Normal, kl_standard, kl_standard_per_dim, log_standard_normal, transport
from vae_zoo.distributions.pooling import pool

__all__ = [
    "Bernoulli",
    "Categorical",
    "CategoricalVariables",
    "ComponentTable",
    "DiscretisedLogistic",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "MixturePrior",
    "Normal",
    "PixelwiseGaussian",
    "PixelwiseLogistic",
    "bhattacharyya",
    "kl_normal",
    "kl_normal_per_dim",
    "kl_standard",
    "kl_standard_per_dim",
    "log_standard_normal",
    "pool",
    "transport",
]
