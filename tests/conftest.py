"""What holds for all tests: their order, the marker ``quick``, and a line for each part that is missing.

Every process has one thread, also those that tests start. The networks are tiny, more threads would wait for
each other, and results do not depend on the machine.
"""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from order import LONGEST, QUICK

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# A shell starts what it puts in the background with SIGINT ignored, and a process is born with what its
# parent ignores: the servers and runs that the tests start would never be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Marks the quick tests, puts the longest files first and leaves the order within each."""
    place = {name: index for index, name in enumerate(LONGEST)}
    for item in items:
        if _name(item) in QUICK:
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: place.get(_name(item), len(place)))


def _name(item):
    """The file within the folder of this one."""
    return item.path.relative_to(Path(__file__).parent).as_posix()


def pytest_terminal_summary(terminalreporter):
    """One line for each part that this machine lacks, with the number of tests that are skipped for it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in sorted(reasons.items()):
        words = reason if "tests" in reason else f"tests ({reason})"
        if count == 1:
            words = words.replace("tests", "test", 1)
        terminalreporter.write_line(f"skipped: {count} {words}")
