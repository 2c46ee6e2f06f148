"""Training speed as a ratio to a bare PyTorch loop over the same images: python benchmarks/throughput.py model=... data=...

bare   a uint8 tensor of up to 50,000 images, x = data[perm[i:i+B]].float().div_(255), the same network, loss and fused
       Adam, and the same clipping of gradients where trainer.gradient_clip_val says so
ours   what `python train.py` runs, default callbacks and csv on, timed from step 50

Both run in this process, interleaved, with one thread unless OMP_NUM_THREADS is set; medians over the rounds. Further
arguments: rounds=5, steps=<timed steps per round; by default about 4 s of the bare loop>, also=trainer=fast (any setting,
repeatable) to compare ours with that setting with the same bare loop too. The bare loss is written out for vae and beta_vae;
for other models it is their `objective`. Models that learn from labels get a second batch, read in the same way, with a
separate step if they have one; images per second count the main batch. Groups are computed once. Last line: one JSON object.
"""

import copy
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir

from vae_zoo import config_dir
from vae_zoo.cli.compose import register_resolvers
from vae_zoo.config.check import check_train
from vae_zoo.models.beta_vae import BetaVAE
from vae_zoo.models.vae import VAE
from vae_zoo.runs.train import prepare, quiet
from vae_zoo.utils.memory import keep_freed_memory

WARM_UP = 50
CPU = torch.device("cpu")


def bare_loss(model, x, extra):
    """The loss without code of vae_zoo for the VAE and the beta-VAE; otherwise the model's `objective`."""
    if type(model) not in (VAE, BetaVAE):
        return model.total(model.objective({"image": x} | extra))
    mu, logvar = model.encoder(x).chunk(2, -1)
    z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
    rec = F.binary_cross_entropy_with_logits(model.decoder(z), x, reduction="none").flatten(1).sum(1)
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
    return (rec + (model.beta(0) if isinstance(model, BetaVAE) else 1.0) * kl).mean()


def groups_of(data):
    """The groups of every batch: those of the first step."""
    batch = data.train_batch(0)
    return {key: batch[key] for key in ("group", "num_groups") if key in batch}


def wait(device):
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(model, images, batch_size, steps, groups, labelled=None, clip=None, device=CPU):
    """Seconds of `steps` steps after the warm-up, from the same initial weights and in the same memory format as ours (a
    network whose outputs are nearly 0 after training is slower on a CPU)."""
    model = copy.deepcopy(model).to(device)
    groups = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in groups.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
    own_step = hasattr(model, "supervised_terms")
    if own_step:
        class_optimizer = torch.optim.Adam(model.class_parameters(), lr=5e-4, fused=True)
    extra = groups
    perm = torch.randperm(len(images))
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            wait(device)
            start = time.perf_counter()
        i = step * batch_size % (len(images) - batch_size + 1)
        x = images[perm[i : i + batch_size]].to(device).float().div_(255)
        if labelled is not None:
            rows = torch.randperm(len(labelled[0]))[:batch_size]
            own = labelled[0][rows].to(device).float().div_(255)
            extra = groups | {"supervised": {"image": own, "label": labelled[1][rows].to(device)}}
        if own_step:
            class_loss = model.supervised_terms({"image": x} | extra)["ce"].value
            class_optimizer.zero_grad(set_to_none=True)
            class_loss.backward()
            class_optimizer.step()
        loss = bare_loss(model, x, extra)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    wait(device)
    return time.perf_counter() - start


class Clock:
    """Measures the time from batch WARM_UP to the last in the stream of batches, without an additional callback."""

    def __init__(self, data, steps, device):
        self.read, self.last, self.device = data.train_batch, WARM_UP + steps + 1, device
        data.train_batch = self

    def __call__(self, step, **placement):
        if step in (WARM_UP + 1, self.last):
            wait(self.device)
        if step == WARM_UP + 1:  # Lightning fetches one batch ahead: this is the start of step WARM_UP
            self.start = time.perf_counter()
        if step == self.last:
            self.seconds = time.perf_counter() - self.start
        return self.read(step, **placement)


def compose_config(overrides):
    register_resolvers()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return check_train(compose("train", overrides=overrides))


def prepared(overrides, num_images):
    """The untrained model and the data of a config, and uint8 training images [N, C, H, W]; one thread by default."""
    cfg = compose_config(overrides)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    quiet()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        _, model, data = prepare(Path(folder), cfg)
    parts = data.indices["train"][:num_images].split(1000)
    return model, data, (torch.cat([data.batch(part)["image"] for part in parts]) * 255).byte()


def ours(cfg, data, steps):
    cfg["trainer"]["max_steps"] = WARM_UP + steps + 1  # whose start is the end of the last timed one
    with tempfile.TemporaryDirectory() as folder:
        trainer, model, _ = prepare(Path(folder), cfg, data=data)
        read = data.train_batch
        clock = Clock(data, steps, trainer.strategy.root_device)
        trainer.limit_val_batches = 0
        trainer.fit(model, datamodule=data)
        data.train_batch = read
    return clock.seconds


def main(words):
    own = dict(word.split("=", 1) for word in words if word.split("=")[0] in ("rounds", "steps"))
    also = [word.split("=", 1)[1] for word in words if word.startswith("also=")]
    settings = [word for word in words if word.split("=")[0] not in (*own, "also")]
    cfg = compose_config(settings)
    variants = {word: compose_config([*settings, word]) for word in also}
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    quiet()
    keep_freed_memory()  # as the trainer does on a CPU, so both have it
    with tempfile.TemporaryDirectory() as folder:
        trainer, model, data = prepare(Path(folder), cfg)
    if trainer.channels_last:
        model.to(memory_format=torch.channels_last)
    batch_size = len(data.train_indices(0))
    some = data.indices["train"][:50_000]
    images = (torch.cat([data.batch(part)["image"] for part in some.split(1000)]) * 255).byte()
    groups = groups_of(data)
    labelled = None
    if "supervised" in model.needs:
        index = data.labelled_indices[:50_000]
        labelled = (data.batch(index)["image"] * 255).byte(), data.label[index]
    clip, device = trainer.clip_norm, trainer.strategy.root_device
    steps = int(own.get("steps") or max(50, 4 / (bare(model, images, batch_size, 20, groups, labelled, device=device) / 20)))
    seconds = {"bare": [], "ours": [], **{name: [] for name in variants}}
    for round_ in range(int(own.get("rounds", 5))):
        seconds["bare"].append(bare(model, images, batch_size, steps, groups, labelled, clip, device))
        seconds["ours"].append(ours(cfg, data, steps))
        for name, variant in variants.items():
            seconds[name].append(ours(variant, data, steps))
        print(f"round {round_}: bare {seconds['bare'][-1]:.3f} s, ours {seconds['ours'][-1]:.3f} s for {steps} steps")
    rate = {name: steps * batch_size / statistics.median(values) for name, values in seconds.items()}
    ratio = rate["ours"] / rate["bare"]
    if ratio > 1.05:
        print(f"ratio {ratio:.3f} > 1.05: ours cannot be faster than the bare loop, so the measurement is wrong")
    result = {"ours_images_per_s": rate["ours"], "bare_images_per_s": rate["bare"], "ratio": ratio}
    result |= {f"ratio {name}": rate[name] / rate["bare"] for name in variants}
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
