"""ML-VAE: one content code for a group of images, one style code for each image (Bouchacourt et al., 2018).

Generative story of a group G of images that have something in common:
    z_content     ~ N(0, I)                             one for the group
    z_style[i]    ~ N(0, I)                             one for each image
    x[i]          ~ p(x | z_content, z_style[i])
Inference, one network for both:
    q(z_content | x_G) = prod_{i in G} N(mu[i], diag exp(logvar[i])), normalised: `evidence`, vae_zoo.distributions.pooling
    q(z_style[i] | x[i]) = N(mu, diag exp(logvar))      depends only on x[i]
Minimised, in nats, divided by the number of GROUPS (equation 5):
    loss = 1/G sum_G ( sum_{i in G} [rec[i] + beta_style * kl_style[i]] + beta_content * kl_content[G] )
    rec[i] = -log p(x[i] | z_content[i], z_style[i]) at one draw,  kl_* = KL(q || N(0, I))

The KL of the content counts once for a group of any size; only this small saving moves shared information into the content.
Each image i has its own sample z_content[i] of the posterior of its GROUP; this and one sample for the whole group are both
unbiased, but the gradients of the former have less variance.

Deviations: betas other than 1, which keep the content out of the style; the other pooling rules.
docs/methods/ml_vae.md explains how the reimplementations differ and why their numbers are not a reference.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vae_zoo.config.types import Count, NonNegative, Shape
from vae_zoo.contract import Batch, Block, Network, Term, Terms
from vae_zoo.distributions import Likelihood, Normal, kl_standard, log_standard_normal, pool
from vae_zoo.distributions.pooling import Evidence, first_of_groups, segment_sum
from vae_zoo.models.base import LatentVariableModel
from vae_zoo.schedules import Schedule, as_schedule


class MLVAE(LatentVariableModel):
    """VAE with one content code for each group and one style code for each image.

    It implements `vae_zoo.contract.SharesGroupCode`.

    Args:
        image_shape: [C, H, W].
        content_dim: Dimensions of the content.
        style_dim: Dimensions of the style.
        network: Family of encoder and decoder (vae_zoo.nets).
        likelihood: p(x | z_content, z_style).
        beta_style: Weight of kl_style, >= 0, a number or a schedule of the step.
        beta_content: Weight of kl_content, >= 0, a number or a schedule of the step.
        evidence: How the posteriors of a group's images are pooled.
        content_sampling: A draw of the group's posterior for each image, or one draw for the group.
        **training: As in LatentVariableModel.
    """

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

    def encode_images(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers the posteriors of single images, without pooling.

        Args:
            batch: A batch, or images in [0, 1].

        Returns:
            Content and style, Gaussians of [B, D].
        """
        q, size = Normal.from_params(self.encoder(self.image(batch))), self.blocks["content"].size
        return {"content": q[:, :size], "style": q[:, size:]}

    def pool(self, content: Normal, group: Int[Tensor, " B"], num_groups: int) -> Normal:
        """Pools the content of images to one posterior for each group.

        Args:
            content: Posterior of each image, [B, D].
            group: Group of each image, 0..num_groups-1; each group has an image.
            num_groups: G.

        Returns:
            The posterior of each group, [G, D].
        """
        return pool(content, group, num_groups, self.evidence)

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal]:
        """Infers content and style, Gaussians of [B, D].

        The content is that of the image's group if the batch has `group`, else that of the image alone.

        Args:
            batch: A batch, or images in [0, 1].
        """
        q, (group, num_groups) = self.encode_images(batch), groups_of(batch)
        return {"content": self.pool(q["content"], group, num_groups)[group], "style": q["style"]}

    def objective(self, batch: Batch) -> Terms:
        """The terms rec and kl_style, [B], and kl_content, [G]."""
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

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k G"]:
        """log p(x_G, z) - log q(z | x_G) of k draws for each group: one content for the group and a style for each image.

        The content of a group is drawn with the noise of its first image, so that it does not depend on the rest of the
        batch.

        Args:
            batch: Batch of images.
            k: Draws for each group, >= 1.

        Returns:
            Nats of a group.
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


def groups_of(batch: Batch | Float[Tensor, "B C H W"]) -> tuple[Int[Tensor, " B"], int]:
    """The group of each image and the number of groups; if the batch has none, every image is its own group."""
    if not isinstance(batch, Tensor) and "group" in batch:
        return batch["group"], batch["num_groups"]
    x = batch if isinstance(batch, Tensor) else batch["image"]
    return torch.arange(x.shape[0], device=x.device), x.shape[0]
