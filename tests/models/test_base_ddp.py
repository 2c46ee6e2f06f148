"""Two processes take the step of one process on the joined batch, terms over the whole batch included.

The ranks hold different numbers of images, and of labelled ones. Noise belongs to the image, not to the rank.
"""

from functools import partial

import pytest
import torch
from torch import nn

from tests.models import builders, test_discrete, test_gmvae, test_gmvae2016, test_mfcvae, test_split_vade
from vae_zoo.distributions import noise
from vae_zoo.nets import RandomAffine

SIZES = 5, 3  # images of each rank
LABELLED = 2, 4
SURE = {"augment": RandomAffine(), "consistency_weight": 2.0, "consistency_threshold": 0.3}
INVARIANT = {"augment": RandomAffine(), "consistency_weight": 2.0, "entropy_weight": 3.0, "balance_weight": 4.0}
MAKERS = {name: partial(builders.build, name) for name in ("vae", "beta_vae", "annealed_vae", "dip_vae", "factor_vae")}
MAKERS |= {f"beta_tc_vae/{s}": partial(builders.build, "beta_tc_vae", sampling=s) for s in ("weighted", "stratified")}
MAKERS |= {"dip_vae/i": partial(builders.build, "dip_vae", variant="i"), "split_vae": partial(builders.build, "split_vae")}
MAKERS |= {name: partial(test_discrete.build, name, [3, 2]) for name in builders.DISCRETE}
MAKERS["parted_vae/momentum"] = partial(test_discrete.build, "parted_vae", c_momentum=0.5, **SURE)
MAKERS |= {name: partial(test_gmvae.build, name, dropout=0.0) for name in builders.MIXTURES}
MAKERS |= {f"split_vade/{at}": partial(test_split_vade.vade, mixture_start=at, **INVARIANT) for at in (0, 1)}
MAKERS["gmvae2016"] = partial(test_gmvae2016.build, free_bits=2.0)
MAKERS |= {"ladder_vae": partial(test_mfcvae.build, "ladder_vae"), "mfcvae": partial(test_mfcvae.build, **INVARIANT)}


ROWS = {1: range(1), sum(SIZES): range(8), 5: range(5), 3: range(5, 8)}  # of the images, by how many there are
ROWS |= {sum(LABELLED): range(100, 106), 2: range(100, 102), 4: range(102, 106)}


def of_image(draw):
    """The noise functions, but a row's noise is that of its place in the joined batch."""

    def drawn(like, sample_shape=()):
        with noise.per_image(torch.tensor(ROWS[len(like)])):
            return draw(like, sample_shape)

    return drawn


NOISE = {name: of_image(getattr(noise, name)) for name in ("uniform", "normal")}


def batch_of(*own):
    """The images of these ranks."""
    images, labelled = builders.images(sum(SIZES)), builders.images(sum(LABELLED), seed=1)
    labelled["label"] = torch.stack([torch.arange(sum(LABELLED)) % k for k in (3, 2)], 1)
    parts = []
    for batch, sizes in ((images, SIZES), (labelled, LABELLED)):
        split = {key: value.split(sizes) for key, value in batch.items()}
        parts.append({key: torch.cat([value[rank] for rank in own]) for key, value in split.items()})
    return parts[0] | {"supervised": parts[1]}


class Loss(nn.Module):
    """All losses of the model as a forward pass, which is what ddp watches; with the terms that are no mean over images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        model = self.model
        terms = model.objective(batch)
        loss = model.total(terms)
        if "discriminator" in terms:
            loss = loss + model.mean_of_rank(terms["discriminator"].value)
        if hasattr(model, "supervised_terms"):
            labelled = model.supervised_terms(batch)
            loss, terms = loss + model.total(labelled), terms | labelled
        return loss, {name: term.value.detach() for name, term in terms.items() if not term.value.ndim}


def step(name, wrap, *ranks):
    """Loss, terms, gradients and buffers of a step on the images of these ranks."""
    model = MAKERS[name]()
    loss_of = wrap(Loss(model))  # ddp's lives as long as the step
    loss, terms = loss_of(batch_of(*ranks))
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "terms": terms, "gradients": gradients, "buffers": dict(model.named_buffers())}


def work(rank, folder):
    torch.set_num_threads(1)
    vars(noise).update(NOISE)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: step(name, nn.parallel.DistributedDataParallel, rank) for name in MAKERS}, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    """What each of two processes has after a step of every model."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method="fork")  # nothing is imported anew
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("name", MAKERS)
def test_two_processes_take_the_step_of_one_on_the_joined_batch(name, of_ranks, monkeypatch):
    for function, drawn in NOISE.items():
        monkeypatch.setattr(noise, function, drawn)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    wanted, (first, second) = step(name, nn.Identity(), 0, 1), (ranks[name] for ranks in of_ranks)
    close((first["loss"] + second["loss"]) / 2, wanted["loss"])
    for part in ("terms", "gradients", "buffers"):
        assert first[part].keys() == wanted[part].keys()
        for key, value in wanted[part].items():
            close(first[part][key], value, msg=lambda text, key=key: f"{key}: {text}")
            assert torch.equal(first[part][key], second[part][key]), f"{key} is one on all ranks"
    assert max(gradient.abs().max() for gradient in wanted["gradients"].values()) > 1e-2
