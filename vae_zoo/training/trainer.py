"""Lightning's Trainer with the conventions of vae_zoo: lengths are counted in steps, checkpoints are written atomically."""

import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMAWeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vae_zoo.training.attached import RunTrainer
from vae_zoo.training.callbacks.monitor import Monitor
from vae_zoo.utils import launch
from vae_zoo.utils.files import atomic
from vae_zoo.utils.memory import keep_freed_memory
from vae_zoo.utils.threads import GPU_SHARE

log = logging.getLogger(__name__)


class MomentsFormat(L.Callback):
    """Brings what the optimisers keep of each weight to the memory format of this weight.

    A checkpoint has the format of the run that wrote it, while `trainer.channels_last` may differ when the run resumes; the
    fused Adam pairs the two by their order in memory.
    """

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            for weight, state in optimizer.state.items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                        state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically; reading unpickles only plain containers."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        with atomic(Path(path), sync=True) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class EarlyStopping(LightningEarlyStopping):
    """Uses the patience of the config if it differs from that of the checkpoint. The class name is the key of its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.is_exhausted

    @property
    def is_exhausted(self) -> bool:
        return self.wait_count >= self.patience


class EMAWeightAveraging(LightningEMAWeightAveraging):
    """Begins anew, with all weights, when a model has set values from images; those before must not count."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args, **kwargs) -> None:
        if getattr(pl_module, "initialised_at", None) == trainer.global_step - 1:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()  # the next average is a copy
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)


def cluster_environment(trainer: dict[str, Any]) -> ClusterEnvironment:
    """The environment of torchrun or srun if one of them has started the ranks; otherwise the run starts its own ranks.

    Requeueing by Lightning is off, since it would write and read its own checkpoints. trainer: settings.
    """
    if launch.has_ranks(trainer) and launch.by_torchrun():
        return TorchElasticEnvironment()
    if launch.has_ranks(trainer) and launch.by_srun():
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def precision_of(setting: Any, accelerator: str) -> Any:
    """Lightning's precision. `fast` is bf16-mixed if the device supports bfloat16, which other devices emulate slowly."""
    if setting != "fast":
        return setting
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version of torch: then not known
        on_mps = accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available())
        has_bf16 = not on_mps and any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    chosen = "bf16-mixed" if has_bf16 else "32-true"
    support = "supports" if has_bf16 else "does not support"
    log.info("trainer.precision=fast: %s, since this device %s bfloat16", chosen, support)
    return chosen


class Trainer(RunTrainer):
    """Trainer with the settings of conf/trainer; Lightning's other arguments are fixed.

    seed: of the training noise. gradient_clip_val: maximum norm, for every optimiser. ema_decay: decay of averaged weights,
    which are validated, tested and saved. patience: validations without a lower val/loss before training stops. compile:
    compile the networks with torch.compile; checkpoints are the same. channels_last: memory format of the convolutions.
    """

    def __init__(
        self,
        seed: int = 0,
        gradient_clip_val: float | None = None,
        ema_decay: float | None = None,
        patience: int | None = None,
        compile: bool = False,
        channels_last: bool = False,
        callbacks: list[L.Callback] | None = None,
        devices: Any = "auto",
        max_steps: int = 4000,
        val_check_interval: int = 500,
        logger: Any = False,
        accelerator: str = "auto",
        precision: Any = "32-true",
        **lightning,
    ):
        self.seed, self.clip_norm = seed, gradient_clip_val
        self.compile_networks, self.channels_last = compile, channels_last
        callbacks = [Monitor(), MomentsFormat(), *(callbacks or [])]
        if ema_decay is not None:
            callbacks.append(EMAWeightAveraging(decay=ema_decay))
        if patience is not None:
            callbacks.append(EarlyStopping("val/loss", patience=patience, check_finite=False))
        super().__init__(
            callbacks=callbacks,
            logger=logger,
            devices=1 if devices == "auto" else devices,  # one device by default
            accelerator=accelerator,
            precision=precision_of(precision, accelerator),
            max_steps=max_steps,
            val_check_interval=min(val_check_interval, max_steps),  # a short run is validated too
            max_epochs=-1,  # one endless epoch; the data module counts the epochs
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # ranks split batches in the data module
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),  # ours or none
            enable_progress_bar=False,  # ours: vae_zoo.training.Progress
            enable_model_summary=False,
            default_root_dir=os.devnull,  # Lightning looks here for its own checkpoints under SLURM
            plugins=[AtomicCheckpointIO(), cluster_environment(lightning | {"devices": devices})],
            **lightning,
        )

    def fit(self, model: L.LightningModule, *args, **kwargs) -> None:
        """Trains the model. Memory format and compilation change it in place, so checkpoints load with or without them."""
        device = self.strategy.root_device
        if device.type == "cpu":
            keep_freed_memory()
        elif device.type == "cuda" and (share := os.environ.get(GPU_SHARE)):
            torch.cuda.set_per_process_memory_fraction(float(share), device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile_networks:
            for network in model.children():
                network.compile(dynamic=False)
        super().fit(model, *args, **kwargs)

    def stopped_by(self) -> str:
        """The setting that ended training before its last step, or `callback` for a callback of the user."""
        for callback in self.callbacks:
            if isinstance(callback, EarlyStopping) and callback.is_exhausted:
                return "patience"
            if isinstance(callback, Timer) and (callback.time_remaining() or 1) <= 0:
                return "max_time"
        return "callback"
