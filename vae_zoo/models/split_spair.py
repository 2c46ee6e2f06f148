"""SPLIT-SPAIR: SPAIR with a local code, inferred from the image with shuffled patches (Charakorn et al., 2020).

Generative story:  as SPAIR, and z_local ~ N(0, I), x_aux ~ p(x_aux | z_local); z_local is also an input of the decoder of
                   every object, of that of the background, of both, or of neither (`local_to`)
Inference:         as SPAIR, and q(z_local | x_aux),  x_aux = view(x), its patches shuffled
Minimised, in nats per image:
    loss = that of SPAIR + aux_weight * rec_aux + beta_local * kl_z_local
    rec_aux = -log p(x_aux | z_local) at one draw,  kl_z_local = KL(q || N(0, I))

Boxes and presence do not depend on z_local, so it can only replace colour and texture in the other codes. With `none` the
local branch is trained next to an unchanged SPAIR, for a matched comparison. The official settings are `objects`; the
official switch for the background has no effect. docs/journal/spair.md has results of all four.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vae_zoo.config.types import Count, Index, NonNegative, Shape
from vae_zoo.contract import Batch, Block, Codes, Network, Term, Terms
from vae_zoo.distributions import Likelihood, Normal
from vae_zoo.models.local_branch import HOLDS, LocalBranch
from vae_zoo.models.spair import SPAIR, Part
from vae_zoo.schedules import Schedule, as_schedule


class SplitSPAIR(SPAIR):
    """SPAIR with a local code.

    Args:
        image_shape: [C, H, W].
        what_dim: As in SPAIR.
        background_dim: As in SPAIR.
        local_dim: Dimensions of z_local.
        network: Family of encoder and decoder of the background and of the local branch (vae_zoo.nets).
        object_network: As in SPAIR.
        likelihood: Likelihood of both images.
        view: Makes x_aux (vae_zoo.nets.views).
        local_to: Decoders that get z_local.
        beta_local: Weight of kl_z_local, >= 0, a number or a schedule of the step.
        aux_weight: Weight of rec_aux, >= 0.
        **spair: As in SPAIR.

    Raises:
        ValueError: local_to includes the background, but there is none.
    """

    def __init__(
        self,
        image_shape: Shape,
        what_dim: Count,
        background_dim: Index,
        local_dim: Count,
        network: Network,
        object_network: Network,
        likelihood: Likelihood,
        view: Callable[[Tensor], Tensor],
        local_to: Literal["none", "objects", "background", "both"] = "background",
        beta_local: NonNegative | Schedule = 0.1,
        aux_weight: NonNegative = 1.0,
        **spair,
    ):
        if background_dim == 0 and local_to in ("background", "both"):
            raise ValueError(
                f"local_to={local_to} needs a decoder of the background, got background_dim=0; give background_dim >= 1, or "
                f"local_to none or objects"
            )
        super().__init__(image_shape, what_dim, background_dim, network, object_network, likelihood, **spair)
        self.local_to = {"none": (), "both": ("objects", "background")}.get(local_to, (local_to,))
        self.blocks["z_local"] = Block(local_dim, "gaussian", HOLDS)
        self.local = LocalBranch(self.image_shape, local_dim, view, network, likelihood)
        if "objects" in self.local_to:
            sprite = (self.image_shape[0] + 1, *[self.renderer.glimpse_size] * 2)
            self.object_decoder = object_network.decoder(what_dim + local_dim, sprite)
        if "background" in self.local_to:
            self.decoder = network.decoder(background_dim + local_dim, self.image_shape)
        self.betas["kl_z_local"], self.aux_weight = as_schedule(beta_local), aux_weight

    def encode_whole(self, x: Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers the posteriors of the background and of z_local."""
        return super().encode_whole(x) | {"z_local": self.local.posterior(self.local.fixed_view(x))}

    def seen_by(self, part: Part, code: Float[Tensor, "*batch _"], codes: Codes) -> Float[Tensor, "*batch _"]:
        """The input of a decoder: the code of its own part, and z_local if `local_to` names it.

        Args:
            part: Whose decoder it is.
            code: Code of this part, [B, O, A] or [B, D].
            codes: Codes of all blocks.
        """
        if part not in self.local_to:
            return code
        z_local = codes["z_local"]
        if part == "objects":  # [B, O, A]: every cell gets it
            z_local = z_local[:, None].expand(-1, self.num_cells, -1)
        return torch.cat([code, z_local], dim=-1)

    def objective(self, batch: Batch) -> Terms:
        """The terms of SPAIR, rec_aux and kl_z_local."""
        x = batch["image"]
        x_aux = self.local.view(x) if self.training else self.local.fixed_view(x)
        terms, codes = self.scene_terms(x, super().encode_whole(x) | {"z_local": self.local.posterior(x_aux)})
        return terms | {"rec_aux": Term(self.local.rec(x_aux, codes["z_local"]), self.aux_weight)}
