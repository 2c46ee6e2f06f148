"""What depends on the device: run on a CUDA device by `pytest -m gpu`. VAE_ZOO_TEST_DEVICE=cpu runs the same tests here."""

import math
import os

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.config.test_schemas import choices
from tests.models.builders import costs
from tests.training.test_trainer import FEW, LADDERS, SCENES, SMALL, configuration, train
from vae_zoo import load_model
from vae_zoo.distributions import noise
from vae_zoo.runs.evaluate import evaluate_trained
from vae_zoo.runs.train import main, prepare

DEVICE = os.environ.get("VAE_ZOO_TEST_DEVICE", "cuda")
ON = f"trainer.accelerator={'gpu' if DEVICE == 'cuda' else DEVICE}"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def words_of(model):
    words = [f"model={model}", "data=digits", "data.batch_size=8", "trainer.max_steps=6", *FEW["digits"]]
    words += LADDERS.get(model, [f"model.network.{'hidden=[8]' if model in SCENES else 'channels=[4,4,4,4]'}"])
    return words + (["model.discriminator_hidden=[8]"] if model == "factor_vae" else [])


def moved(batch):
    return {
        key: moved(value) if isinstance(value, dict) else value.to(DEVICE) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


@pytest.mark.parametrize("name", choices("model"))
def test_terms_and_gradients_are_those_of_a_cpu(tmp_path, name):
    """Noise is a hash of the image there, so that no generator differs."""
    _, model, data = prepare(tmp_path, configuration(*words_of(name), "trainer.accelerator=cpu"))
    model.eval()
    batch, found = data.train_batch(0), []
    for device in ("cpu", DEVICE):
        model.to(device)
        model.zero_grad()
        with noise.per_image(batch["index"].to(device)):
            values = costs(model, batch if device == "cpu" else moved(batch))
        values["loss"].backward()
        gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        found.append(({term: value.detach().cpu() for term, value in values.items()}, gradients))
    (here, slopes), (there, slopes_there) = found
    assert slopes and slopes.keys() == slopes_there.keys()
    for term, value in here.items():
        torch.testing.assert_close(there[term], value, rtol=1e-4, atol=1e-4, msg=f"{term}: {there[term]}, {value}")
    scale = max(float(g.abs().max()) for g in slopes.values())
    for parameter, slope in slopes.items():
        assert float((slopes_there[parameter] - slope).abs().max()) <= 1e-4 * max(1, scale), parameter


class InTheLoop(Callback):
    """Raises where a step waits for the device, once the first ones have set up what they need."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if DEVICE == "cuda" and batch_idx >= 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_before_zero_grad(self, *_):
        torch.cuda.set_sync_debug_mode("default") if DEVICE == "cuda" else None

    on_train_batch_end = on_train_end = on_exception = on_before_zero_grad


@pytest.mark.parametrize("name", choices("model"))
def test_training_never_waits_for_the_device_and_ends_with_numbers(tmp_path, small_evaluation, name):
    trainer, model, data = train(tmp_path, *words_of(name), ON, callback=InTheLoop())
    assert {p.device.type for p in model.parameters()} == {DEVICE} and trainer.global_step == 6
    numbers = evaluate_trained(trainer, model, data, tmp_path).numbers
    assert numbers["test/rec"] > 0 and all(map(math.isfinite, numbers.values()))
    assert {p.device.type for p in load_model(tmp_path).parameters()} == {"cpu"}, "a machine without the device loads it"


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(tmp_path):
    weights = []
    for folder, first in ((tmp_path / "whole", 12), (tmp_path / "halves", 5)):
        train(folder, *SMALL, "model=vae", ON, f"trainer.max_steps={first}")
        if first < 12:
            config = folder / "config.yaml"
            config.write_text(config.read_text().replace("max_steps: 5", "max_steps: 12"))
            assert main([str(folder), "--resume"]) == 0
        weights.append(load_model(folder).state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name


@pytest.mark.parametrize("words", ["trainer=fast", "trainer.compile=true", "trainer.precision=bf16-mixed"])
def test_faster_arithmetic_ends_near_the_loss_of_float32(tmp_path, words):
    losses = []
    for name, more in (("plain", []), ("fast", [words])):
        trainer, *_ = train(tmp_path / name, *SMALL, "model=beta_vae", *more, ON)
        losses.append(float(trainer.callback_metrics["val/loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.skipif(DEVICE != "cuda", reason="memory of a CUDA device")
def test_images_on_the_host_cost_the_device_a_batch_at_a_time(tmp_path):
    torch.cuda.reset_peak_memory_stats()
    _, _, data = train(tmp_path, "model=vae", "data=digits", "model/network=mlp", "trainer.max_steps=5", ON)
    assert data.images.device.type == "cpu"
    assert torch.cuda.max_memory_allocated() < 500e6


@pytest.mark.skipif(DEVICE != "cuda", reason="memory of a CUDA device")
def test_a_job_that_shares_its_gpu_gets_no_more_than_its_share_of_the_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_ZOO_GPU_SHARE", "0.25")
    train(tmp_path, *SMALL, "model=vae", ON)
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(int(0.3 * total), dtype=torch.uint8, device=DEVICE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
