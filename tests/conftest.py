"""One thread a test process: the tests' networks are tiny, and results do not depend on the machine."""

import signal

import torch

torch.set_num_threads(1)

# A shell starts what it puts in the background with SIGINT ignored, and a process is born with what its
# parent ignores: the servers and runs that the tests start would never be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
