"""Detects which processes of torchrun, srun or Lightning form one run. Imports neither torch nor lightning."""

import os
from collections.abc import Mapping
from typing import Any

from vae_zoo.utils.errors import UserError

OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
NOTED = (  # variables that change results or devices, or tell where a run was made
    *(
        "OMP_NUM_THREADS",
        "OMP_WAIT_POLICY",
        "GOMP_SPINCOUNT",
        "KMP_BLOCKTIME",
        "MKL_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "CUBLAS_WORKSPACE_CONFIG",
        "NVIDIA_TF32_OVERRIDE",
    ),
    *("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_NTASKS", "WANDB_MODE"),
)
INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs whose processes were not started by srun


def is_offline() -> bool:
    """Whether the environment keeps W&B offline; wandb would obey it without telling its logger."""
    return os.environ.get("WANDB_MODE") in ("offline", "dryrun")


def has_ranks(trainer: Mapping[str, Any]) -> bool:
    """Whether a run with this trainer (its config) may be several processes."""
    devices = trainer.get("devices", 1)
    several = len(devices) > 1 if isinstance(devices, list) else devices not in ("auto", 1, None)
    return trainer.get("strategy", "auto").startswith("ddp") or several or trainer.get("num_nodes", 1) > 1


def by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Whether SLURM started several tasks. A single task is an ordinary process, and starts its own ranks."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    return tasks.isdigit() and int(tasks) > 1 and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def rank(trainer: Mapping[str, Any]) -> int:
    """Rank of this process in a run with this trainer (its config). Rank 0 writes.

    A run of one process is rank 0 whatever the environment says: tasks of srun may each train a run of their own.
    """
    if not has_ranks(trainer):
        return 0
    names = ("RANK", "LOCAL_RANK", *(["SLURM_PROCID"] if by_srun() else []))
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def environment(trainer: Mapping[str, Any]) -> dict[str, str]:
    """The environment for a run; variables of another launcher are removed if the run starts its own ranks."""
    own = not (by_torchrun() or by_srun() or "LOCAL_RANK" in os.environ) and trainer.get("num_nodes", 1) == 1
    return {name: value for name, value in os.environ.items() if not (own and name in OF_A_LAUNCHER)}


def noted() -> dict[str, str]:
    """The variables of NOTED that are set; run.json contains them."""
    return {name: os.environ[name] for name in NOTED if name in os.environ}


def check_launch(trainer: Mapping[str, Any]) -> None:
    """Raises UserError if the environment contradicts the trainer's config, or changes settings that it does not show."""
    if of_lightning := sorted(name for name in os.environ if name.startswith("PL_TRAINER_")):
        key = of_lightning[0].removeprefix("PL_TRAINER_").lower()
        raise UserError(
            f"the environment sets {of_lightning[0]}, which config.yaml would not show; unset it and write "
            f"trainer.{key}=<value>"
        )
    launcher, name = ("torchrun", "WORLD_SIZE") if by_torchrun() else ("srun", "SLURM_NTASKS")
    started, devices = int(os.environ.get(name, 1)), trainer.get("devices", 1)
    if not by_torchrun() and not (by_srun() and has_ranks(trainer)) or devices == -1:
        return
    nodes, here = trainer.get("num_nodes", 1), len(devices) if isinstance(devices, list) else devices
    wanted = nodes * (1 if here == "auto" else here)
    if started != wanted:
        raise UserError(
            f"{launcher} started {started} processes ({name}), but trainer.devices={here} and trainer.num_nodes={nodes} "
            f"make {wanted}; add trainer=ddp with trainer.devices=<processes of a node> and trainer.num_nodes=<nodes>"
        )
