import subprocess
import sys

import pytest

from vae_zoo.utils.memory import keep_freed_memory

PAGE_FAULTS = """
import resource, torch
from vae_zoo.utils.memory import keep_freed_memory
if {keep}: assert keep_freed_memory()
def step(): torch.ones(12_000_000)  # 48 MB, freed at once
for _ in range(5): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="not glibc")
def test_freed_blocks_are_used_again_without_asking_the_kernel():
    def faults(keep):
        done = subprocess.run(
            [sys.executable, "-c", PAGE_FAULTS.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults(True) < 0.5 * faults(False)
