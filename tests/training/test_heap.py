"""Memory that malloc keeps for the next step."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from icgan_training.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):
    np.ones(1 << 26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_blocks_freed_in_one_step_are_not_faulted_in_again_in_the_next():
    # huge pages, which the kernel gives when it has some, would hide the faults
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NUMPY_MADVISE_HUGEPAGE": "0"}
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT, how], capture_output=True, check=True, env=environment
            ).stdout
        )
        for how in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 3
