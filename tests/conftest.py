"""What holds for all tests: order, processes, the marker ``quick``, and a line for each part that is missing.

Every process has one thread, also those that tests start. The networks are tiny, more threads would wait for
each other, and results do not depend on the machine. torch reads that number as it is imported. The process
that distributes the tests imports no torch.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import accelerator_state
import forked
import pytest
import quick_python
import worker_host
from order import LONGEST, QUICK, TOGETHER, WAITING

os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts what it puts in the background with SIGINT ignored, and a process is born with what its
# parent ignores: the servers and runs that the tests start would never be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    """All processes of the tests share one that forks others."""
    if not hasattr(config, "workerinput"):
        quick_python.executable()


def pytest_ignore_collect(collection_path, config):
    """With ``-m quick``, no file without quick tests is imported, which takes as long as those tests."""
    if config.option.markexpr == "quick" and collection_path.match("test_*.py"):
        return _name(collection_path) not in QUICK
    return None


def pytest_collection_modifyitems(items):
    """Marks the quick tests, puts the longest files first and leaves the order within each."""
    place = {name: index for index, name in enumerate(LONGEST)}
    for item in items:
        if _name(item.path) in QUICK:
            item.add_marker(pytest.mark.quick)
    items.sort(key=lambda item: place.get(_name(item.path), len(place)))


def _name(file):
    """The file within the folder of this one."""
    return file.relative_to(Path(__file__).parent).as_posix()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file is run by one process, and so are files that share a server.

    Of three processes or more, one runs what waits for servers, and ends with it: more of them at work than
    there are cores take longer than two.
    """
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        patient = None

        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((files[0] for files in TOGETHER if file.removeprefix("tests/") in files), file)

        def add_node(self, node):
            super().add_node(node)
            if self.numnodes > 2:
                self.patient = node

        def _waiting(self):
            return [file for file in self.workqueue if file.removeprefix("tests/") in WAITING]

        def _assign_work_unit(self, node):
            first = self._waiting()
            if node is not self.patient:
                first = [file for file in self.workqueue if file not in first]
            if first:
                self.workqueue.move_to_end(first[0], last=False)
            super()._assign_work_unit(node)

        def _reschedule(self, node):
            if node is not self.patient or self._waiting():
                super()._reschedule(node)
            elif not node.shutting_down:
                node.shutdown()

    return Together(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """The processes are forked from one that has imported everything; they share what forks programs."""
    forked.prepare()
    worker_host.begin(config, specs)


@pytest.fixture(autouse=True)
def own_accelerator():
    """Each test makes an accelerator of its own, as each command does in a process of its own."""
    yield
    accelerator_state.forget()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Nobody waits for the seconds between the tries, which a person would wait for a busy Hub."""
    requests = sys.modules.get("abd_hub.hub.requests")
    if requests is not None:
        monkeypatch.setattr(requests, "WAITS", (0.05, 0.05, 0.05))


def pytest_terminal_summary(terminalreporter):
    """One line for each part that this machine lacks, with the number of tests that are skipped for it."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    for reason, count in sorted(reasons.items()):
        words = reason if "tests" in reason else f"tests ({reason})"
        if count == 1:
            words = words.replace("tests", "test", 1)
        terminalreporter.write_line(f"skipped: {count} {words}")
