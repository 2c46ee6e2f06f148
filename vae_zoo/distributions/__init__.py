from vae_zoo.distributions.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian, Likelihood
from vae_zoo.distributions.normal import Normal, kl_standard

__all__ = ["Bernoulli", "DiscretisedLogistic", "Gaussian", "Likelihood", "Normal", "kl_standard"]
