"""One thread a test process: the tests' networks are tiny, and results do not depend on the machine."""

import signal
from collections import Counter

import torch

torch.set_num_threads(1)

# A shell starts what it puts in the background with SIGINT ignored, and a process is born with what its
# parent ignores: the servers and runs that the tests start would never be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """One line for each part that this machine lacks, with the number of tests that are skipped for it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in sorted(reasons.items()):
        words = reason if "tests" in reason else f"tests ({reason})"
        terminalreporter.write_line(
            f"skipped: {count} {words if count > 1 else words.replace('tests', 'test', 1)}"
        )
