"""The host of the processes that run tests: it has collected once, so that none of them imports anything.

The libraries, the package and the files of the tests take fifteen seconds to import, with the assertions that
pytest rewrites. ``begin`` lets the processes of pytest-xdist be forked from one that has done it.
"""

import os
import sys

import pytest
import quick_python

_NAME = "ABD_HUB_TESTS_WORKERS"


def begin(config, specs):
    """Has the processes with these specifications forked."""
    choice = ["-m", config.option.markexpr] if config.option.markexpr else []
    first = quick_python.executable()
    program = quick_python.another(_NAME, first, __file__, {}, sys.executable, *choice, *config.args)
    for spec in specs:
        if spec.popen and not spec.python:
            spec.python = program


def collect(words):
    """Imports what the collection of these tests imports; its errors come again where they are reported."""
    quiet = ["-q", "-q", "--collect-only", "-n", "0", "-p", "no:cacheprovider"]
    before = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    pytest.main([*quiet, *words])
    sys.stdout.flush()
    os.dup2(before, 1)


if __name__ == "__main__":
    folder, sys.executable, *words = sys.argv[1:]
    quick_python.serve(folder, lambda: collect(words), sys.executable)
