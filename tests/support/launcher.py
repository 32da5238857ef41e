"""Two real processes, started by torchrun."""

import os
import subprocess
import sys


def torchrun(*arguments):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, *arguments], env=environment, capture_output=True, text=True, check=False)
    # The launcher's own words come last, and say little.
    assert done.returncode == 0, done.stderr[:6000]
