"""SPAIR: a scene is objects on a background, found without labels (Crawford and Pineau, 2019, AAAI 33, p. 3412).

In the form of 51616/split-vae (Charakorn et al., 2020), where all cells of a grid are inferred at once. N cells i:
Generative story:
    C ~ p(C = k) = s^k / sum_j s^j, k = 0..N;  which C cells hold an object: all choices alike     -> z_pres[i] in {0, 1}
    z_scale[i] ~ N(mu_s, 0.5^2)     z_shift[i], z_what[i], z_depth[i] ~ N(0, I)     z_background ~ N(0, I)
    box[i]: size = anchor sigmoid(z_scale), centre = that of the cell + reach tanh(z_shift)
    colour and opacity in the box = decoder(z_what),  ground = decoder(z_background), black without that block
    t = z_pres opacity,  w = t (1/2 + sigmoid(-z_depth)),  C = sum_i w c / sum_i w,  A = sum_i t w / sum_i w   at each pixel
    x ~ p(x | A C + (1 - A) ground)
Inference, each head seeing the draws of those before it:
    features(x) -> q(z_scale, z_shift) -> glimpse of the box -> q(z_what) -> q(z_depth) -> q(z_pres)     q(z_background | x)
    z_pres is relaxed: vae_zoo.distributions.presence, which also has the count prior given the cells before
Minimised, in nats per image, all sums over cells:
    loss = rec + beta_where * kl_where + beta_what * kl_what + beta_depth * kl_depth + beta_pres * kl_pres
           + beta_background * kl_background
    rec = -log p(x | z) at one draw; kl_where is that of z_scale and z_shift; kl_pres uses the draws z_pres > 1/2 of the
    cells before, and is the relaxed variables' own KL (`analytic`), one draw of it (`mc`), or that of Bernoulli variables

Both priors that decide how many and how large are schedules: s falls from 1 (any number is as likely) to nearly 0, mu_s to
the size one believes in. With a background that learns along, objects die out unless they have a start: `wheels_steps`
without a gradient to depth and presence, an opacity and a presence that start high (`alpha_bias`, `presence_bias`), a
sharp likelihood, and pressure on presence only at the end. docs/spair.md tells what happens without, and the
deviations.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vae_zoo.contract import Batch, Block, Codes, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_normal, kl_standard, noise
from vae_zoo.distributions.normal import log_standard_normal
from vae_zoo.distributions.presence import kl_bernoulli, kl_relaxed, log_relaxed, prior_log_odds, sample_occupied
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.nets.mlp import dense
from vae_zoo.nets.spatial import CellBackbone, crop, have_duplicates, paste
from vae_zoo.schedules import Schedule, as_schedule

logger = logging.getLogger(__name__)

WHERE = 4  # numbers of z_scale (x, y) and z_shift (x, y)
SCALE_STD = 0.5  # of the prior of z_scale
PASSED = 8  # numbers that a head hands on to the later heads
NEARLY = 10.0  # largest logit of presence


@dataclass
class Objects:
    """The posterior of the objects; each head's is given the draws of those before. scale, ..., depth: Normal of [B, N, .];
    logit: of presence [B, N]; z: a draw, or the means, of where, what, depth side by side [B, N, 4 + A + 1]; y: of the
    relaxed presence [B, N], None for the means."""

    scale: Normal
    shift: Normal
    what: Normal
    depth: Normal
    logit: Tensor
    z: Tensor
    y: Tensor | None

    @property
    def mean(self) -> Tensor:
        """The code: z and the presence, 0 or 1 where it is no draw, cell by cell, [B, N (4 + A + 2)]."""
        presence = (self.logit > 0).to(self.z) if self.y is None else self.y.sigmoid()
        return torch.cat([self.z, presence[..., None]], dim=-1).flatten(1)


@dataclass
class Scene:
    """image, ground [B, C, H, W]; share [B, N, H, W]: how much of each pixel is of each object; box [B, N, 4], centre and
    size in pixels; sprite [B, N, C, g, g] and alpha [B, N, 1, g, g] within the boxes; presence [B, N]."""

    image: Tensor
    ground: Tensor
    share: Tensor
    box: Tensor
    sprite: Tensor
    alpha: Tensor
    presence: Tensor


class SPAIR(LatentVariableModel):
    """what_dim: of each object; background_dim: 0 is a black ground; network: of the background; object_network: of glimpses
    of glimpse_size pixels a side; channels, strides, features, head_kernel: of CellBackbone; head_hidden: units of heads;
    anchor: the largest size of an object, pixels; reach: how far from the middle of its cell the middle of a box may lie, in
    cells; scale_prior: mu_s; count_prior: s > 0; temperature: of the relaxed presence; depth_weight: w as above, or
    `softmax` over cells of 100 t sigmoid(-z_depth): the nearest hides others."""

    def __init__(
        self,
        image_shape: Sequence[int],
        what_dim: int,
        background_dim: int,
        network,
        object_network,
        likelihood: Likelihood,
        channels: Sequence[int],
        strides: Sequence[int],
        features: int,
        head_kernel: int,
        head_hidden: Sequence[int],
        glimpse_size: int,
        anchor: float,
        scale_prior: float | Schedule,
        count_prior: float | Schedule,
        beta_where: float | Schedule = 1.0,
        beta_what: float | Schedule = 1.0,
        beta_depth: float | Schedule = 1.0,
        beta_pres: float | Schedule = 1.0,
        beta_background: float | Schedule = 1.0,
        pres_kl: Literal["analytic", "mc", "bernoulli"] = "analytic",
        temperature: float = 0.8,
        reach: float = 1.0,
        presence_bias: float = 0.0,
        alpha_bias: float = 0.0,
        alpha_scale: float = 1.0,
        wheels_steps: int = 0,
        depth_weight: Literal["split", "softmax"] = "split",
        **training,
    ):
        super().__init__(image_shape, **training)
        _check_count_prior(count_prior)
        if likelihood.num_params > 1:
            raise ValueError(
                f"likelihood={type(likelihood).__name__} needs {likelihood.num_params} numbers a pixel, and a scene has "
                f"one, its mean; choose another, such as model/likelihood=sharp_laplace"
            )
        C, H, W = self.image_shape
        self.backbone = CellBackbone(C, channels, strides, features, head_kernel)
        rows, columns = self.backbone.grid(H, W)
        self.num_cells, self.what_dim, self.code_size = rows * columns, what_dim, WHERE + what_dim + 2
        self.blocks = {
            "objects": Block(self.num_cells * self.code_size, "objects", "where, what, depth and presence of each cell")
        }
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        self.centres = nn.Buffer(
            self.backbone.cell * (torch.stack([x, y], -1).view(-1, 2) + 0.5), persistent=False
        )  # [N, 2]
        seen = features + PASSED + WHERE
        self.where_head = nn.Sequential(*dense([features, *head_hidden, 2 * WHERE + PASSED]))
        self.depth_head = nn.Sequential(*dense([seen + what_dim, head_hidden[-1], 2 + PASSED]))
        self.pres_head = nn.Sequential(*dense([seen + what_dim + 1, head_hidden[-1], 1]))
        self.glimpse_size = glimpse_size
        self.object_encoder = object_network.encoder((C, glimpse_size, glimpse_size), 2 * what_dim)
        self.object_decoder = object_network.decoder(what_dim, (C + 1, glimpse_size, glimpse_size))
        self.has_background = background_dim > 0
        if self.has_background:
            holds = "what is left of the image when its objects are taken away"
            self.blocks["background"] = Block(background_dim, "gaussian", holds)
            self.encoder = network.encoder(self.image_shape, 2 * background_dim)
            self.decoder = network.decoder(background_dim, self.image_shape)
        self.likelihood, self.anchor, self.reach = likelihood, anchor, reach * self.backbone.cell
        self.scale_prior, self.count_prior = as_schedule(scale_prior), as_schedule(count_prior)
        self.betas = {
            "kl_where": as_schedule(beta_where),
            "kl_what": as_schedule(beta_what),
            "kl_depth": as_schedule(beta_depth),
        }
        self.betas["kl_pres"] = as_schedule(beta_pres)
        if self.has_background:
            self.betas["kl_background"] = as_schedule(beta_background)
        self.pres_kl, self.temperature, self.presence_bias = pres_kl, temperature, presence_bias
        self.alpha_bias, self.alpha_scale = alpha_bias, alpha_scale
        self.wheels_steps, self.depth_weight = wheels_steps, depth_weight
        self._warned: set[str] = set()

    # ---- inference ------------------------------------------------------------------------------------------------

    def draw(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Noise of k draws for images [B, ...]: normal [k B, N, 4 + A + 1] and logistic [k B, N]."""
        eps = noise.normal(x.new_empty(len(x), self.num_cells, self.code_size - 1), (k,))
        u = noise.uniform(x.new_empty(len(x), self.num_cells), (k,)).clamp(1e-6, 1 - 1e-6)
        return eps.flatten(0, 1), u.logit().flatten(0, 1)

    def infer(self, x: Tensor, draw: tuple[Tensor, Tensor] | None = None) -> Objects:
        """q(objects | x) and the draw that this noise makes, or the means."""
        learning = float(not (self.training and self.step < self.wheels_steps))
        eps, logistic = draw or (x.new_zeros(len(x), self.num_cells, self.code_size - 1), None)
        features = self.backbone(x)  # [B, N, F]
        where, passed = self.where_head(features).split([2 * WHERE, PASSED], dim=-1)
        mu, raw = where.chunk(2, dim=-1)
        scale = Normal.from_softplus(torch.cat([mu[..., :2], raw[..., :2] - 1], dim=-1))
        shift = Normal.from_softplus(torch.cat([mu[..., 2:], raw[..., 2:]], dim=-1))
        z_where = torch.cat([_at(scale, eps[..., :2]), _at(shift, eps[..., 2:4])], dim=-1)
        glimpse = crop(x, self.box(z_where), self.glimpse_size)  # [B, N, C, g, g]
        what = Normal.from_softplus(self.object_encoder(glimpse.flatten(0, 1)).unflatten(0, (len(x), -1)))
        z_what = _at(what, eps[..., WHERE:-1])
        depth, passed = self.depth_head(torch.cat([features, passed.relu(), z_where, z_what], -1)).split([2, PASSED], dim=-1)
        depth = Normal.from_softplus(_held(depth, learning))
        z = torch.cat([z_where, z_what, _at(depth, eps[..., -1:])], dim=-1)
        logit = self.pres_head(torch.cat([features, passed.relu(), z], dim=-1))[..., 0].float() + self.presence_bias
        logit = _held(logit.clamp(-NEARLY, NEARLY), learning)
        y = None if logistic is None else (logit + logistic) / self.temperature
        return Objects(scale, shift, what, depth, logit, z, y)

    def encode(self, batch: Batch | Tensor) -> dict[str, Objects | Normal]:
        """The objects at their means: no draw in it, and a presence of 0 or 1."""
        x = self.image(batch)
        return {"objects": self.infer(x)} | self.encode_whole(x)

    def encode_whole(self, x: Tensor) -> dict[str, Normal]:
        """The posteriors of the blocks that belong to no object."""
        return {"background": Normal.from_softplus(self.encoder(x))} if self.has_background else {}

    # ---- the renderer ---------------------------------------------------------------------------------------------

    def box(self, z_where: Tensor) -> Tensor:
        """Centre x, y and width, height in pixels, [B, N, 4]."""
        size = self.anchor * z_where[..., :2].float().sigmoid()
        return torch.cat([self.centres + self.reach * z_where[..., 2:].float().tanh(), size], dim=-1)

    def split_code(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z_where [B, N, 4], z_what [B, N, A], z_depth [B, N], z_pres [B, N] in [0, 1]."""
        where, what, depth, pres = code.unflatten(1, (self.num_cells, -1)).split([WHERE, self.what_dim, 1, 1], dim=-1)
        return where, what, depth[..., 0], pres[..., 0]

    def seen_by(self, part: Literal["objects", "background"], code: Tensor, codes: Codes) -> Tensor:
        """What a decoder is given of the codes: here that of its own part, [..., D]."""
        return code

    def render(self, codes: Codes) -> Scene:
        C, H, W = self.image_shape
        where, what, depth, presence = self.split_code(codes["objects"])
        decoded = self.object_decoder(self.seen_by("objects", what, codes).flatten(0, 1)).float()
        decoded = decoded.unflatten(0, where.shape[:2])  # [B, N, C + 1, g, g]
        sprite, alpha = decoded[:, :, :C].sigmoid(), (self.alpha_scale * decoded[:, :, C:] + self.alpha_bias).sigmoid()
        box = self.box(where)
        colour, opacity = paste(torch.cat([sprite, alpha], dim=2), box, H, W).split([C, 1], dim=2)  # [B, N, ., H, W]
        mixed, opaque, share = composite(colour, presence[..., None, None] * opacity[:, :, 0], depth, self.depth_weight)
        ground = torch.zeros_like(mixed)
        if self.has_background:
            ground = self.decoder(self.seen_by("background", codes["background"], codes)).float().sigmoid()
        image = opaque * mixed + (1 - opaque) * ground
        return Scene(image, ground, share, box, sprite, alpha, presence)

    def without_object(self, codes: Codes, object_: Tensor) -> Codes:
        """The codes without one object of each image, [B] cells."""
        where, what, depth, presence = self.split_code(codes["objects"])
        rows = torch.arange(len(object_), device=object_.device)
        presence = presence.clone()
        presence[rows, object_] = 0
        return codes | {"objects": join_code(where, what, depth, presence)}

    def with_object_moved(self, codes: Codes, object_: Tensor) -> Codes:
        """The codes with one object of each image, [B] cells, on the other side of its cell along x."""
        where, what, depth, presence = self.split_code(codes["objects"])
        rows, where = torch.arange(len(object_), device=object_.device), where.clone()
        where[rows, object_, 2] = torch.where(where[rows, object_, 2] > 0, -1.0, 1.0)  # z_shift, along x
        return codes | {"objects": join_code(where, what, depth, presence)}

    def decode(self, codes: Codes) -> Tensor:
        return self.render(codes).image.clamp(0, 1)  # sums of shares may miss 1 by rounding

    def sample_prior(self, n: int) -> Codes:
        where = torch.randn(n, self.num_cells, self.code_size - 1, device=self.device)
        where[..., :2] = self.scale_prior(self.step) + SCALE_STD * where[..., :2]
        presence = sample_occupied(n, self.num_cells, self.count_prior(self.step), self.device)
        codes = {"objects": torch.cat([where, presence[..., None].to(where)], dim=-1).flatten(1)}
        others = {name: block.size for name, block in self.blocks.items() if name != "objects"}
        return codes | {name: torch.randn(n, size, device=self.device) for name, size in others.items()}

    # ---- objective ------------------------------------------------------------------------------------------------

    def kl_objects(self, q: Objects) -> dict[str, Tensor]:
        """KL of each part of the objects, summed over the cells, [B] nats."""
        scale = Normal(
            torch.full_like(q.scale.mu, self.scale_prior(self.step)), torch.full_like(q.scale.mu, SCALE_STD**2).log()
        )
        prior = prior_log_odds(q.y > 0, self.count_prior(self.step))
        pres = {
            "analytic": lambda: kl_relaxed(q.logit, prior),
            "mc": lambda: log_relaxed(q.y, q.logit, self.temperature) - log_relaxed(q.y, prior, self.temperature),
            "bernoulli": lambda: kl_bernoulli(q.logit, prior),
        }[self.pres_kl]()
        return {
            "kl_where": (kl_normal(q.scale, scale) + kl_standard(q.shift)).sum(1),
            "kl_what": kl_standard(q.what).sum(1),
            "kl_depth": kl_standard(q.depth).sum(1),
            "kl_pres": pres.sum(1),
        }

    def scene_terms(self, x: Tensor, others: dict[str, Normal]) -> tuple[Terms, Codes]:
        """The terms of images whose other blocks have these posteriors, and the draw at which they are."""
        q = self.infer(x, self.draw(x, 1))
        codes = {"objects": q.mean} | {name: block.rsample() for name, block in others.items()}
        rec = -self.likelihood.log_prob(x, self.likelihood.params_of(self.render(codes).image))
        kls = self.kl_objects(q) | {f"kl_{name}": kl_standard(block) for name, block in others.items()}
        terms = {"rec": Term(rec, 1.0)} | {name: Term(kl, self.betas[name](self.step)) for name, kl in kls.items()}
        return terms | {"count": Term((q.logit > 0).sum(1).float())}, codes

    def objective(self, batch: Batch) -> Terms:
        x = batch["image"]
        return self.scene_terms(x, self.encode_whole(x))[0]

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        """With the relaxed presence in both p and q, and the priors of the present step: [k, B]."""
        x = batch["image"]
        q = self.infer(x.repeat(k, 1, 1, 1), self.draw(x, k))
        others = self.encode_whole(x)
        z = {name: block.rsample((k,)) for name, block in others.items()}  # [k, B, D]
        codes = {"objects": q.mean} | {name: draws.flatten(0, 1) for name, draws in z.items()}
        log_w = self.likelihood.log_prob(x.repeat(k, 1, 1, 1), self.likelihood.params_of(self.render(codes).image))
        z_scale, z_rest = q.z[..., :2], q.z[..., 2:]
        rest = Normal(
            *(torch.cat([getattr(part, key) for part in (q.shift, q.what, q.depth)], -1) for key in ("mu", "logvar"))
        )
        prior = prior_log_odds(q.y > 0, self.count_prior(self.step))
        log_w = log_w + (log_relaxed(q.y, prior, self.temperature) - log_relaxed(q.y, q.logit, self.temperature)).sum(1)
        log_w = log_w + (log_standard_normal(z_rest) - rest.log_prob(z_rest)).sum(1)
        standard = (z_scale - self.scale_prior(self.step)) / SCALE_STD
        log_scale = log_standard_normal(standard) - z_scale.shape[-1] * torch.tensor(SCALE_STD).log()
        log_w = (log_w + (log_scale - q.scale.log_prob(z_scale)).sum(1)).view(k, len(x))
        return log_w + sum(log_standard_normal(z[name]) - others[name].log_prob(z[name]) for name in others)

    # ---- what is found --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def detect(self, batch: Batch | Tensor, least: float = 0.05) -> list[dict[str, Tensor]]:
        """For each image what torchmetrics takes: boxes [n, 4], x0 y0 x1 y1 in pixels within the image, scores [n], the
        probability of presence, above `least`, and labels [n], all 0."""
        q = self.infer(self.image(batch))
        _, H, W = self.image_shape
        centre, size = self.box(q.z[..., :WHERE]).chunk(2, dim=-1)
        edge = torch.tensor([W, H, W, H], device=size.device)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(min=0).minimum(edge)
        found = []
        for boxes, score in zip(corners, q.logit.sigmoid()):
            kept = score > least
            labels = torch.zeros(int(kept.sum()), dtype=torch.long, device=kept.device)
            found.append({"boxes": boxes[kept], "scores": score[kept], "labels": labels})
        return found

    # ---- watched while training -----------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        if 0 <= self.trainer.max_steps <= self.wheels_steps:
            self._warn(
                "depth and presence learn nothing in this run, which ends within model.wheels_steps=%d; raise "
                "trainer.max_steps above it, or lower it",
                self.wheels_steps,
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        q = self.infer(batch["image"])
        twice = have_duplicates(self.box(q.z[..., :WHERE]), q.logit > 0)
        for name, value in {"found": (q.logit > 0).sum(), "twice": twice.sum()}.items():
            self._sums[name] = self._sums.get(name, 0) + value.to(noise.widest_float(self.device))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        found, twice, count = (
            float(self.trainer.strategy.reduce(self._sums[name], reduce_op="sum")) for name in ("found", "twice", "count")
        )
        self.log_values({"val/objects": found / count, "val/duplicates": twice / count})
        if found / count < 0.05 and self.step > self.wheels_steps:
            self._warn(
                "no object is found in %.0f %% of the images: the background explains them all; see docs/spair.md, "
                "what keeps objects alive",
                100 * (1 - found / count),
            )
        last = self.trainer.max_steps
        settled = all(s(self.step) == s(last) for s in (self.betas["kl_pres"], self.count_prior))
        if twice / count > 0.2 and settled and self.step > self.wheels_steps:
            self._warn("in %.0f %% of the images two boxes lie on one object; raise model.beta_pres", 100 * twice / count)

    def _warn(self, message: str, value: float) -> None:
        if message not in self._warned:
            logger.warning(message, value)
            self._warned.add(message)


def composite(
    colour: Tensor, t: Tensor, depth: Tensor, weight: Literal["split", "softmax"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Objects laid over each other: colour [B, N, C, H, W], transparency t [B, N, H, W], depth [B, N].

    Returns C [B, C, H, W] and A [B, 1, H, W] of the module's equations, and each object's share of the pixels [B, N, H, W].
    """
    near = (-depth).sigmoid()[..., None, None]
    if weight == "softmax":
        w = (100 * t * near).softmax(dim=1)
    else:
        w = t * (near + 0.5)
        w = w / (w.sum(1, keepdim=True) + 1e-8)
    opaque = (t * w).sum(1, keepdim=True)
    return torch.einsum("bnhw,bnchw->bchw", w, colour), opaque, opaque * w


def join_code(where: Tensor, what: Tensor, depth: Tensor, presence: Tensor) -> Tensor:
    """The code [B, N (4 + A + 2)] of its parts, see SPAIR.split_code."""
    return torch.cat([where, what, depth[..., None], presence[..., None]], dim=-1).flatten(1)


def _check_count_prior(s: float | Schedule) -> None:
    """Raises ValueError if the prior is 0 or less at some step; a user's own schedule is not looked into."""
    ends = [s] if not callable(s) else [getattr(s, name) for name in ("value", "start", "end") if hasattr(s, name)]
    if any(value <= 0 for value in ends):
        raise ValueError(f"count_prior must be > 0 at every step, got {s}; give a small number such as 0.001 for 0")


def _at(q: Normal, eps: Tensor) -> Tensor:
    return q.mu + eps * (0.5 * q.logvar).exp()


def _held(x: Tensor, learning: float) -> Tensor:
    """x, whose gradient is 0 unless learning is 1; with x.detach() alone other processes would wait for gradients."""
    return x.detach() + learning * (x - x.detach())
