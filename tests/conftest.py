"""One thread a test process: the tests' networks are tiny, and results do not depend on the machine."""

import torch

torch.set_num_threads(1)
