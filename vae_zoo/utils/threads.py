"""Sets the number of threads of a process and how they wait for each other. Imports neither torch nor lightning."""

import os

THREADS = "OMP_NUM_THREADS"
GPU_SHARE = "VAE_ZOO_GPU_SHARE"  # of the memory of a GPU that several jobs of a sweep use, in (0, 1]
# By default the threads of OpenMP (GNU's and Intel's) wait in a loop that keeps a core busy, which is slow as soon as
# another process needs the core. Turns of the loop, and milliseconds, after which they sleep:
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


def wait_briefly() -> None:
    """Makes waiting threads release their core, in this process and its children. Must be called before torch is imported.
    Variables that the user has set in the environment are kept."""
    if not {"OMP_WAIT_POLICY", *WAITING} & os.environ.keys():
        os.environ.update(WAITING)


def num_cores() -> int:
    """Number of cores that this process may use by its affinity and by the quota of its control group (container)."""
    import joblib

    return joblib.cpu_count()


def set_threads(before: int | None = None) -> int:
    """Sets and returns the threads of torch: OMP_NUM_THREADS, or as many as the run had `before`, or one a core."""
    import torch

    if not os.environ.get(THREADS, "").isdigit():
        torch.set_num_threads(before or num_cores())
    return torch.get_num_threads()
