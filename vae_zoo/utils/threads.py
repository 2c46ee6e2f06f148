"""Sets the number of threads of a process and how they wait for each other. Imports neither torch nor lightning."""

import os
import time

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


def cores_are_shared(seconds: float = 0.2) -> bool:
    """Whether other processes use so many cores that this one has to share a quarter of its own; measured for `seconds`."""
    import psutil

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))

    def used() -> float:
        """CPU seconds that other processes have used of the cores."""
        times = psutil.cpu_times(percpu=True)
        return sum(sum((t.user, t.nice, t.system)) for k, t in enumerate(times) if k in allowed) - time.process_time()

    start, before = time.monotonic(), used()
    time.sleep(seconds)
    others = (used() - before) / (time.monotonic() - start)
    return others + num_cores() > len(allowed) and others >= num_cores() / 4


def set_threads(before: int | None = None) -> int:
    """Sets and returns the threads of torch: OMP_NUM_THREADS, or as many as the run had `before`, or one a core.

    Two a core where cores are shared. Threads get equal parts of an operation and wait for the slowest; with two a core, the
    thread that shares its core with another process has less to do.
    """
    import torch

    if not os.environ.get(THREADS, "").isdigit():
        torch.set_num_threads(before or num_cores() * (2 if cores_are_shared() else 1))
    return torch.get_num_threads()
