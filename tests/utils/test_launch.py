"""What the environment of a scheduler means for a run, and what it must not mean."""

import pytest

from vae_zoo import UserError
from vae_zoo.utils import launch

ONE, DDP = {"devices": "auto"}, {"devices": 2, "strategy": "ddp"}
NAMES = (*launch.OF_A_LAUNCHER, "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_NAME", "SLURM_LOCALID")
SRUN = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host"}


@pytest.fixture
def given(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def give(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(
    "variables, trainer, rank",
    [
        (SRUN, DDP, 1),
        (TORCHRUN, DDP, 1),
        ({"LOCAL_RANK": "1"}, DDP, 1),  # started by Lightning
        (SRUN, ONE, 0),  # `srun python train.py seed=$SLURM_PROCID`: tasks with runs of their own
        (TORCHRUN, ONE, 0),
        ({"RANK": "3"}, ONE, 0),  # an indexed job of Kubernetes
        (SRUN | {"SLURM_JOB_NAME": "bash"}, DDP, 0),  # left by `srun --pty bash`
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, DDP, 1),  # ranks started from one task
    ],
)
def test_rank_is_that_of_the_launcher_only_where_the_run_has_ranks(given, variables, trainer, rank):
    given(variables)
    assert launch.rank(trainer) == rank


def test_run_that_starts_its_own_ranks_does_not_see_the_address_of_another(given):
    stale = {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "1", "NODE_RANK": "1"}
    given(stale | {"OMP_NUM_THREADS": "3"})
    kept = launch.environment(DDP)
    assert not stale.keys() & kept.keys() and kept["OMP_NUM_THREADS"] == "3"
    assert launch.environment(DDP | {"num_nodes": 2}).items() >= stale.items(), "several nodes are told where to meet"
    given(TORCHRUN)
    assert launch.environment(DDP).items() >= TORCHRUN.items()


@pytest.mark.parametrize(
    "variables, trainer, parts",
    [
        (TORCHRUN, ONE, ["torchrun started 2 processes", "trainer.devices=auto", "trainer=ddp"]),
        (TORCHRUN | {"WORLD_SIZE": "4"}, DDP, ["torchrun started 4 processes", "make 2"]),
        (SRUN | {"SLURM_NTASKS": "8"}, DDP | {"num_nodes": 2}, ["srun started 8", "trainer.num_nodes=2 make 4"]),
        ({"PL_TRAINER_LIMIT_TRAIN_BATCHES": "1"}, ONE, ["PL_TRAINER_LIMIT_TRAIN_BATCHES", "trainer.limit_train_batches"]),
    ],
)
def test_environment_that_contradicts_the_config_is_refused(given, monkeypatch, variables, trainer, parts):
    given(variables)
    with pytest.raises(UserError) as error:
        launch.check_launch(trainer)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    "variables, trainer", [(SRUN, ONE), (SRUN, DDP), (TORCHRUN, DDP), ({}, DDP), (SRUN, {"devices": -1})]
)
def test_environment_that_fits_is_not(given, variables, trainer):
    given(variables)
    launch.check_launch(trainer)
