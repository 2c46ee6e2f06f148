"""PartedVAE: class-related and class-independent factors from few labels (Hajimiri et al., 2021, arXiv:2102.00892).

Generative story:  z ~ N(0, I)    c_j ~ Cat(pi_j)    u_j | c_j = k ~ N(m_jk, diag exp(l_jk)), m and l learned
                   x ~ p(x | z, u): c reaches the image only through u
Inference:         h = f(x)    q(z | x) = N(mu(h), diag exp(logvar(h)))    q(c_j | x) = softmax(logits_j(h))
                   q(u_j | x, c_j) = N(mu_j(h a_j), diag exp(logvar_j(h a_j))),  a_j = sigmoid(slope(t) (A_j c_j + b_j)):
                   the class attends to the part of h that its u is read from
Minimised, in nats per image, BC being the Bhattacharyya coefficient of two components of one variable:
    loss = rec + z_gamma * |C_z(t) - kl_z| + u_gamma * |C_u(t) - kl_u|
         + prior_weight * KL(mean_x q(c | x) || pi) + entropy_weight * H(q(c | x)) + overlap_weight * sum max(BC - theta, 0)
    kl_u = sum_j sum_k q(c_j = k | x) KL(q(u_j | x, c_j) || p(u_j | c_j = k))
Before every step on the loss, encoder and class head take a step of their own optimiser on a labelled batch:
    ce + consistency_weight * consistency,   ce = -log q(y | x)
c is drawn from the Gumbel-softmax in training and is the arg max in evaluation; t counts steps from 1.

The body of the paper could not be read: equations and defaults are those of sinahmr/parted-vae at 261f065.
Deviations: the several variables have small layers of their own instead of masked large ones (`init="official"` keeps the
scale of their first weights); the slope follows the step in evaluation too, where the official code always has 8
(`eval_slope`); no plateau schedule of the learning rate. Ours alone: `u_kl="exact"` takes each component's own posterior,
`augment` and `consistency_weight` (the class of an image is kept by its distorted copy where it is sure; Sohn et al.,
2020), `c_momentum` averages q(c) over past batches, `prior_lr`, `gate=False`, `supervised=False`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_zoo.contract import Batch, Block, Codes, Term, Terms
from vae_zoo.distributions import ComponentTable, Likelihood, Normal, bhattacharyya, kl_normal, kl_standard
from vae_zoo.distributions.mixture import kl_normal_per_dim
from vae_zoo.distributions.normal import kl_standard_per_dim, log_standard_normal
from vae_zoo.models.discrete import LEAK, DiscreteLatentModel
from vae_zoo.schedules import Schedule, as_schedule


class PartedVAE(DiscreteLatentModel):
    """z_dim, u_dim: dimensions of z and of the u of each variable; feature_dim: of h. The rest: see above.

    gate_slope: a number or a schedule; temperature: of the Gumbel-softmax; detach_c: kl_u moves no q(c | x).
    """

    needs = frozenset({"supervised"})

    def __init__(
        self,
        image_shape: Sequence[int],
        z_dim: int,
        u_dim: int,
        num_classes: int | Sequence[int],
        network,
        likelihood: Likelihood,
        class_probs: Sequence[float] | None = None,
        feature_dim: int = 256,
        z_capacity: float | Schedule = 7.0,
        z_gamma: float = 15.0,
        u_capacity: float | Schedule = 7.0,
        u_gamma: float = 15.0,
        prior_weight: float = 15.0,
        entropy_weight: float = 30.0,
        overlap_weight: float = 30.0,
        overlap_threshold: float = 0.15,
        temperature: float = 0.67,
        gate: bool = True,
        gate_slope: float | Schedule = 8.0,
        eval_slope: float | None = None,
        init: Literal["official", "per_variable"] = "official",
        u_kl: Literal["sampled", "exact"] = "sampled",
        detach_c: bool = False,
        c_momentum: float = 0.0,
        prior_lr: float | None = None,
        supervised: bool = True,
        supervised_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        augment: Callable[[Tensor], Tensor] | None = None,
        consistency_weight: float = 0.0,
        consistency_threshold: float = 0.95,
        **training,
    ):
        super().__init__(image_shape, num_classes, class_probs, **training)
        if not supervised and entropy_weight > prior_weight:
            raise ValueError(
                f"without labels all images fall into one class where entropy_weight={entropy_weight} exceeds "
                f"prior_weight={prior_weight}; lower it"
            )
        if consistency_weight and augment is None:
            raise ValueError("consistency_weight > 0 compares an image with its distorted copy; give augment")
        self.automatic_optimization = False
        self.needs = type(self).needs if supervised else frozenset()
        J, S = len(self.classes.sizes), self.classes.num_values
        categorical = {
            name: Block(size, "categorical", "the class, as the labels name it" if supervised else "the class")
            for name, size in zip(self.classes.names(), self.classes.sizes)
        }
        self.blocks = {
            "z": Block(z_dim, "gaussian", "what images of all classes share"),
            "u": Block(J * u_dim, "gaussian", "what belongs to the class, and how it varies within it"),
        } | categorical
        self.encoder = network.encoder(self.image_shape, feature_dim)
        self.decoder = network.decoder(z_dim + J * u_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood
        self.z_head = nn.Linear(feature_dim, 2 * z_dim)
        self.c_head = nn.Linear(feature_dim, S)
        self.u_prior = ComponentTable(S, u_dim)
        variables = torch.tensor(self.classes.sizes).float() if init == "per_variable" else torch.full((J,), float(S))
        self.gate_weight = nn.Parameter(_uniform(S, feature_dim) / variables.sqrt()[self.classes.variable][:, None])
        self.gate_bias = nn.Parameter(_uniform(J, feature_dim) / variables.sqrt()[:, None])
        inputs = feature_dim * (J if init == "official" else 1)  # of the official layer, masked or not
        self.u_weight = nn.Parameter(_uniform(J, feature_dim, 2 * u_dim) / inputs**0.5)
        self.u_bias = nn.Parameter(_uniform(J, 2 * u_dim) / inputs**0.5)
        pairs = self.classes.member.T @ self.classes.member > 0  # of values of one variable
        self.pairs = nn.Buffer(pairs.tril(-1).nonzero().T, persistent=False)  # [2, P]
        self.past_c = nn.Buffer(self.classes.probs.clone())
        self.z_capacity, self.u_capacity, self.gate_slope = map(as_schedule, (z_capacity, u_capacity, gate_slope))
        self.z_gamma, self.u_gamma = z_gamma, u_gamma
        self.prior_weight, self.entropy_weight = prior_weight, entropy_weight
        self.overlap_weight, self.overlap_threshold = overlap_weight, overlap_threshold
        self.temperature, self.gate, self.eval_slope = temperature, gate, eval_slope
        self.u_kl, self.detach_c, self.c_momentum, self.prior_lr = u_kl, detach_c, c_momentum, prior_lr
        self.supervised, self.supervised_optimizer = supervised, supervised_optimizer
        self.augment, self.consistency_weight = augment, consistency_weight
        self.consistency_threshold = consistency_threshold

    # ---- p and q --------------------------------------------------------------------------------------------------

    def features(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.encoder(x), LEAK)  # [B, F]

    def class_log_probs(self, x: Tensor) -> Tensor:
        return self.classes.log_softmax(self.c_head(self.features(x)))

    def slope(self) -> float:
        if not self.training and self.eval_slope is not None:
            return self.eval_slope
        return self.gate_slope(self.step + 1)

    def posterior_u(self, h: Tensor, c: Tensor) -> Normal:
        """q(u_j | x, c_j): h [B, F], c [B, S], soft or hard -> [B, J, d]."""
        gated = h[:, None]  # [B, 1, F]
        if self.gate:
            logits = (c[:, None] * self.classes.member) @ self.gate_weight + self.gate_bias  # [B, J, F]
            gated = gated * (self.slope() * logits).sigmoid()
        gated = gated.expand(-1, len(self.u_bias), -1)
        return Normal.from_params(torch.einsum("bjf,jfd->bjd", gated, self.u_weight) + self.u_bias)

    def posterior_of_each_value(self, h: Tensor) -> Normal:
        """q(u_j | x, c_j = k) for all values of all variables: [B, S, d]."""
        j = self.classes.variable
        gated = h[:, None].expand(-1, len(j), -1)  # [B, S, F]
        if self.gate:
            gated = gated * (self.slope() * (self.gate_weight + self.gate_bias[j])).sigmoid()
        return Normal.from_params(torch.einsum("bsf,sfd->bsd", gated, self.u_weight[j]) + self.u_bias[j])

    def encode(self, batch: Batch | Tensor) -> dict:
        h = self.features(self.image(batch))
        log_c = self.classes.log_softmax(self.c_head(h))
        q_u = self.posterior_u(h, self.classes.hard(log_c)).map(lambda t: t.flatten(1))
        return {"z": Normal.from_params(self.z_head(h)), "u": q_u} | self.class_codes(log_c)

    def decode(self, codes: Codes) -> Tensor:
        return self.likelihood.mean(self.decoder(self.join(codes)[:, : self.blocks["z"].size + self.blocks["u"].size]))

    def sample_class(self, classes: Tensor) -> Codes:
        z = torch.randn(len(classes), self.blocks["z"].size, device=self.device)
        p_u = self.u_prior()[classes + self.classes.first]  # [n, J, d]
        u = p_u.mu + torch.randn_like(p_u.mu) * (0.5 * p_u.logvar).exp()
        return {"z": z, "u": u.flatten(1)} | self.classes.split(self.classes.code(classes))

    def with_class(self, codes: Codes, classes: Tensor) -> Codes:
        """z is kept, and each u_j keeps its place in its component: as many deviations from the mean, of the new one."""
        old = torch.stack([code.argmax(-1) for name, code in codes.items() if name in self.classes.names()], dim=1)  # [B, J]
        a, b = (self.u_prior()[k + self.classes.first] for k in (old, classes))  # [B, J, d]
        u = codes["u"].view_as(a.mu)
        moved = b.mu + (u - a.mu) * (0.5 * (b.logvar - a.logvar)).exp()
        return super().with_class(codes, classes) | {"u": moved.flatten(1)}

    def class_means(self, classes: Tensor) -> Codes:
        """u at the means of the components of these classes [n, J]."""
        return {"u": self.u_prior.mu[classes + self.classes.first].flatten(1)}

    def walk_in_class(self, j: int, classes: Tensor, most: int = 2) -> tuple[Codes, list[str]]:
        """From the mean of each component of variable j, 2 deviations either way along its `most` widest dimensions; z at
        0, the other variables at `classes` [J]. Codes [rows x 9, D], and a label for each row.
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
        x, t = batch["image"], self.step + 1
        h = self.features(x)
        log_c = self.classes.log_softmax(self.c_head(h))  # [B, S]
        c = self.classes.relaxed(log_c, self.temperature) if self.training else self.classes.hard(log_c)
        q_z, q_u, p_u = Normal.from_params(self.z_head(h)), self.posterior_u(h, c), self.u_prior()
        codes = torch.cat([q_z.rsample(), q_u.rsample().flatten(1)], dim=1)  # [B, D + J d]
        rec = -self.likelihood.log_prob(x, self.decoder(codes))
        kl_z, kl_u = kl_standard(q_z), self.kl_u(h, log_c, q_u)
        z_gap = (self.z_capacity(t) - kl_z.mean()).abs()
        u_gap = (self.u_capacity(t) - kl_u.mean()).abs()
        prior_c = self.classes.kl(self.average(log_c)).sum()
        entropy_c = self.classes.entropy(log_c).sum(1).mean()
        coefficients = bhattacharyya(p_u[self.pairs[0]], p_u[self.pairs[1]])  # [P]
        overlap = (coefficients - self.overlap_threshold).relu().sum()
        return {
            "rec": Term(rec, 1.0),
            "z_gap": Term(z_gap, self.z_gamma),
            "u_gap": Term(u_gap, self.u_gamma),
            "prior_c": Term(prior_c, self.prior_weight),
            "entropy_c": Term(entropy_c, self.entropy_weight),
            "overlap": Term(overlap, self.overlap_weight),
            "kl_z": Term(kl_z),
            "kl_u": Term(kl_u),
            "kl_c": Term(self.classes.kl(log_c).sum(1)),
            "largest_overlap": Term(coefficients.max()),
        }

    def kl_u(self, h: Tensor, log_c: Tensor, q_u: Normal) -> Tensor:
        """[B] nats."""
        q = self.posterior_of_each_value(h) if self.u_kl == "exact" else q_u[:, self.classes.variable]  # [B, S, d]
        probs = log_c.detach().exp() if self.detach_c else log_c.exp()
        return (probs * kl_normal(q, self.u_prior())).sum(1)

    def average(self, log_c: Tensor) -> Tensor:
        """log of q(c) averaged over the batch, and with `c_momentum` over past ones: [S]."""
        batch = log_c.exp().mean(0)
        if not self.c_momentum:
            return batch.clamp(min=torch.finfo(batch.dtype).tiny).log()
        mixed = self.c_momentum * self.past_c + (1 - self.c_momentum) * batch
        if self.training:
            self.past_c.copy_(mixed.detach())
        return mixed.log()

    def supervised_terms(self, batch: Batch) -> Terms:
        """What the labelled images teach, and what distorted copies of the others do, nats, means over their batches."""
        labelled = batch["supervised"]
        x = labelled["image"] if self.augment is None else self.augment(labelled["image"])
        if not self.consistency_weight:
            return {"ce": Term(self.classes.cross_entropy(self.class_log_probs(x), self.labels(labelled)).mean(), 1.0)}
        with torch.no_grad():
            probs = self.classes.padded(self.class_log_probs(batch["image"]).exp(), 0.0)  # [B, J, K]
            sure, pseudo = probs.max(-1)
            pseudo = pseudo.masked_fill(sure < self.consistency_threshold, -1)  # [B, J]
        log_c = self.class_log_probs(torch.cat([x, self.augment(batch["image"])]))
        ce = self.classes.cross_entropy(log_c[: len(x)], self.labels(labelled))
        consistency = self.classes.cross_entropy(log_c[len(x) :], pseudo)
        return {"ce": Term(ce.mean(), 1.0), "consistency": Term(consistency.mean(), self.consistency_weight)}

    def kl_per_dim(self, posterior: dict) -> dict[str, Tensor]:
        q_u = posterior["u"].map(lambda t: t.unflatten(1, (len(self.u_bias), -1)))[:, self.classes.variable]  # [B, S, d]
        probs = torch.cat([posterior[name].probs for name in self.classes.names()], dim=1)  # [B, S]
        per_value = probs[..., None] * kl_normal_per_dim(q_u, self.u_prior())
        kl_u = torch.einsum("bsd,js->bjd", per_value, self.classes.member).flatten(1)
        return {"z": kl_standard_per_dim(posterior["z"]), "u": kl_u}

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        """c is summed out: u is drawn from, and weighed under, the mixtures q(u | x) and p(u)."""
        x, h = batch["image"], self.features(batch["image"])
        log_c = self.classes.log_softmax(self.c_head(h))
        q_z, q_u, p_u = Normal.from_params(self.z_head(h)), self.posterior_of_each_value(h), self.u_prior()
        z, each = q_z.rsample((k,)), q_u.rsample((k,))  # [k, B, D], [k, B, S, d]
        c = self.classes.draw(log_c, (k,))  # [k, B, S]
        u = torch.einsum("kbsd,js->kbjd", c[..., None] * each, self.classes.member)
        of_variable = u[:, :, self.classes.variable]  # [k, B, S, d]
        log_q = self.log_mixture(log_c + q_u.log_prob(of_variable))  # [k, B]
        log_p = self.log_mixture(self.classes.probs.log() + p_u.log_prob(of_variable))
        codes = torch.cat([z, u.flatten(2)], dim=2).flatten(0, 1)  # [k B, D + J d]
        log_px = self.likelihood.log_prob_of_draws(x, self.decoder(codes))
        return log_px + log_standard_normal(z) - q_z.log_prob(z) + log_p - log_q

    def log_mixture(self, log_values: Tensor) -> Tensor:
        """log of the product over variables of the sum over their values: [..., S] -> [...]."""
        return self.classes.padded(log_values, -torch.inf).logsumexp(-1).sum(-1)

    # ---- training -------------------------------------------------------------------------------------------------

    def configure_optimizers(self):
        prior = [*self.u_prior.parameters()]
        others = [p for name, p in self.named_parameters() if not name.startswith("u_prior.")]
        main = self.optimizer([{"params": others}, {"params": prior} | ({"lr": self.prior_lr} if self.prior_lr else {})])
        return (main, self.supervised_optimizer(self.class_parameters())) if self.supervised else main

    def class_parameters(self) -> list[nn.Parameter]:
        return [*self.encoder.parameters(), *self.c_head.parameters()]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.begin_step()
        optimizer, *labelled = self.optimizers() if self.supervised else (self.optimizers(),)
        supervised = self.supervised_step(batch, *labelled) if self.supervised else {}
        terms = self.objective(batch)
        loss = self.total(terms)
        self.keep(loss, terms | {name: Term(value) for name, (value, _) in supervised.items()})  # of the other loss
        self.zero_grad()
        self.manual_backward(loss)
        self.configure_gradient_clipping(optimizer)
        optimizer.step()

    def supervised_step(self, batch: Batch, optimizer) -> Terms:
        """Gradients by hand: a second backward pass in a step is none of what ddp has prepared."""
        terms = self.supervised_terms(batch)
        parameters = self.class_parameters()
        for p, gradient in zip(parameters, torch.autograd.grad(self.total(terms), parameters)):
            p.grad = self.trainer.strategy.reduce(gradient, reduce_op="mean")
        self.configure_gradient_clipping(optimizer)
        optimizer.optimizer.step()  # unwrapped: Lightning must not count it as a step
        return terms


def _uniform(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1
