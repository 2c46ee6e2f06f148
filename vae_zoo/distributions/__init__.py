from vae_zoo.distributions.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian, Likelihood
from vae_zoo.distributions.normal import Normal, kl_standard
from vae_zoo.distributions.pooling import pool

__all__ = ["Bernoulli", "DiscretisedLogistic", "Gaussian", "Likelihood", "Normal", "kl_standard", "pool"]
