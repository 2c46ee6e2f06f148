"""Two processes that each hold whole groups take the step of one process that holds them all."""

import pytest
import torch
from torch import nn

from tests.models.builders import build, costs
from vae_zoo.data.sets.digits import Digits
from vae_zoo.distributions import noise

STEPS = (0, 5)


def grouped_digits():
    """Groups of 1 to 5 images, so that ranks hold the same number of groups and other numbers of images."""
    data = Digits(size=8, group_by="label", group_size=[1, 5], group_pick="balanced", num_groups=8)
    data.setup()
    return data


class Loss(nn.Module):
    """The objective as a forward pass, which is what ddp watches; noise belongs to the image, not to the rank."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        with noise.per_image(batch["index"]):
            return costs(self.model, batch)["loss"]


def step(loss_of, model, batch):
    model.zero_grad()
    loss = loss_of(batch)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def work(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    data, model = grouped_digits(), build("ml_vae", (1, 8, 8))
    loss_of = nn.parallel.DistributedDataParallel(Loss(model))
    batches = [data.train_batch(step, rank, 2) for step in STEPS]
    results = [step(loss_of, model, batch) for batch in batches]
    torch.save({"results": results, "images": [len(batch["image"]) for batch in batches]}, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["ml_vae", "group_vae"])
def test_mean_over_ranks_is_the_loss_and_gradient_of_all_groups(name):
    """What ddp computes, without processes."""
    data, model = grouped_digits(), build(name, (1, 8, 8))
    for number in STEPS:
        loss, gradients = step(Loss(model), model, data.train_batch(number))
        for world_size in (2, 4):
            parts = [step(Loss(model), model, data.train_batch(number, rank, world_size)) for rank in range(world_size)]
            torch.testing.assert_close(sum(part[0] for part in parts) / world_size, loss, rtol=1e-6, atol=0)
            for wanted, *got in zip(gradients, *(part[1] for part in parts)):
                torch.testing.assert_close(sum(got) / world_size, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_loss_and_gradients_of_two_processes_are_those_of_one(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    data, model = grouped_digits(), build("ml_vae", (1, 8, 8))
    assert ranks[0]["images"] != ranks[1]["images"]
    for i, number in enumerate(STEPS):
        loss, gradients = step(Loss(model), model, data.train_batch(number))
        (first, shared), (second, same) = (rank["results"][i] for rank in ranks)
        torch.testing.assert_close((first + second) / 2, loss, rtol=1e-6, atol=0)
        assert all(torch.equal(a, b) for a, b in zip(shared, same)), "ddp leaves the ranks with one gradient"
        for got, wanted in zip(shared, gradients):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
            assert wanted.abs().max() > 1e-3
