"""M2: the label is a latent variable that is sometimes observed (Kingma et al., 2014, arXiv:1406.5298, equations 6 to 9).

Generative story:  z ~ N(0, I)    c ~ Cat(pi)    x ~ p(x | z, c)
Inference:         h = f(x)    q(c | x) = softmax(logits(h))    q(z | x, c) = N(mu(h, c), diag exp(logvar(h, c)))
Minimised, in nats per image:
    loss = rec + kl_z + kl_c + labelled_weight * labelled + ce_weight * ce
    rec = sum_k q(c = k | x) E[-log p(x | z, k)]    kl_z = sum_k q(c = k | x) KL(q(z | x, k) || N(0, I))
    kl_c = KL(q(c | x) || pi)                       the first three are minus the ELBO of the unlabelled batch
    labelled = -log p(x | z, y) + KL(q(z | x, y) || N(0, I)) - log pi_y    ce = -log q(y | x)    of the labelled batch
The sum over classes is exact: a step decodes the batch once for each combination of classes.

The default weights are those of the paper. Its objective (equations 8 and 9) is a sum over N_u unlabelled and N_l labelled
images, with alpha = 0.1 N (section 4), N = N_l + N_u, times the MEAN of ce over the labelled images. Divided by N_u, so that
the first three terms are means over the unlabelled images as they are here, it is
    mean_u (rec + kl_z + kl_c) + (N_l / N_u) mean_l labelled + (0.1 N / N_u) mean_l ce
Here all N training images, also the labelled ones, are used without labels in the first three terms, so N_u = N:
labelled_weight = N_l / N and ce_weight = 0.1. With all N labels these are 1 and 0.1. docs/methods/baselines.md has results
of other weights.
Deviations: network of PartedVAE, so that differences are due to the method; every step has a separate labelled batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_zoo.config.types import NonNegative
from vae_zoo.contract import Batch, Term, Terms
from vae_zoo.distributions import Categorical, Normal, kl_standard, log_standard_normal
from vae_zoo.models.discrete import ClassConditionalModel

PAPERS_ALPHA = 0.1  # alpha / N of the paper


class SSVAE(ClassConditionalModel):
    """VAE whose classes are summed out if their label is unknown.

    Args:
        *args: As in ClassConditionalModel.
        labelled_weight: Weight of the term labelled, >= 0; None: that of the paper, see the docstring of the module.
        ce_weight: Weight of the term ce, >= 0; None: that of the paper, 0.1.
        **common: As in ClassConditionalModel.
    """

    class_holds = "the class given by the labels"
    needs = frozenset({"supervised"})

    def __init__(self, *args, labelled_weight: NonNegative | None = None, ce_weight: NonNegative | None = None, **common):
        super().__init__(*args, **common)
        inputs = self.c_head.in_features + self.classes.num_values
        self.z_head = nn.Linear(inputs, 2 * self.blocks["z"].size)
        self.labelled_weight, self.ce_weight = labelled_weight, ce_weight

    def posterior_z(self, h: Float[Tensor, "... E"], c: Float[Tensor, "... S"]) -> Normal:
        """q(z | x, c), a Gaussian of [..., D].

        Args:
            h: Features.
            c: Classes, one-hot.
        """
        return Normal.from_params(self.z_head(torch.cat([h, c], dim=-1)))

    def encode(self, batch: Batch | Float[Tensor, "B C H W"]) -> dict[str, Normal | Categorical]:
        """Infers q(z | x, c) of the most probable classes, and q(c_j | x)."""
        h = self.features(self.image(batch))
        log_c = self.classes.log_softmax(self.c_head(h))
        return {"z": self.posterior_z(h, self.classes.hard(log_c))} | self.class_codes(log_c)

    def of_each_class(self, h: Float[Tensor, "B E"]) -> tuple[Float[Tensor, "B M S"], Normal]:
        """The M combinations of classes, and q(z | x, c) under each, [B, M, D]."""
        codes = self.classes.combinations().expand(len(h), -1, -1)
        return codes, self.posterior_z(h[:, None].expand(-1, codes.shape[1], -1), codes)

    def objective(self, batch: Batch) -> Terms:
        """The terms rec, kl_z and kl_c, and in training labelled and ce of the labelled batch."""
        x = batch["image"]
        h = self.features(x)
        log_c = self.classes.log_softmax(self.c_head(h))
        codes, q_z = self.of_each_class(h)
        probs = (log_c[:, None] * codes).sum(-1).exp()  # [B, M]
        rec = -(probs * self.log_likelihoods(x, q_z.rsample(), codes)).sum(1)
        kl_z = (probs * kl_standard(q_z)).sum(1)
        kl_c = self.classes.kl(log_c).sum(1)
        terms = {"rec": Term(rec, 1.0), "kl_z": Term(kl_z, 1.0), "kl_c": Term(kl_c, 1.0)}
        if "supervised" in batch:  # in training; a batch of another size, so each term is its mean
            labelled, ce = self.labelled_terms(batch["supervised"])
            labelled_weight, ce_weight = self.labelled_weights()
            terms["labelled"] = Term(self.batch_mean(labelled), labelled_weight)
            terms["ce"] = Term(self.batch_mean(ce), ce_weight)
        return terms

    def labelled_weights(self) -> tuple[float, float]:
        """The weights of the terms labelled and ce."""
        labelled_weight, ce_weight, data = self.labelled_weight, self.ce_weight, self.training_data
        if labelled_weight is None:  # without data all images count as labelled
            labelled_weight = 1.0 if data is None else data.num_labelled / data.num_images
        return labelled_weight, PAPERS_ALPHA if ce_weight is None else ce_weight

    def labelled_terms(self, batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """The terms labelled and ce of a labelled batch, nats.

        Args:
            batch: With `label`; a variable whose label is unknown takes its most probable value.
        """
        x, y = batch["image"], self.labels(batch)
        h = self.features(x)
        log_c = self.classes.log_softmax(self.c_head(h))
        guess = self.classes.padded(log_c, -torch.inf).argmax(-1)
        c = self.classes.code(torch.where(y >= 0, y, guess))  # [B, S]
        q_z = self.posterior_z(h, c)
        rec = -self.likelihood.log_prob(x, self.decoder(torch.cat([q_z.rsample(), c], dim=1)))
        return rec + kl_standard(q_z) - self.classes.log_prior(c), self.classes.cross_entropy(log_c, y)

    def log_weights(self, batch: Batch, k: int) -> Float[Tensor, "k B"]:
        """log p(x, z) - log q(z | x) of k draws for each image, nats; c is summed out.

        z is drawn from the mixture q(z | x) over the combinations of classes, and decoded with each of them.

        Args:
            batch: Batch of images.
            k: Draws for each image, >= 1.
        """
        x, h = batch["image"], self.features(batch["image"])
        log_c = self.classes.log_softmax(self.c_head(h))
        codes, q_z = self.of_each_class(h)
        each = q_z.rsample((k,))  # [k, B, M, D]
        drawn = self.classes.draw(log_c, (k,))  # [k, B, S]
        place = (drawn[:, :, None] == codes).all(-1).float()  # [k, B, M]: which of the combinations it is
        z = (place[..., None] * each).sum(2, keepdim=True)  # [k, B, 1, D]
        log_q = ((log_c[:, None] * codes).sum(-1) + q_z.log_prob(z)).logsumexp(2)  # [k, B]
        log_px = self.log_likelihoods(x, z.expand_as(each), codes)  # [k, B, M]
        log_p = (log_px + self.classes.log_prior(codes)).logsumexp(2)
        return log_p + log_standard_normal(z[:, :, 0]) - log_q
