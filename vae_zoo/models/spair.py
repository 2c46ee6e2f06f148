"""SPAIR: finds objects on a background without labels (Crawford and Pineau, 2019, AAAI 33, p. 3412).

In the form of 51616/split-vae (Charakorn et al., 2020), where all cells i = 1..O of a grid are inferred at once.
Generative story:
    n ~ p(n = k) = s^k / sum_j s^j, k = 0..O;  all sets of n cells with an object equally likely    -> z_pres[i] in {0, 1}
    z_scale[i] ~ N(mu_s, 0.5^2)     z_shift[i], z_what[i], z_depth[i] ~ N(0, I)     z_background ~ N(0, I)
    box[i]: size = anchor sigmoid(z_scale), centre = that of the cell + reach tanh(z_shift)
    colour c and opacity in the box = decoder(z_what),  background = decoder(z_background), black if there is no such block
    t = z_pres opacity,  w = t (1/2 + sigmoid(-z_depth)),  C = sum_i w c / sum_i w,  A = sum_i t w / sum_i w   at each pixel
    x ~ p(x | A C + (1 - A) background)
Inference, each head gets the samples of the heads before it:
    features(x) -> q(z_scale, z_shift) -> glimpse of the box -> q(z_what) -> q(z_depth) -> q(z_pres)     q(z_background | x)
    z_pres is relaxed (vae_zoo.distributions.presence); its prior follows from p(n) given the previous cells
Minimised, in nats per image; kl_where, kl_what, kl_depth and kl_pres are summed over the cells:
    loss = rec + beta_where * kl_where + beta_what * kl_what + beta_depth * kl_depth + beta_pres * kl_pres
           + beta_background * kl_background [+ background_weight * rec_background]
    rec = -log p(x | z) at one draw; kl_where is the KL of z_scale and z_shift; kl_pres is conditioned on z_pres > 1/2 of the
    previous cells: the KL of the relaxed variables (`analytic`), one sample of it (`mc`), or that of Bernoulli variables

The priors of the number and the size of the objects are schedules: s falls from 1 (every number is equally likely) to nearly
0, mu_s to the expected size. If the background is learned at the same time, objects vanish unless four measures are taken:
`presence_warmup_steps` without gradient to depth and presence, a high initial opacity and presence (`alpha_bias`,
`presence_bias`), a sharp likelihood, and a penalty on presence that is increased only later (conf: from step 1,000).
Backgrounds with a pattern are learned more slowly than objects that cover them. `background_weight` > 0 at first makes the
background explain the image alone, rec_background = -log p(x | background); objects then remain where it cannot.
docs/methods/spair.md has the deviations; results: docs/journal/spair.md.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import exp, log
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import nms

from vae_zoo.config.types import Count, Finite, Index, NonNegative, Positive, Shape, Share, Strides, Widths
from vae_zoo.contract import Batch, Block, Codes, Detections, Network, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_normal, kl_standard, log_standard_normal, noise
from vae_zoo.distributions.presence import kl_bernoulli, kl_relaxed, log_relaxed, prior_log_odds, sample_occupied
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.nets.mlp import dense
from vae_zoo.nets.spatial import LEAST, CellBackbone, Windows, crop, have_duplicates, paste
from vae_zoo.schedules import Linear, Schedule, as_schedule
from vae_zoo.utils.parts import take

logger = logging.getLogger(__name__)

WHERE = 4  # numbers of z_scale (x, y) and z_shift (x, y)
SCALE_STD = 0.5  # of the prior of z_scale
CONTEXT_DIM = 8  # features that each head passes on to the heads after it
SOFTMAX = 100.0  # inverse temperature of depth_weight=softmax
MAX_PRESENCE_LOGIT = 10.0  # the logit of presence is clamped to [-10, 10]


Part = Literal["objects", "background"]
Noise = tuple[Float[Tensor, "B O _"], Float[Tensor, "B O"]]  # normal and logistic


class ObjectCode(NamedTuple):
    """The parts of a code of the block `objects`, for each cell.

    Attributes:
        where: z_scale and z_shift along x and y.
        what: Appearance.
        depth: Objects of smaller depth are in front.
        presence: In [0, 1].
    """

    where: Float[Tensor, "B O 4"]
    what: Float[Tensor, "B O A"]
    depth: Float[Tensor, "B O 1"]
    presence: Float[Tensor, "B O 1"]

    @classmethod
    def of(cls, code: Float[Tensor, "B _"], num_cells: int) -> "ObjectCode":
        """Splits a code [B, O (4 + A + 2)].

        Args:
            code: Code of the block `objects`.
            num_cells: O.
        """
        code = code.unflatten(1, (num_cells, -1))
        return cls(*code.split([WHERE, code.shape[-1] - WHERE - 2, 1, 1], dim=-1))

    def join(self) -> Float[Tensor, "B _"]:
        """Joins the parts cell by cell to [B, O (4 + A + 2)]."""
        return torch.cat(self, dim=-1).flatten(1)


@dataclass
class Objects:
    """The posterior of the objects; each head gets the draws of those before it.

    Attributes:
        scale: q(z_scale), [B, O, 2].
        shift: q(z_shift), [B, O, 2].
        what: q(z_what), [B, O, A].
        depth: q(z_depth), [B, O, 1].
        logit: Logit of the probability of presence.
        z_where: A draw of scale and shift, or their means.
        z_what: A draw, or the mean.
        z_depth: A draw, or the mean.
        y: A draw of the logit of the relaxed presence; None: the other codes are means.
    """

    scale: Normal
    shift: Normal
    what: Normal
    depth: Normal
    logit: Float[Tensor, "B O"]
    z_where: Float[Tensor, "B O 4"]
    z_what: Float[Tensor, "B O A"]
    z_depth: Float[Tensor, "B O 1"]
    y: Float[Tensor, "B O"] | None

    @property
    def drawn(self) -> Float[Tensor, "B O"]:
        """y of a draw."""
        assert self.y is not None
        return self.y

    @property
    def mean(self) -> Float[Tensor, "B _"]:
        """The code [B, O (4 + A + 2)]: a draw with its relaxed presence, or the means with presence 0 or 1."""
        presence = (self.logit > 0).to(self.z_where) if self.y is None else self.y.sigmoid()
        return ObjectCode(self.z_where, self.z_what, self.z_depth, presence[..., None]).join()


@dataclass
class Scene:
    """A rendered scene.

    Attributes:
        image: In [0, 1].
        ground: The image without objects.
        box: Centre x, y, width and height, pixels.
        sprite: Colours within the box, in [0, 1].
        alpha: Opacity within the box, in [0, 1].
        presence: In [0, 1].
        drawn: The objects in their windows.
    """

    image: Float[Tensor, "B C H W"]
    ground: Float[Tensor, "B C H W"]
    box: Float[Tensor, "B O 4"]
    sprite: Float[Tensor, "B O C g g"]
    alpha: Float[Tensor, "B O 1 g g"]
    presence: Float[Tensor, "B O"]
    drawn: "Composite"

    @property
    def share(self) -> Float[Tensor, "B O H W"]:
        """Share of each object in each pixel, in [0, 1]."""
        return self.drawn.share


@dataclass(frozen=True)
class Cells:
    """The inference network.

    Args:
        channels: Channels of CellBackbone.
        strides: Strides of CellBackbone.
        features: Features of CellBackbone.
        head_kernel: Kernel size of the heads, as in CellBackbone.
        head_hidden: Units of the heads.
    """

    channels: Widths = (64, 64, 64)
    strides: Strides = (2, 2, 2)
    features: Count = 100
    head_kernel: Literal[1, 3] = 3
    head_hidden: Widths = (128, 64)


@dataclass(frozen=True)
class Renderer:
    """The renderer of the objects.

    Args:
        glimpse_size: Side of the decoder's output, pixels.
        anchor: Largest side of an object, pixels, > 0.
        reach: Largest offset of the centre of a box from the centre of its cell along x and y, in cells, > 0.
        alpha_bias: Added to the logit of the opacity.
        alpha_scale: Factor on the logit of the opacity, > 0.
        depth_weight: `split`: w of the module; `softmax`: over cells of 100 t sigmoid(-z_depth), so that the nearest object
            hides the others.
    """

    glimpse_size: Count = 12
    anchor: Positive = 12.0
    reach: Positive = 0.6
    alpha_bias: Finite = 5.0
    alpha_scale: Positive = 0.1
    depth_weight: Literal["split", "softmax"] = "split"


@dataclass(frozen=True)
class Presence:
    """Priors and posterior of number and size of the objects.

    Args:
        scale_prior: mu_s, a number or a schedule of the step.
        count_prior: s > 0, a number or a schedule of the step.
        pres_kl: Form of kl_pres, see the docstring of the module.
        temperature: Temperature of the relaxed presence, > 0.
        presence_bias: Added to the logit of presence.
        presence_warmup_steps: Steps without gradient to depth and presence.
        max_iou: Largest IoU of two detections, in (0, 1); of two boxes that overlap more, the less probable one is left out
            (non-maximum suppression). Codes and images do not depend on it. None: no box is left out.

    Raises:
        ValueError: count_prior is not > 0 at every step.
    """

    scale_prior: Finite | Schedule = Linear(2.0, 1.0, 1500, begin=1000)
    count_prior: Positive | Schedule = Linear(1.0, 0.01, 1500, begin=1000)
    pres_kl: Literal["analytic", "mc", "bernoulli"] = "analytic"
    temperature: Positive = 0.8
    presence_bias: Finite = 2.0
    presence_warmup_steps: Index = 750
    max_iou: Share | None = None

    def __post_init__(self):
        s = self.count_prior
        ends = [s] if not callable(s) else [getattr(s, name) for name in ("value", "start", "end") if hasattr(s, name)]
        if any(value <= 0 for value in ends):  # a user's own schedule is not checked
            raise ValueError(f"count_prior must be > 0 at every step, got {s}; use a small number such as 0.001, not 0")


@dataclass(frozen=True)
class Betas:
    """Weights of the KL terms, >= 0, numbers or schedules of the step.

    Args:
        beta_where: Weight of kl_where.
        beta_what: Weight of kl_what.
        beta_depth: Weight of kl_depth.
        beta_pres: Weight of kl_pres.
        beta_background: Weight of kl_background.
    """

    beta_where: NonNegative | Schedule = 0.5
    beta_what: NonNegative | Schedule = 0.05
    beta_depth: NonNegative | Schedule = 0.5
    beta_pres: NonNegative | Schedule = Linear(0.5, 6.0, 1500, begin=1000)
    beta_background: NonNegative | Schedule = 1.0


class SPAIR(LatentVariableModel):
    """VAE of objects on a background; implements `vae_zoo.contract.FindsObjects`.

    Args:
        image_shape: [C, H, W].
        what_dim: A, dimensions of the appearance of an object.
        background_dim: Dimensions of the background code; 0: the background is black.
        network: Family of encoder and decoder of the background (vae_zoo.nets).
        object_network: Family of encoder and decoder of the glimpses (vae_zoo.nets).
        likelihood: p(x | image), with one number for each pixel and channel.
        background_weight: Weight of rec_background, >= 0, a number or a schedule of the step.
        **settings: Fields of Cells, Renderer, Presence and Betas; the rest as in LatentVariableModel.

    Raises:
        ValueError: The likelihood needs more than a mean, or a weight of the background has no effect.
    """

    parts = (Cells, Renderer, Presence, Betas)

    def __init__(
        self,
        image_shape: Shape,
        what_dim: Count,
        background_dim: Index,
        network: Network,
        object_network: Network,
        likelihood: Likelihood,
        background_weight: NonNegative | Schedule = 0.0,
        **settings,
    ):
        cells, renderer = take(Cells, settings), take(Renderer, settings)
        presence, betas = take(Presence, settings), take(Betas, settings)
        super().__init__(image_shape, **settings)
        _check(likelihood, background_dim, betas, background_weight)
        self.renderer, self.presence, self.has_background = renderer, presence, background_dim > 0
        C, H, W = self.image_shape
        self.backbone = CellBackbone(C, cells.channels, cells.strides, cells.features, cells.head_kernel)
        rows, columns = self.backbone.grid(H, W)
        self.num_cells, self.code_size = rows * columns, WHERE + what_dim + 2
        self.blocks = {
            "objects": Block(
                self.num_cells * self.code_size,
                "objects",
                "position, appearance, depth and presence of the object in each cell",
            )
        }
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = self.backbone.cell * (torch.stack([x, y], -1).view(-1, 2) + 0.5)
        self.centres = nn.Buffer(centres, persistent=False)  # [O, 2]
        features, hidden, g = cells.features, cells.head_hidden, renderer.glimpse_size
        # half a pixel of a glimpse beyond its box is drawn, fading
        reach = renderer.reach * self.backbone.cell + max(renderer.anchor, LEAST) * (1 + 1 / g) / 2
        self.windows = Windows(rows, columns, self.backbone.cell, reach, H, W)
        seen = features + CONTEXT_DIM + WHERE
        self.where_head = nn.Sequential(*dense([features, *hidden, 2 * WHERE + CONTEXT_DIM]))
        self.depth_head = nn.Sequential(*dense([seen + what_dim, hidden[-1], 2 + CONTEXT_DIM]))
        self.pres_head = nn.Sequential(*dense([seen + what_dim + 1, hidden[-1], 1]))
        self.object_encoder = object_network.encoder((C, g, g), 2 * what_dim)
        self.object_decoder = object_network.decoder(what_dim, (C + 1, g, g))
        if self.has_background:
            holds = "the image without its objects"
            self.blocks["background"] = Block(background_dim, "gaussian", holds)
            self.encoder = network.encoder(self.image_shape, 2 * background_dim)
            self.decoder = network.decoder(background_dim, self.image_shape)
        self.likelihood = likelihood
        self.scale_prior, self.count_prior = as_schedule(presence.scale_prior), as_schedule(presence.count_prior)
        parts = [f.name.removeprefix("beta_") for f in fields(Betas)]
        self.betas = {f"kl_{part}": as_schedule(getattr(betas, f"beta_{part}")) for part in parts}
        if not self.has_background:
            del self.betas["kl_background"]
        self.background_weight = as_schedule(background_weight)
        self._warned: set[str] = set()

    # ---- inference ------------------------------------------------------------------------------------------------

    def draw(self, x: Float[Tensor, "B C H W"], k: int) -> tuple[Float[Tensor, "kB O _"], Float[Tensor, "kB O"]]:
        """Draws the noise of k draws for each image.

        Args:
            x: Images in [0, 1].
            k: Draws for each image.

        Returns:
            Normal noise [k B, O, 4 + A + 1] and logistic noise.
        """
        eps = noise.normal(x.new_empty(len(x), self.num_cells, self.code_size - 1), (k,))
        u = noise.uniform(x.new_empty(len(x), self.num_cells), (k,)).clamp(1e-6, 1 - 1e-6)
        return eps.flatten(0, 1), u.logit().flatten(0, 1)

    def infer(self, x: Float[Tensor, "B C H W"], draw: Noise | None = None) -> Objects:
        """Infers q(objects | x) and draws from it.

        Args:
            x: Images in [0, 1].
            draw: Noise of a draw; None: the means.
        """
        learning = float(not (self.training and self.is_early()))
        eps, logistic = draw or (x.new_zeros(x.shape[0], self.num_cells, self.code_size - 1), None)
        features = self.backbone(x)  # [B, O, E]
        where, passed = self.where_head(features).split([2 * WHERE, CONTEXT_DIM], dim=-1)
        mu, raw = where.chunk(2, dim=-1)
        scale = Normal.from_softplus(torch.cat([mu[..., :2], raw[..., :2] - 1], dim=-1))
        shift = Normal.from_softplus(torch.cat([mu[..., 2:], raw[..., 2:]], dim=-1))
        z_where = torch.cat([_at(scale, eps[..., :2]), _at(shift, eps[..., 2:4])], dim=-1)
        box = self.windows.local(self.box(z_where))
        glimpse = crop(self.windows.cut(x), box, self.renderer.glimpse_size)  # [B, O, C, g, g]
        what = Normal.from_softplus(self.object_encoder(glimpse.flatten(0, 1)).unflatten(0, (x.shape[0], -1)))
        z_what = _at(what, eps[..., WHERE:-1])
        depth = self.depth_head(torch.cat([features, passed.relu(), z_where, z_what], -1))
        depth, passed = depth.split([2, CONTEXT_DIM], dim=-1)
        depth = Normal.from_softplus(_held(depth, learning))
        z = z_where, z_what, _at(depth, eps[..., -1:])
        logit = self.pres_head(torch.cat([features, passed.relu(), *z], dim=-1))[..., 0].float()  # [B, O]
        logit = (logit + self.presence.presence_bias).clamp(-MAX_PRESENCE_LOGIT, MAX_PRESENCE_LOGIT)
        logit = _held(logit, learning)
        y = None if logistic is None else (logit + logistic) / self.presence.temperature
        return Objects(scale, shift, what, depth, logit, *z, y)

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Objects | Normal]:
        """Infers the objects at their means, with presence 0 or 1, and the background.

        Args:
            batch: A batch, or images in [0, 1].
        """
        x = self.image(batch)
        return {"objects": self.infer(x)} | self.encode_whole(x)

    def encode_whole(self, x: Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers the posteriors of the blocks other than `objects`."""
        return {"background": Normal.from_softplus(self.encoder(x))} if self.has_background else {}

    # ---- the renderer ---------------------------------------------------------------------------------------------

    def box(self, z_where: Float[Tensor, "B O 4"]) -> Float[Tensor, "B O 4"]:
        """The boxes of z_scale and z_shift: centre x, y, width and height in pixels."""
        size = self.renderer.anchor * z_where[..., :2].float().sigmoid()
        reach = self.renderer.reach * self.backbone.cell
        return torch.cat([self.centres + reach * z_where[..., 2:].float().tanh(), size], dim=-1)

    def seen_by(self, part: Part, code: Float[Tensor, "*batch _"], codes: Codes) -> Float[Tensor, "*batch _"]:
        """The input of a decoder, by default the code of its own part.

        Args:
            part: Whose decoder it is.
            code: Code of this part, [B, O, A] or [B, D].
            codes: Codes of all blocks.
        """
        return code

    def render(self, codes: Codes) -> Scene:
        """Renders codes of images."""
        C, how = self.image_shape[0], self.renderer
        code = ObjectCode.of(codes["objects"], self.num_cells)
        depth, presence = code.depth[..., 0], code.presence[..., 0]  # [B, O]
        decoded = self.object_decoder(self.seen_by("objects", code.what, codes).flatten(0, 1)).float()
        decoded = decoded.unflatten(0, depth.shape)  # [B, O, C + 1, g, g]
        sprite, alpha = decoded[:, :, :C].sigmoid(), (how.alpha_scale * decoded[:, :, C:] + how.alpha_bias).sigmoid()
        box = self.box(code.where)
        side = self.windows.side
        colour, opacity = paste(torch.cat([sprite, alpha], dim=2), self.windows.local(box), side, side).split([C, 1], dim=2)
        t = presence[..., None, None] * opacity[:, :, 0]  # [B, O, k, k]
        drawn = composite(colour, t, depth, how.depth_weight, self.windows)
        ground = torch.zeros_like(drawn.colour)
        if self.has_background:
            ground = self.decoder(self.seen_by("background", codes["background"], codes)).float().sigmoid()
        image = drawn.opaque * drawn.colour + (1 - drawn.opaque) * ground
        return Scene(image, ground, box, sprite, alpha, presence, drawn)

    def without_object(self, codes: Codes, object_: Int[Tensor, " B"]) -> Codes:
        """Removes one object of each image.

        Args:
            codes: Codes of B images.
            object_: Cell of the object, 0..O-1.

        Returns:
            The changed codes.
        """
        code = ObjectCode.of(codes["objects"], self.num_cells)
        presence = code.presence.clone()
        presence[torch.arange(len(object_), device=object_.device), object_] = 0
        return codes | {"objects": code._replace(presence=presence).join()}

    def with_object_moved(self, codes: Codes, object_: Int[Tensor, " B"]) -> Codes:
        """Moves one object of each image to the other side of its cell along x.

        Args:
            codes: Codes of B images.
            object_: Cell of the object, 0..O-1.

        Returns:
            The changed codes.
        """
        code = ObjectCode.of(codes["objects"], self.num_cells)
        where, cell = code.where.clone(), (torch.arange(len(object_), device=object_.device), object_, 2)  # z_shift, along x
        where[cell] = torch.where(where[cell] > 0, -1.0, 1.0)
        return codes | {"objects": code._replace(where=where).join()}

    def with_object_placed(
        self, codes: Codes, object_: Int[Tensor, " B"], centre: Float[Tensor, "B 2"], keep: bool = False
    ) -> Codes:
        """Moves one object of each image, with its size and appearance, within its cell or to the nearest free cell.

        Args:
            codes: Codes of B images.
            object_: Cell of the object, 0..O-1.
            centre: x and y of the centre of its new box, pixels.
            keep: Whether the object also remains at its old position.

        Returns:
            The changed codes.
        """
        code, image = ObjectCode.of(codes["objects"], self.num_cells), torch.arange(len(object_), device=object_.device)
        taken = code.presence[..., 0] > 0.5  # [B, O]
        full = taken.all(1)  # then there is no copy
        taken[image, object_] = keep & ~full
        far = (self.centres - centre[:, None]).square().sum(-1).masked_fill(taken, torch.inf)
        to, changed = far.argmin(1), ObjectCode(*(part.clone() for part in code))
        if not keep:
            changed.presence[image, object_] = 0
        for part, old in zip(changed, code):
            part[image, to] = old[image, object_]
        offset = (centre - self.centres[to]) / (self.renderer.reach * self.backbone.cell)
        changed.where[image, to, 2:] = offset.clamp(-0.999, 0.999).atanh()
        return codes | {"objects": changed.join()}

    def with_look(self, codes: Codes, object_: Int[Tensor, " B"], others: Codes, other: Int[Tensor, " B"]) -> Codes:
        """Gives one object of each image the appearance of an object of another image.

        Args:
            codes: Codes of B images.
            object_: Cell of the object, 0..O-1.
            others: Codes of the B other images.
            other: Cell of the object there, 0..O-1.

        Returns:
            The changed codes.
        """
        code, donor = (ObjectCode.of(c["objects"], self.num_cells) for c in (codes, others))
        what, image = code.what.clone(), torch.arange(len(object_), device=object_.device)
        what[image, object_] = donor.what[image, other]
        return codes | {"objects": code._replace(what=what).join()}

    def decode(self, codes: Codes) -> Float[Tensor, "B C H W"]:
        """Decodes codes to mean images in [0, 1]."""
        return self.render(codes).image.clamp(0, 1)  # sums of shares may differ from 1 by rounding

    def sample_prior(self, n: int) -> Codes:
        """Draws n codes of each block from the priors of the current step: number of objects, cells, other codes."""
        z = torch.randn(n, self.num_cells, self.code_size - 1, device=self.device)
        z[..., :2] = self.scale_prior(self.step) + SCALE_STD * z[..., :2]
        presence = sample_occupied(n, self.num_cells, self.count_prior(self.step), self.device)
        codes = {"objects": torch.cat([z, presence[..., None].to(z)], dim=-1).flatten(1)}
        others = {name: block.size for name, block in self.blocks.items() if name != "objects"}
        return codes | {name: torch.randn(n, size, device=self.device) for name, size in others.items()}

    # ---- objective ------------------------------------------------------------------------------------------------

    def _prior_of_scale(self, q: Objects) -> Normal:
        """p(z_scale) at the current step."""
        return Normal(*(torch.full_like(q.scale.mu, value) for value in (self.scale_prior(self.step), 2 * log(SCALE_STD))))

    def kl_objects(self, q: Objects) -> dict[str, Float[Tensor, " B"]]:
        """KL of each part of the objects, summed over the cells, nats.

        Args:
            q: Posterior of a draw.
        """
        prior, temperature = prior_log_odds(q.drawn > 0, self.count_prior(self.step)), self.presence.temperature
        if self.presence.pres_kl == "analytic":
            pres = kl_relaxed(q.logit, prior)
        elif self.presence.pres_kl == "mc":
            pres = log_relaxed(q.drawn, q.logit, temperature) - log_relaxed(q.drawn, prior, temperature)
        else:
            pres = kl_bernoulli(q.logit, prior)
        return {
            "kl_where": (kl_normal(q.scale, self._prior_of_scale(q)) + kl_standard(q.shift)).sum(1),
            "kl_what": kl_standard(q.what).sum(1),
            "kl_depth": kl_standard(q.depth).sum(1),
            "kl_pres": pres.sum(1),
        }

    def scene_terms(self, x: Float[Tensor, "B C H W"], others: dict[str, Normal]) -> tuple[Terms, Codes]:
        """The terms of images.

        Args:
            x: Images in [0, 1].
            others: Posteriors of the blocks other than `objects`.

        Returns:
            The terms, and the codes drawn for them.
        """
        q = self.infer(x, self.draw(x, 1))
        codes = {"objects": q.mean} | {name: block.rsample() for name, block in others.items()}
        scene, weight = self.render(codes), self.background_weight(self.step)
        rec = -self.likelihood.log_prob(x, self.likelihood.params_of(scene.image))
        kls = self.kl_objects(q) | {f"kl_{name}": kl_standard(block) for name, block in others.items()}
        terms = {"rec": Term(rec, 1.0)} | {name: Term(kl, self.betas[name](self.step)) for name, kl in kls.items()}
        if weight:
            terms["rec_background"] = Term(-self.likelihood.log_prob(x, self.likelihood.params_of(scene.ground)), weight)
        return terms | {"count": Term((q.logit > 0).sum(1).float())}, codes

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, the KL of each part and, if it has a weight, rec_background; count, of objects, is only logged."""
        x = batch["image"]
        return self.scene_terms(x, self.encode_whole(x))[0]

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats.

        Presence is relaxed in p and q; the priors are those of the current step.

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        x = batch["image"]
        q = self.infer(x.repeat(k, 1, 1, 1), self.draw(x, k))
        others = self.encode_whole(x)
        z = {name: block.rsample((k,)) for name, block in others.items()}  # [k, B, D]
        codes = {"objects": q.mean} | {name: draws.flatten(0, 1) for name, draws in z.items()}
        log_w = self.likelihood.log_prob(x.repeat(k, 1, 1, 1), self.likelihood.params_of(self.render(codes).image))
        z_scale, z_shift = q.z_where.chunk(2, dim=-1)  # [k B, O, 2] each
        prior = prior_log_odds(q.drawn > 0, self.count_prior(self.step))
        temperature = self.presence.temperature
        log_w = log_w + (log_relaxed(q.drawn, prior, temperature) - log_relaxed(q.drawn, q.logit, temperature)).sum(1)
        log_w = log_w + (self._prior_of_scale(q).log_prob(z_scale) - q.scale.log_prob(z_scale)).sum(1)
        for part, z_part in ((q.shift, z_shift), (q.what, q.z_what), (q.depth, q.z_depth)):
            log_w = log_w + (log_standard_normal(z_part) - part.log_prob(z_part)).sum(1)
        return log_w.view(k, len(x)) + sum(log_standard_normal(z[name]) - others[name].log_prob(z[name]) for name in others)

    # ---- detections -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def detect(self, batch: Batch | Float[Tensor, "B C H W"], least: float = 0.05) -> list[Detections]:
        """Finds the objects of images, in the form that torchmetrics takes.

        Args:
            batch: A batch, or images in [0, 1].
            least: Smallest probability of presence.

        Returns:
            Of each image `boxes` [O, 4], x0 y0 x1 y1 in pixels within the image, `scores` [O], probabilities of presence,
            and `labels` [O], all 0.
        """
        q = self.infer(self.image(batch))
        _, H, W = self.image_shape
        centre, size = self.box(q.z_where).chunk(2, dim=-1)
        edge = torch.tensor([W, H, W, H], device=size.device)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(min=0).minimum(edge)
        found = []
        for boxes, score in zip(corners, q.logit.sigmoid()):
            kept = (score > least).nonzero()[:, 0]
            if self.presence.max_iou is not None:
                kept = kept[nms(boxes[kept], score[kept], self.presence.max_iou)]
            labels = torch.zeros(len(kept), dtype=torch.long, device=kept.device)
            found.append({"boxes": boxes[kept], "scores": score[kept], "labels": labels})
        return found

    def presence_log_odds(self, batch: Batch | Float[Tensor, "B C H W"]) -> Float[Tensor, "B O"]:
        """Log-odds that there is an object in each cell."""
        return self.infer(self.image(batch)).logit

    # ---- watched while training -----------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Warns if the run ends before presence is trained."""
        if 0 <= self.trainer.max_steps <= self.presence.presence_warmup_steps:
            self._warn(
                "depth and presence get no gradient in this run, since model.presence_warmup_steps=%d is not below "
                "trainer.max_steps; lower it or increase trainer.max_steps",
                self.presence.presence_warmup_steps,
            )

    def is_early(self) -> bool:
        """Whether depth and presence do not learn yet."""
        return self.step < self.presence.presence_warmup_steps

    def dormant(self) -> Iterable[nn.Parameter]:
        """The heads of depth and presence, as long as they do not learn."""
        return (*self.depth_head.parameters(), *self.pres_head.parameters()) if self.is_early() else ()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds objects and duplicates of a validation batch to the sums."""
        super().validation_step(batch, batch_idx)
        q = self.infer(batch["image"])
        twice = have_duplicates(self.box(q.z_where), q.logit > 0)
        self._add_up({"found": (q.logit > 0).sum(), "twice": twice.sum()})

    def on_validation_epoch_end(self) -> None:
        """Logs objects and duplicates per image, and warns of scenes without objects and of duplicates."""
        super().on_validation_epoch_end()
        found, twice, count = (float(self._sums[name]) for name in ("found", "twice", "count"))
        self.log_values({"val/objects": found / count, "val/duplicates": twice / count})
        if found / count < 0.05 and self.step > self.presence.presence_warmup_steps:
            self._warn(
                "no object is found in %.0f %% of the images, since the background explains all pixels; see the section on "
                "collapse in docs/methods/spair.md",
                100 * (1 - found / count),
            )
        last = self.trainer.max_steps
        settled = all(s(self.step) == s(last) for s in (self.betas["kl_pres"], self.count_prior)) and not self.is_early()
        if self.presence.max_iou is None and twice / count > 0.2 and settled:
            self._warn("in %.0f %% of the images two boxes cover one object; increase model.beta_pres", 100 * twice / count)

    def _warn(self, message: str, value: float) -> None:
        if message not in self._warned:
            logger.warning(message, value)
            self._warned.add(message)


@dataclass
class Composite:
    """Objects drawn over each other.

    Attributes:
        colour: C of the module.
        opaque: A of the module.
        weight: w of each object in its window.
        total: Sum of w at each pixel, > 0.
        windows: The windows.
    """

    colour: Float[Tensor, "B C H W"]
    opaque: Float[Tensor, "B 1 H W"]
    weight: Float[Tensor, "B O k k"]
    total: Float[Tensor, "B 1 H W"]
    windows: Windows

    @property
    def share(self) -> Float[Tensor, "B O H W"]:
        """Share of each object in each pixel, in [0, 1]; 0 outside its window."""
        return self.opaque * self.windows.place(self.weight) / self.total


def composite(
    colour: Float[Tensor, "B O C k k"],
    t: Float[Tensor, "B O k k"],
    depth: Float[Tensor, "B O"],
    weight: Literal["split", "softmax"],
    windows: Windows,
) -> Composite:
    """Composes overlapping objects, by the equations of the module's docstring.

    Args:
        colour: Colour of the objects in their windows, in [0, 1].
        t: Opacity times presence, in [0, 1].
        depth: Objects of smaller depth are in front.
        weight: As in Renderer.
        windows: Where the windows are.
    """
    near = (-depth).sigmoid()[..., None, None]
    if weight == "softmax":
        least = exp(-SOFTMAX / 2)  # weight of an object that does not cover the pixel; all weights are finite
        w, floor = (SOFTMAX * (t * near - 0.5)).exp(), t.shape[1] * least
    else:
        w, least, floor = t * (near + 0.5), 0.0, 1e-8
    parts = torch.cat([w[:, :, None] * colour, (w * t)[:, :, None], (w - least)[:, :, None]], dim=2)
    mixed, opaque, total = windows.add_up(parts).split([colour.shape[2], 1, 1], dim=1)
    total = total + floor
    return Composite(mixed / total, opaque / total, w, total, windows)


def _check(likelihood: Likelihood, background_dim: int, betas: Betas, background_weight: float | Schedule) -> None:
    """Raises if the likelihood does not fit, or a weight of the background has no effect."""
    if likelihood.num_params > 1:
        raise ValueError(
            f"likelihood={type(likelihood).__name__} needs {likelihood.num_params} parameters per pixel, but SPAIR "
            f"decodes only the mean; choose another likelihood, such as model/likelihood=sharp_laplace"
        )
    defaults = {"beta_background": Betas.beta_background, "background_weight": 0.0}
    for name, value in {"beta_background": betas.beta_background, "background_weight": background_weight}.items():
        if background_dim == 0 and value != defaults[name]:
            raise ValueError(
                f"background_dim=0 leaves {name}={value} unused; give background_dim >= 1, or {name}={defaults[name]:g}"
            )


def _at(q: Normal, eps: Tensor) -> Tensor:
    return q.mu + eps * (0.5 * q.logvar).exp()


def _held(x: Tensor, learning: float) -> Tensor:
    """x with gradient 0 unless learning is 1; with x.detach() other processes of ddp would wait for gradients."""
    return x.detach() + learning * (x - x.detach())
