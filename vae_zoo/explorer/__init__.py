"""The explorer: the latent space of runs in the browser."""
