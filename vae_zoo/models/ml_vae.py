"""ML-VAE: one content code for a group of images, one style code for each image (Bouchacourt et al., 2018).

Generative story of a group G of images that have something in common:
    z_content     ~ N(0, I)                             one for the group
    z_style[i]    ~ N(0, I)                             one for each image
    x[i]          ~ p(x | z_content, z_style[i])
Inference, one network for both:
    q(z_content | x_G) = prod_{i in G} N(mu[i], diag exp(logvar[i])), normalised: `evidence`, vae_zoo.distributions.pooling
    q(z_style[i] | x[i]) = N(mu, diag exp(logvar))      sees neither the group nor the content
Minimised, in nats, divided by the number of GROUPS (equation 5):
    loss = 1/G sum_G ( sum_{i in G} [rec[i] + beta_style * kl_style[i]] + beta_content * kl_content[G] )
    rec[i] = -log p(x[i] | z_content[i], z_style[i]) at one draw,  kl_* = KL(q || N(0, I))

The content is paid for once a group whatever its size; this small saving is all that moves what is common into it. The
draws z_content[i] are each image's own, from its GROUP's posterior; both this and one draw for the whole group are
unbiased, the former's gradients vary less.

Deviations: betas other than 1, which keep the content out of the style; the other rules of evidence.
docs/methods/ml_vae.md says how the reimplementations differ, and why their numbers are no target.
"""

from typing import Literal

import torch
from torch import Tensor

from vae_zoo.config.types import Count, NonNegative, Shape
from vae_zoo.contract import Batch, Block, Network, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_standard, log_standard_normal, pool
from vae_zoo.distributions.pooling import Evidence, first_of_groups, segment_sum
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.schedules import Schedule, as_schedule


class MLVAE(LatentVariableModel):
    """content_dim, style_dim: dimensions of the blocks; network, likelihood: as in VAE; beta_style, beta_content: weights
    of their KL, numbers or schedules of the step; evidence: how a group's images are pooled; content_sampling: an own draw
    of the group's posterior for each image, or one for all."""

    needs = frozenset({"group"})
    unit = "kl_content"
    shared_block, own_block = "content", "style"

    def __init__(
        self,
        image_shape: Shape,
        content_dim: Count,
        style_dim: Count,
        network: Network,
        likelihood: Likelihood,
        beta_style: NonNegative | Schedule = 1.0,
        beta_content: NonNegative | Schedule = 1.0,
        evidence: Evidence = "product",
        content_sampling: Literal["per_image", "per_group"] = "per_image",
        **training,
    ):
        super().__init__(image_shape, **training)
        self.blocks = {
            "content": Block(content_dim, "gaussian", "content shared by all images of a group"),
            "style": Block(style_dim, "gaussian", "style, which differs between the images of a group"),
        }
        self.encoder = network.encoder(self.image_shape, 2 * (content_dim + style_dim))
        self.decoder = network.decoder(content_dim + style_dim, likelihood.param_shape(self.image_shape))
        self.likelihood = likelihood
        self.beta_style, self.beta_content = as_schedule(beta_style), as_schedule(beta_content)
        self.evidence: Evidence = evidence
        self.content_sampling = content_sampling

    def encode_images(self, batch: Batch | Tensor) -> dict[str, Normal]:
        """What each image says by itself, whatever its group: of the content, not pooled yet, and its style, [B, D] each."""
        q, size = Normal.from_params(self.encoder(self.image(batch))), self.blocks["content"].size
        return {"content": q[:, :size], "style": q[:, size:]}

    def pool(self, content: Normal, group: Tensor, num_groups: int) -> Normal:
        """The content's posterior of each group [G, Dc] from what its images say of it [B, Dc], 1 to any number of them."""
        return pool(content, group, num_groups, self.evidence)

    def encode(self, batch: Batch | Tensor) -> dict[str, Normal]:
        """[B, Dc] and [B, Ds]: the content is that of the image's group where the batch has `group`, else its own."""
        q, (group, num_groups) = self.encode_images(batch), groups_of(batch)
        return {"content": self.pool(q["content"], group, num_groups)[group], "style": q["style"]}

    def objective(self, batch: Batch) -> Terms:
        q, (group, num_groups) = self.encode_images(batch), groups_of(batch)
        q_content = self.pool(q["content"], group, num_groups)  # [G, Dc]
        z_content = q_content[group].rsample()  # [B, Dc]
        if self.content_sampling == "per_group":
            z_content = z_content[first_of_groups(group, num_groups)][group]
        z = {"content": z_content, "style": q["style"].rsample()}
        rec = -self.likelihood.log_prob(batch["image"], self.decoder(self.join(z)))  # [B]
        return {
            "rec": Term(rec, 1.0),
            "kl_style": Term(kl_standard(q["style"]), self.beta_style(self.step)),  # [B]
            "kl_content": Term(kl_standard(q_content), self.beta_content(self.step)),  # [G]
        }

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        """Of groups, [k, G]: log p(x_G, z) - log q(z | x_G), z one content for the group and a style for each image.

        A group's draw is that of its first image, so that in evaluation it belongs to the group whatever the batch.
        """
        x, q, (group, num_groups) = batch["image"], self.encode_images(batch), groups_of(batch)
        q_content = self.pool(q["content"], group, num_groups)
        z_content = q_content[group].rsample((k,))[:, first_of_groups(group, num_groups)]  # [k, G, Dc]
        z_style = q["style"].rsample((k,))  # [k, B, Ds]
        z = self.join({"content": z_content[:, group].flatten(0, 1), "style": z_style.flatten(0, 1)})  # [k B, Dc + Ds]
        log_px_z = self.likelihood.log_prob_of_draws(x, self.decoder(z))
        of_images = log_px_z + log_standard_normal(z_style) - q["style"].log_prob(z_style)  # [k, B]
        of_group = log_standard_normal(z_content) - q_content.log_prob(z_content)  # [k, G]
        return of_group + segment_sum(of_images.T, group, num_groups).T


def groups_of(batch: Batch | Tensor) -> tuple[Tensor, int]:
    """The group of each image [B] and the number of groups; where none are given, every image is its own."""
    if not isinstance(batch, Tensor) and "group" in batch:
        return batch["group"], batch["num_groups"]
    x = batch if isinstance(batch, Tensor) else batch["image"]
    return torch.arange(x.shape[0], device=x.device), x.shape[0]
