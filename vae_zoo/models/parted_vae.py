"""PartedVAE: class-related and class-independent factors from few labels (Hajimiri et al., 2021, arXiv:2102.00892).

Generative story:  z ~ N(0, I)    c_j ~ Cat(pi_j)    u_j | c_j = k ~ N(m_jk, diag exp(l_jk)), m and l learned
                   x ~ p(x | z, u): c affects the image only through u
Inference:         h = f(x)    q(z | x) = N(mu(h), diag exp(logvar(h)))    q(c_j | x) = softmax(logits_j(h))
                   q(u_j | x, c_j) = N(mu_j(h a_j), diag exp(logvar_j(h a_j))),  a_j = sigmoid(slope(t) (A_j c_j + b_j)):
                   the class selects the features from which u is computed
Minimised, in nats per image, BC being the Bhattacharyya coefficient of two components of one variable:
    loss = rec + z_gamma * |C_z(t) - kl_z| + u_gamma * |C_u(t) - kl_u|
         + prior_weight * KL(mean_x q(c | x) || pi) + entropy_weight * H(q(c | x)) + overlap_weight * sum max(BC - theta, 0)
    kl_u = sum_j sum_k q(c_j = k | x) KL(q(u_j | x, c_j) || p(u_j | c_j = k))
Before every step on the loss, a second optimiser updates encoder and class head on a labelled batch:
    ce + consistency_weight * consistency,   ce = -log q(y | x)
c is drawn from the Gumbel-softmax in training and is the arg max in evaluation; t counts steps from 1.

The full text of the paper was not available: equations and defaults are those of sinahmr/parted-vae at 261f065.
Deviations: each variable has small layers of its own instead of masked large ones (`init="official"` keeps the scale of the
initial weights); the slope follows the step in evaluation too, where the official code always uses 8 (`eval_slope`), and the
learning rate is constant (`plateau`). Extensions of ours: `u_kl="exact"` uses the posterior given each component; `augment`
and `consistency_weight`: an unlabelled image with a confident q(c | x) must keep its class when it is augmented (Sohn et
al., 2020); `c_momentum` averages q(c) over past batches; `prior_lr`, `gate=False`, `supervised=False`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vae_zoo.config.types import Count, Momentum, NonNegative, NumClasses, Positive, Probabilities, Probability, Shape
from vae_zoo.contract import Batch, Block, Codes, Network, Term, Terms
from vae_zoo.distributions import (
    Categorical,
    ComponentTable,
    Likelihood,
    Normal,
    bhattacharyya,
    kl_normal,
    kl_normal_per_dim,
    kl_standard,
    kl_standard_per_dim,
    log_standard_normal,
)
from vae_zoo.models.discrete import MixtureLatentModel
from vae_zoo.nets.norm import statistics_kept
from vae_zoo.schedules import Plateau, Schedule, as_schedule
from vae_zoo.utils.parts import take


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of the loss.

    Args:
        z_capacity: C_z in nats, >= 0, a number or a schedule of the step.
        z_gamma: Cost of a nat of difference between kl_z and C_z, >= 0.
        u_capacity: C_u in nats, >= 0, a number or a schedule of the step.
        u_gamma: Cost of a nat of difference between kl_u and C_u, >= 0.
        prior_weight: Weight of the KL of the mean q(c | x) to the prior, >= 0.
        entropy_weight: Weight of the entropy of q(c | x), >= 0.
        overlap_weight: Weight of the overlap of components, >= 0.
        overlap_threshold: theta, the Bhattacharyya coefficient that has no cost, in [0, 1].
    """

    z_capacity: NonNegative | Schedule = 7.0
    z_gamma: NonNegative = 15.0
    u_capacity: NonNegative | Schedule = 7.0
    u_gamma: NonNegative = 15.0
    prior_weight: NonNegative = 15.0
    entropy_weight: NonNegative = 30.0
    overlap_weight: NonNegative = 30.0
    overlap_threshold: Probability = 0.15


@dataclass(frozen=True)
class Gate:
    """Attention of a class to the features h from which its u is computed.

    Args:
        gate: Whether there is one; False: u is computed from h alone.
        gate_slope: Slope in training, >= 0, a number or a schedule of the step.
        eval_slope: Slope in evaluation, >= 0; None: as in training.
        init: Scale of the initial weights of the layers of each variable, see the module's docstring.

    Raises:
        ValueError: eval_slope is given without a gate.
    """

    gate: bool = True
    gate_slope: NonNegative | Schedule = 8.0
    eval_slope: NonNegative | None = None
    init: Literal["official", "per_variable"] = "official"

    def __post_init__(self):
        if not self.gate and self.eval_slope is not None:
            raise ValueError(f"gate=false leaves eval_slope={self.eval_slope:g} unused; give eval_slope=null, or gate=true")


@dataclass(frozen=True)
class Supervision:
    """The step on a labelled batch.

    Args:
        supervised: Whether there is one.
        supervised_optimizer: Makes its optimiser.
        supervised_plateau: Rule that lowers its learning rate, by the cross-entropy.
        augment: Distorts its images [B, C, H, W], and if consistency_weight > 0 also those of the main batch.
        consistency_weight: Weight of the cross-entropy between an image of the main batch and its distorted copy, >= 0.
        consistency_threshold: Smallest probability of the predicted class for an image to count in it, in [0, 1].

    Raises:
        ValueError: A setting has no effect with the others, or augment is missing.
    """

    supervised: bool = True
    supervised_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    supervised_plateau: Plateau | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    consistency_weight: NonNegative = 0.0
    consistency_threshold: Probability = 0.95

    def __post_init__(self):
        if not self.supervised and (self.consistency_weight or self.augment is not None):
            raise ValueError(
                f"augment and consistency_weight={self.consistency_weight:g} have no effect with supervised=false; set "
                f"augment=null and consistency_weight=0, or supervised=true"
            )
        if not self.supervised and self.supervised_plateau is not None:
            raise ValueError("supervised_plateau has no effect with supervised=false; set it to null, or supervised=true")
        if self.consistency_weight and self.augment is None:
            raise ValueError("consistency_weight > 0 needs augment, such as vae_zoo.nets.RandomAffine; set it")
        if not self.consistency_weight and self.consistency_threshold != type(self).consistency_threshold:
            raise ValueError(
                f"consistency_weight=0 leaves consistency_threshold={self.consistency_threshold:g} unused; give "
                f"consistency_weight > 0, or consistency_threshold={type(self).consistency_threshold:g}"
            )


class PartedVAE(MixtureLatentModel):
    """VAE with class-related and class-independent codes; implements `vae_zoo.contract.HasClasses`.

    Args:
        image_shape: [C, H, W].
        z_dim: Dimensions of z.
        u_dim: Dimensions of the u of each variable.
        num_classes: K >= 2 of the variable `c`, or a list for `c1`, `c2`, ...
        network: Family of encoder and decoder (vae_zoo.nets).
        likelihood: p(x | z, u).
        class_probs: p(c), the variables one after the other; None: uniform.
        feature_dim: Dimensions of h.
        temperature: Temperature of the Gumbel-softmax, > 0.
        u_kl: `sampled` or `exact`, see the docstring of the module.
        detach_c: Whether kl_u has no gradient to q(c | x).
        c_momentum: Share of the past in the average of q(c), in [0, 1).
        prior_lr: Learning rate of p(u | c), >= 0; 0: it is not trained, None: that of the other weights.
        plateau: Rule that lowers the learning rate, by the loss.
        **settings: Fields of Weights, Gate and Supervision; the rest as in LatentVariableModel.
    """

    parts = (Weights, Gate, Supervision)
    needs = frozenset({"supervised"})
    free_of_class = ("z",)

    def __init__(
        self,
        image_shape: Shape,
        z_dim: Count,
        u_dim: Count,
        num_classes: NumClasses,
        network: Network,
        likelihood: Likelihood,
        class_probs: Probabilities | None = None,
        feature_dim: Count = 256,
        temperature: Positive = 0.67,
        u_kl: Literal["sampled", "exact"] = "sampled",
        detach_c: bool = False,
        c_momentum: Momentum = 0.0,
        prior_lr: NonNegative | None = None,
        plateau: Plateau | None = None,
        **settings,
    ):
        weights, gate, supervision = take(Weights, settings), take(Gate, settings), take(Supervision, settings)
        super().__init__(image_shape, num_classes, class_probs, **settings)
        if not supervision.supervised and weights.entropy_weight > weights.prior_weight:
            raise ValueError(
                f"entropy_weight must be at most prior_weight={weights.prior_weight} without labels, got "
                f"{weights.entropy_weight}; otherwise all images get the same class"
            )
        self.weights, self.gate, self.supervision = weights, gate, supervision
        self.temperature, self.u_kl, self.detach_c = temperature, u_kl, detach_c
        self.c_momentum, self.prior_lr = c_momentum, prior_lr
        self.plateaus = {k: rule for k, rule in (("loss", plateau), ("ce", supervision.supervised_plateau)) if rule}
        if self.plateaus:
            if self.lr_schedule is not None:
                raise ValueError("lr_schedule and a plateau both set the learning rate; set one of them to null")
            self.since_mean = nn.Buffer(torch.zeros(len(self.plateaus), dtype=torch.float64))  # sums of the averaged losses
        self.automatic_optimization = False
        self.needs = type(self).needs if supervision.supervised else frozenset()
        J, S = len(self.classes.sizes), self.classes.num_values
        holds = "the class given by the labels" if supervision.supervised else "the class"
        categorical = {n: Block(k, "categorical", holds) for n, k in zip(self.classes.names(), self.classes.sizes)}
        self.blocks = {
            "z": Block(z_dim, "gaussian", "variation that is independent of the class"),
            "u": Block(J * u_dim, "gaussian", "the class and the variation within it"),
        } | categorical
        self.encoder = network.encoder(self.image_shape, feature_dim)
        self.decoder = network.decoder(z_dim + J * u_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood
        self.z_head = nn.Linear(feature_dim, 2 * z_dim)
        self.c_head = nn.Linear(feature_dim, S)
        self.u_prior = ComponentTable(S, u_dim)
        official = gate.init == "official"  # one layer for all variables, masked
        variables = torch.full((J,), float(S)) if official else torch.tensor(self.classes.sizes).float()
        self.gate_weight = nn.Parameter(_uniform(S, feature_dim) / variables.sqrt()[self.classes.variable][:, None])
        self.gate_bias = nn.Parameter(_uniform(J, feature_dim) / variables.sqrt()[:, None])
        for unused in () if gate.gate else (self.gate_weight, self.gate_bias):
            unused.requires_grad_(False)  # ddp would wait for their gradients
        inputs = feature_dim * (J if official else 1)
        self.u_weight = nn.Parameter(_uniform(J, feature_dim, 2 * u_dim) / inputs**0.5)
        self.u_bias = nn.Parameter(_uniform(J, 2 * u_dim) / inputs**0.5)
        pairs = self.classes.member.T @ self.classes.member > 0  # of values of one variable
        self.pairs = nn.Buffer(pairs.tril(-1).nonzero().T, persistent=False)  # [2, P]
        self.past_c = nn.Buffer(self.classes.probs.clone())

    # ---- p and q --------------------------------------------------------------------------------------------------

    def slope(self) -> float:
        """Slope of the gate at the current step."""
        if not self.training and self.gate.eval_slope is not None:
            return self.gate.eval_slope
        return as_schedule(self.gate.gate_slope)(self.step + 1)

    def posterior_u(self, h: Float[Tensor, "B E"], c: Float[Tensor, "B S"]) -> Normal:
        """q(u_j | x, c_j) of each variable.

        Args:
            h: Features.
            c: Classes, one-hot or relaxed.

        Returns:
            A Gaussian of [B, J, D].
        """
        gated = h[:, None]  # [B, 1, E]
        if self.gate.gate:
            logits = (c[:, None] * self.classes.member) @ self.gate_weight + self.gate_bias  # [B, J, E]
            gated = gated * (self.slope() * logits).sigmoid()
        gated = gated.expand(-1, len(self.u_bias), -1)
        return Normal.from_params(torch.einsum("bjf,jfd->bjd", gated, self.u_weight) + self.u_bias)

    def posterior_of_each_value(self, h: Float[Tensor, "B E"]) -> Normal:
        """q(u_j | x, c_j = k) of all values of all variables, a Gaussian of [B, S, D]."""
        j = self.classes.variable
        gated = h[:, None].expand(-1, len(j), -1)  # [B, S, E]
        if self.gate.gate:
            gated = gated * (self.slope() * (self.gate_weight + self.gate_bias[j])).sigmoid()
        return Normal.from_params(torch.einsum("bsf,sfd->bsd", gated, self.u_weight[j]) + self.u_bias[j])

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(z | x), q(u | x, c) of the most probable classes, and q(c_j | x)."""
        h = self.features(self.image(batch))
        log_c = self.classes.log_softmax(self.c_head(h))
        q_u = self.posterior_u(h, self.classes.hard(log_c)).map(lambda t: t.flatten(1))
        return {"z": Normal.from_params(self.z_head(h)), "u": q_u} | self.class_codes(log_c)

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes z and u to mean images in [0, 1]; the decoder does not get the classes."""
        return self.likelihood.mean(self.decoder(self.join(codes)[:, : self.blocks["z"].size + self.blocks["u"].size]))

    def components(self, classes: Int[Tensor, "n J"], free: Codes) -> dict[str, Normal]:
        """p(u | c) of these classes, 0..K_j-1, {"u": Gaussian of [n, J, D]}."""
        return {"u": self.u_prior()[classes + self.classes.first]}

    def walk_in_class(self, j: int, classes: Int[Tensor, " J"], most: int = 2) -> tuple[Codes, list[str]]:
        """Walks within each value of one variable.

        A row starts 2 standard deviations below the mean of a component and ends 2 above it, along one of its widest
        dimensions; z is 0, and the other variables have the values of `classes`.

        Args:
            j: The variable.
            classes: Values of all variables.
            most: Dimensions of each component, the widest first.

        Returns:
            Codes [rows * 9, D], row by row, and the labels of the rows.
        """
        mu, logvar = self.u_prior.mu, self.u_prior().logvar
        first, size, d = int(self.classes.first[j]), self.classes.sizes[j], mu.shape[1]
        dims = logvar[first : first + size].topk(min(most, d), dim=1).indices  # [K, most]
        rows = torch.arange(size, device=mu.device).repeat_interleave(dims.shape[1])
        to = classes.repeat(len(rows), 1)
        to[:, j] = rows
        steps, dims = torch.linspace(-2, 2, 9, device=mu.device), dims.flatten()
        u = self.class_means(to)["u"][:, None].repeat(1, len(steps), 1)  # [R, 9, J d]
        deviation = (0.5 * logvar[first + rows, dims]).exp()[:, None] * steps  # [R, 9]
        u[torch.arange(len(rows)), :, j * d + dims] += deviation
        codes = self.classes.split(self.classes.code(to.repeat_interleave(len(steps), 0)))
        codes |= {"z": mu.new_zeros(len(rows) * len(steps), self.blocks["z"].size), "u": u.flatten(0, 1)}
        names = self.classes.names()
        return codes, [f"{names[j]} = {k}, u[{j * d + i}]" for k, i in zip(rows.tolist(), dims.tolist())]

    # ---- objective ------------------------------------------------------------------------------------------------

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, z_gap, u_gap, prior_c, entropy_c and overlap; the KL terms and largest_overlap are only logged."""
        x, t, weights = batch["image"], self.step + 1, self.weights
        h = self.features(x)
        log_c = self.classes.log_softmax(self.c_head(h))  # [B, S]
        c = self.classes.relaxed(log_c, self.temperature) if self.training else self.classes.hard(log_c)
        q_z, q_u, p_u = Normal.from_params(self.z_head(h)), self.posterior_u(h, c), self.u_prior()
        codes = torch.cat([q_z.rsample(), q_u.rsample().flatten(1)], dim=1)  # [B, D + J d]
        rec = -self.likelihood.log_prob(x, self.decoder(codes))
        kl_z, kl_u = kl_standard(q_z), self.kl_u(h, log_c, q_u)
        z_gap = (as_schedule(weights.z_capacity)(t) - self.batch_mean(kl_z)).abs()
        u_gap = (as_schedule(weights.u_capacity)(t) - self.batch_mean(kl_u)).abs()
        prior_c = self.classes.kl(self.average(log_c)).sum()
        entropy_c = self.batch_mean(self.classes.entropy(log_c).sum(1))
        coefficients = bhattacharyya(p_u[self.pairs[0]], p_u[self.pairs[1]])  # [P]
        overlap = (coefficients - weights.overlap_threshold).relu().sum()
        return {
            "rec": Term(rec, 1.0),
            "z_gap": Term(z_gap, weights.z_gamma),
            "u_gap": Term(u_gap, weights.u_gamma),
            "prior_c": Term(prior_c, weights.prior_weight),
            "entropy_c": Term(entropy_c, weights.entropy_weight),
            "overlap": Term(overlap, weights.overlap_weight),
            "kl_z": Term(kl_z),
            "kl_u": Term(kl_u),
            "kl_c": Term(self.classes.kl(log_c).sum(1)),
            "largest_overlap": Term(coefficients.max()),
        }

    def kl_u(self, h: Float[Tensor, "B E"], log_c: Float[Tensor, "B S"], q_u: Normal) -> Float[Tensor, " B"]:
        """KL of u to the components of its prior, expected under q(c | x).

        Args:
            h: Features.
            log_c: log q(c | x).
            q_u: Posterior of u at the drawn classes, [B, J, D].

        Returns:
            Nats.
        """
        q = self.posterior_of_each_value(h) if self.u_kl == "exact" else q_u[:, self.classes.variable]  # [B, S, d]
        probs = log_c.detach().exp() if self.detach_c else log_c.exp()
        return (probs * kl_normal(q, self.u_prior())).sum(1)

    def average(self, log_c: Float[Tensor, "B S"]) -> Float[Tensor, " S"]:
        """log of q(c) averaged over the batch, and with `c_momentum` over past batches, nats."""
        batch = self.batch_mean(log_c.exp())
        if not self.c_momentum:
            return batch.clamp(min=torch.finfo(batch.dtype).tiny).log()
        mixed = batch + self.c_momentum * (self.past_c - batch).detach()  # the gradient of the batch has full weight
        if self.training:
            self.past_c.copy_(mixed.detach())
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()

    def supervised_terms(self, batch: Batch) -> Terms:
        """The terms ce and consistency, means over their batches, nats.

        Args:
            batch: With `supervised`; its own images are those of the consistency.
        """
        labelled, wanted = batch["supervised"], self.supervision
        if wanted.augment is None:
            ce = self.classes.cross_entropy(self.class_log_probs(labelled["image"]), self.labels(labelled))
            return {"ce": Term(self.batch_mean(ce), 1.0)}
        x = wanted.augment(labelled["image"])
        if not wanted.consistency_weight:
            with statistics_kept(self.encoder):
                log_c = self.class_log_probs(x)
            return {"ce": Term(self.batch_mean(self.classes.cross_entropy(log_c, self.labels(labelled))), 1.0)}
        with torch.no_grad(), statistics_kept(self.encoder):
            probs = self.classes.padded(self.class_log_probs(batch["image"]).exp(), 0.0)  # [B, J, K]
            sure, pseudo = probs.max(-1)
            pseudo = pseudo.masked_fill(sure < wanted.consistency_threshold, -1)  # [B, J]
        with statistics_kept(self.encoder):
            log_c = self.class_log_probs(torch.cat([x, wanted.augment(batch["image"])]))
        ce = self.classes.cross_entropy(log_c[: len(x)], self.labels(labelled))
        consistency = self.classes.cross_entropy(log_c[len(x) :], pseudo)
        terms = {"ce": Term(self.batch_mean(ce), 1.0)}
        return terms | {"consistency": Term(self.batch_mean(consistency), wanted.consistency_weight)}

    def kl_per_dim(self, posterior: dict[str, Any]) -> dict[str, Float[Tensor, "B _"]]:
        """KL of each dimension of z to N(0, I), and of u to the components of its prior, expected under q(c | x), nats."""
        q_u = posterior["u"].map(lambda t: t.unflatten(1, (len(self.u_bias), -1)))[:, self.classes.variable]  # [B, S, d]
        probs = torch.cat([posterior[name].probs for name in self.classes.names()], dim=1)  # [B, S]
        per_value = probs[..., None] * kl_normal_per_dim(q_u, self.u_prior())
        return {"z": kl_standard_per_dim(posterior["z"]), "u": self.classes.sum_rows(per_value).flatten(1)}

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats; c is summed out.

        u is drawn from the mixture q(u | x), and its density is that of this mixture and of p(u).

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        x, h = batch["image"], self.features(batch["image"])
        log_c = self.classes.log_softmax(self.c_head(h))
        q_z, q_u, p_u = Normal.from_params(self.z_head(h)), self.posterior_of_each_value(h), self.u_prior()
        z, each = q_z.rsample((k,)), q_u.rsample((k,))  # [k, B, D], [k, B, S, d]
        c = self.classes.draw(log_c, (k,))  # [k, B, S]
        u = self.classes.sum_rows(c[..., None] * each)  # [k, B, J, d]
        of_variable = u[:, :, self.classes.variable]  # [k, B, S, d]
        log_q = self.log_mixture(log_c + q_u.log_prob(of_variable))  # [k, B]
        log_p = self.log_mixture(self.classes.probs.log() + p_u.log_prob(of_variable))
        codes = torch.cat([z, u.flatten(2)], dim=2).flatten(0, 1)  # [k B, D + J d]
        log_px = self.likelihood.log_prob_of_draws(x, self.decoder(codes))
        return log_px + log_standard_normal(z) - q_z.log_prob(z) + log_p - log_q

    def log_mixture(self, log_values: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch"]:
        """log of the product over variables of the sum over their values."""
        return self.classes.padded(log_values, -torch.inf).logsumexp(-1).sum(-1)

    # ---- training -------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Makes the optimisers and the rules of their learning rates, for Lightning."""
        prior = [*self.u_prior.parameters()]
        others = [p for name, p in self.named_parameters() if not name.startswith("u_prior.")]
        rate = {} if self.prior_lr is None else {"lr": self.prior_lr}
        wanted, optimizers = self.supervision, {"loss": self.optimizer([{"params": others}, {"params": prior} | rate])}
        if wanted.supervised:
            optimizers["ce"] = wanted.supervised_optimizer(self.class_parameters())
        return [*optimizers.values()], [rule(optimizers[name]) for name, rule in self.plateaus.items()]

    def class_parameters(self) -> list[nn.Parameter]:
        """The weights that the step on a labelled batch trains."""
        return [*self.encoder.parameters(), *self.c_head.parameters()]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Takes the step on the labelled batch, then that on the loss."""
        self.begin_step()
        optimizers: Any = self.optimizers()
        optimizer, *labelled = optimizers if self.supervision.supervised else (optimizers,)
        supervised = self.supervised_step(batch, *labelled) if labelled else {}
        terms = self.objective(batch)
        loss = self.total(terms)
        self.keep(loss, terms | {name: Term(value) for name, (value, _) in supervised.items()})  # of the other loss
        self.zero_grad()
        self.manual_backward(loss)
        self.configure_gradient_clipping(optimizer)
        optimizer.step()
        if self.plateaus:
            self.lower_rates({"loss": loss.detach()} | {name: term.value.detach() for name, term in supervised.items()})

    def lower_rates(self, values: dict[str, Float[Tensor, ""]]) -> None:
        """Adds the values of this step to sums; every `every` steps applies the rule of a learning rate to the mean.

        Args:
            values: The losses by name.
        """
        schedulers: list[Any] = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        self.since_mean += torch.stack([values[name] for name in self.plateaus]).double()
        for place, (rule, scheduler) in enumerate(zip(self.plateaus.values(), schedulers, strict=True)):
            if self.step % rule.every == 0:
                mean = self.trainer.strategy.reduce(self.since_mean[place].clone(), reduce_op="mean") / rule.every
                scheduler.step(mean.item())
                self.since_mean[place] = 0

    def supervised_step(self, batch: Batch, optimizer: Any) -> Terms:
        """Takes a step on the labelled batch.

        It computes the gradients itself, since ddp expects one backward pass in a step and this is the second.

        Args:
            batch: With `supervised`.
            optimizer: Optimizer of the step.

        Returns:
            The terms of the step.
        """
        terms = self.supervised_terms(batch)
        parameters = self.class_parameters()
        for p, gradient in zip(parameters, torch.autograd.grad(self.total(terms), parameters)):
            p.grad = self.trainer.strategy.reduce(gradient, reduce_op="mean")
        self.configure_gradient_clipping(optimizer)
        optimizer.optimizer.step()  # unwrapped: Lightning must not count it as a step
        return terms


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1
