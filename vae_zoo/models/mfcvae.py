"""MFCVAE: several clusterings of the images at once, one for each facet (Falck et al., 2021, arXiv:2106.05241).

Generative story:  c_j ~ Cat(pi_j)    z_j | c_j = c ~ N(mu_jc, Sigma_jc),  j = 0 .. J-1    x ~ p(x | z_0 .. z_{J-1})
Inference:         q(z_j | x) = N(mu_j(x), diag exp(logvar_j(x))) at depth j of a ladder;  q(c_j | x) by Bayes' rule
Minimised, in nats per image, with q(c_j | x) = p(c_j | z_j) at the one draw z_j of q(z_j | x):
    loss = rec + sum_j [gamma_z_j * kl_z_j + gamma_c_j * kl_c_j],  rec = -log p(x | z)
    kl_z_j = log q(z_j | x) - E_q(c) log p(z_j | c_j),  kl_c_j = KL(q(c_j | x) || p(c_j))
Neither of the two is a divergence; their sum is one in expectation. If gamma_z_j = gamma_c_j, as in all published settings,
the sum is log q(z_j | x) - log p(z_j), the KL to the mixture with c summed out, and is computed in this form.

The optimal q(c | x) for a given q(z | x) is the normalised geometric mean of p(c | z), in closed form for a Gaussian:
    q(c | x) ~ exp E_q(z | x) log p(c | z) ~ pi_c N(mu(x); mu_c, Sigma_c) exp(-1/2 tr(Sigma_c^-1 S)),  S = diag exp(logvar)
`clusters` returns it, and `estimator="analytic"` is the bound with it: looser than the bound with p(c | z) by
E KL(q(c | x) || p(c | z)), but free of noise. (VaDE's E_q(z | x) p(c | z), the arithmetic mean, is not the optimum.)

Our extension, off by default: the clusters of the deepest facet are to be invariant to distortions, confident and balanced
(vae_zoo/models/invariance.py); position and style then remain for the other facets.

Schedule, alpha and gamma: vae_zoo/models/ladder_vae.py. `model=vade` is this model with one facet: VaDE (Jiang et al., 2017,
arXiv:1611.05148), trained as an autoencoder first, whose codes then initialise the mixture.

The full text of the paper was not available: equations and defaults are those of FabianFalck/mfcvae at 9f1eca4; deviations
are in docs/methods/mfcvae.md.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_zoo.config.types import Count, Estimators, FacetCounts, Shape, Variance, WeightsOfClusters
from vae_zoo.contract import Batch, Codes, LadderNetwork, Term, Terms, TrainingData
from vae_zoo.distributions import Likelihood, MixturePrior, Normal
from vae_zoo.models.invariance import Invariance
from vae_zoo.models.ladder_vae import LadderVAE
from vae_zoo.nets.ladder import calibrate_batch_norm
from vae_zoo.nets.norm import statistics_kept
from vae_zoo.utils.parts import take

T = TypeVar("T", bound=str)
NORM_BATCHES = 50


class MFCVAE(LadderVAE):
    """Ladder VAE with a mixture as the prior of each facet; implements `vae_zoo.contract.HasFacets`.

    Args:
        image_shape: [C, H, W].
        facet_dims: Dimensions of each facet, the shallowest first.
        num_clusters: Clusters of each facet.
        network: Ladder of as many facets (vae_zoo.nets.ladder).
        likelihood: p(x | z).
        covariance: Covariance of the clusters.
        weights: Whether p(c) is uniform and fixed or learned; one value for all facets, or one for each.
        variance: Initial variance of the clusters, > 1e-6.
        estimator: Estimator of the KL, of all facets or of each, see the docstring of the module.
        prior_init: Which parameters of a mixture are initialised by EM on the posterior means of training images: none, its
            means, or all.
        prior_init_at: `start`: all facets before the first update; `entry`: each facet when its KL begins to count, since
            the layers below it change until then.
        init_images: Number of these training images; None: all.
        calibrate_norm: Whether the averages of the encoder's batch normalisation are first computed over 50 batches;
            otherwise the posterior means differ from those of the evaluated network.
        **settings: Fields of Invariance; the rest as in LadderVAE.

    Raises:
        ValueError: A list has another length than there are facets.

    Attributes:
        facets: Blocks that cluster, the shallowest first.
    """

    parts = (Invariance,)
    facets: tuple[str, ...]  # blocks that cluster, the shallowest first

    def __init__(
        self,
        image_shape: Shape,
        facet_dims: FacetCounts,
        num_clusters: FacetCounts,
        network: LadderNetwork,
        likelihood: Likelihood,
        covariance: Literal["diagonal", "full"] = "diagonal",
        weights: WeightsOfClusters = "learned",
        variance: Variance = 0.01,
        estimator: Estimators = "sample",
        prior_init: Literal["none", "means", "means+vars+weights"] = "means",
        prior_init_at: Literal["start", "entry"] = "start",
        init_images: Count | None = 10_000,
        calibrate_norm: bool = True,
        **settings,
    ):
        invariance = take(Invariance, settings)
        super().__init__(image_shape, facet_dims, network, likelihood, **settings)
        J = len(facet_dims)
        if len(num_clusters) != J:
            raise ValueError(f"num_clusters needs a number for each of the {J} facets, got {[*num_clusters]}")
        each_weights: Sequence[Literal["fixed", "learned"]] = _for_each("weights", weights, J, "fixed or learned")
        each_estimator = _for_each("estimator", estimator, J, "sample or analytic")
        self.facets = tuple(self.blocks)
        priors = [MixturePrior(K, D, covariance, w, variance) for K, D, w in zip(num_clusters, facet_dims, each_weights)]
        self.priors = nn.ModuleDict(dict(zip(self.facets, priors)))
        self.estimators = dict(zip(self.facets, each_estimator))
        self.prior_init: Literal["none", "means", "means+vars+weights"] = prior_init
        self.prior_init_at = prior_init_at
        self.init_images, self.calibrate_norm = init_images, calibrate_norm
        self.invariance = invariance

    def prior(self, name: str) -> MixturePrior:
        """The mixture of a facet."""
        return cast(MixturePrior, self.priors[name])

    def clusters(self, q: dict[str, Normal]) -> dict[str, Float[Tensor, "B _"]]:
        """q(c_j | x) of each facet, [B, K], in the closed form of the module.

        Args:
            q: Posteriors of the facets, [B, D].
        """
        return {name: self.prior(name).expected_log_joint(q[name]).softmax(-1) for name in self.facets}

    def sample_prior(self, n: int) -> Codes:
        """Draws n codes of each facet: a cluster from p(c_j), the code given it."""
        codes = {}
        for name in self.facets:
            prior = self.prior(name)
            c = torch.multinomial(prior.log_weights().exp(), n, replacement=True)
            codes[name] = prior.sample(c)
        return codes

    def log_prior(self, name: str, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z) of a facet, c summed out, nats."""
        return self.prior(name).log_prob(z)

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, those of `kl_terms` and those of `cluster_terms`."""
        q, z, rec = self.infer(batch)
        terms = {"rec": Term(rec, 1.0)}
        for name in z:
            terms |= self.kl_terms(name, q[name], z[name])
        return terms | self.cluster_terms(batch["image"], q)

    def kl_terms(self, name: str, q: Normal, z: Float[Tensor, "B D"]) -> Terms:
        """kl_z and kl_c of a facet, their sum kl, and the four expectations in them.

        Terms without a weight are only logged. A weight of 0 counts as none: facets that have not entered get no gradient.

        Args:
            name: Name of the facet.
            q: Its posterior, [B, D].
            z: A draw of it.

        Returns:
            {<term>_<facet>: [B] nats}.
        """
        prior, weights = self.prior(name), self.current()[name]
        together = weights.gamma_z == weights.gamma_c
        if self.estimators[name] == "sample":
            log_q, log_joint = q.log_prob(z), prior.log_joint(z)  # [B], [B, K]
        else:
            log_q, log_joint = -q.entropy(), prior.expected_log_joint(q)
        kl = Term(log_q - log_joint.logsumexp(-1), (weights.gamma_z or None) if together else None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not together):
            log_p_c, log_q_c = prior.log_weights(), log_joint.log_softmax(-1)
            c_probs = log_q_c.exp()
            log_p_z, log_p_c = (c_probs * (log_joint - log_p_c)).sum(-1), (c_probs * log_p_c).sum(-1)
            log_q_c = (c_probs * log_q_c).sum(-1)
        parts = {
            "kl": kl,
            "log_p_z": Term(log_p_z),
            "log_p_c": Term(log_p_c),
            "log_q_z": Term(log_q),
            "log_q_c": Term(log_q_c),
            "kl_z": Term(log_q - log_p_z, None if together else (weights.gamma_z or None)),
            "kl_c": Term(log_q_c - log_p_c, None if together else (weights.gamma_c or None)),
        }
        return {f"{part}_{name}": term for part, term in parts.items()}

    def cluster_terms(self, x: Float[Tensor, "B C H W"], q: dict[str, Normal]) -> Terms:
        """The terms of Invariance of the deepest facet.

        Args:
            x: Images in [0, 1].
            q: Their posteriors.
        """
        deepest = self.facets[-1]

        def log_clusters(q: dict[str, Normal]) -> Tensor:
            return self.prior(deepest).expected_log_joint(q[deepest]).log_softmax(-1)  # [B, K]

        def copies() -> Tensor:
            with statistics_kept(self.encoder):
                return log_clusters(self.encode(self.invariance.distort(x)))

        log_c = log_clusters(q)
        terms = self.invariance.terms(self.step, log_c, self.joined(log_c).rows, copies)
        return {f"{name}_{deepest}": term for name, term in terms.items()}

    def kl_per_dim(self, posterior: dict[str, Normal]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension given the cluster, averaged over q(c | x).

        If dimensions are correlated, it is that of each dimension given the previous ones. The KL of the clusters, at most
        log K nats, is not included.

        Args:
            posterior: Output of `encode`.

        Returns:
            {block: [B, D]}, nats.
        """
        clusters, found = self.clusters(posterior), {}
        for name, q in posterior.items():
            log_q = q.log_prob_per_dim(q.mu) - 0.5  # [B, D], expected under q itself
            given_c = log_q[:, None] - self.prior(name).expected_log_prob_per_dim(q)  # [B, K, D]
            found[name] = (clusters[name][..., None] * given_c).sum(1)
        return found

    # ---- training -------------------------------------------------------------------------------------------------

    def learn_from(self, data: TrainingData) -> None:
        """Takes the training data.

        Args:
            data: Data of the data module.

        Raises:
            UserError: There are fewer images than clusters.
        """
        super().learn_from(data)
        if self.prior_init != "none":
            most = max(len(self.prior(name).mu) for name in self.facets)
            self.require_images(data, self.init_images, "model.num_clusters", most, "give model.prior_init=none")

    def prior_init_steps(self) -> dict[str, int]:
        """The step before whose update each mixture is initialised from images."""
        if self.prior_init == "none":
            return {}
        return dict.fromkeys(self.facets, 0) if self.prior_init_at == "start" else self.begins()

    def initialise(self, batch: Batch) -> bool:
        """Initialises also the mixtures that are due at the current step; returns whether anything was set."""
        changed = super().initialise(batch)
        due = [name for name, step in self.prior_init_steps().items() if step == self.step]
        if not due or self.prior_init == "none":
            return changed
        if self.calibrate_norm:
            data = self.training_data
            assert data is not None
            batches = (data.batch(step, self.device) for step in range(NORM_BATCHES))
            calibrate_batch_norm(self.encoder, (batch["image"] for batch in batches))
        codes = self.posterior_means(due)
        for name in due:
            self.prior(name).init_from_codes(codes[name], self.prior_init, getattr(self.trainer, "seed", 0))
        return True

    @torch.no_grad()
    def posterior_means(self, names: Sequence[str]) -> Codes:
        """Posterior means of `init_images` training images, [N, D] for each facet."""
        self.eval()
        parts = [self.encode(batch) for batch in self.training_images(self.init_images)]
        self.train()
        return {name: torch.cat([q[name].mu for q in parts]) for name in names}


def _for_each(name: str, value: T | Sequence[T], num_facets: int, allowed: str) -> Sequence[T]:
    """Values of all facets; a single value applies to every facet."""
    each = cast(Sequence[T], [value] * num_facets if isinstance(value, str) else value)
    if len(each) != num_facets:
        raise ValueError(f"{name} needs {allowed} for each of the {num_facets} facets, got {[*each]}")
    return each
