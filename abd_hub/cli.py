"""This module is the command ``abd-hub``. Heavy modules are imported only by the commands that need them."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from abd_hub import __version__
from abd_hub.commands.table import find, screen
from abd_hub.core.errors import InputError, Interrupted, disk_problem, visible

DISK = 74
"""The exit code where a disk is full or may not be written to, as sysexits.h has it."""
HUNG_UP = 141
"""The exit code after the reader of the output has gone, as the shell reports SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code. 0 is success, 1 means failed runs in a sweep, and 2 wrong input. 74 means a disk that
        is full or fails, 130 an interruption, and 141 that nobody reads the output any more.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    _set_up_streams()
    _set_up_logging()
    try:
        try:
            return _run(given)
        finally:
            sys.stdout.flush()
    except InputError as error:
        return _stop(" ".join(str(error).split()), 2)
    except Interrupted as stop:
        return _stop(f"{stop}; continue with --resume", 130)
    except KeyboardInterrupt:
        return _stop("interrupted", 130)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        # The interpreter flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HUNG_UP
    except Exception as error:
        problem = disk_problem(error)
        if not problem:
            raise
        return _stop(problem, DISK, alike=False)


def _run(given: list[str]) -> int:
    if not given:
        print(screen(), end="", file=sys.stderr)
        return 2

    name, *others = given
    if name in ("-h", "--help"):
        print(screen(), end="")
        return 0
    if name == "--version":
        print(f"abd-hub {__version__}")
        return 0
    return find(name).load()(others)


def _stop(line: str, code: int, *, alike: bool = True) -> int:
    # Where all processes of a launch stop alike, the first on each machine says why.
    if not alike or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"abd-hub: {visible(line)}", file=sys.stderr)
    return code


def _set_up_streams() -> None:
    """Escapes what a terminal cannot show, such as a class name, because the work before it is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _VisibleFormatter(logging.Formatter):
    """Shows what strangers' names contain, and lets none of it act on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class _AboveBars(logging.StreamHandler[Any]):
    """Writes lines above the bars of tqdm, with which they would share a line otherwise."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")
        with tqdm.tqdm.external_write_mode(file=self.stream) if tqdm else nullcontext():
            super().emit(record)


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_AboveBars(sys.stderr)])
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_VisibleFormatter("%(message)s"))
    for noisy in ("httpx", "httpx2", "timm", "datasets", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _reader_has_gone() -> bool:
    """Returns whether standard output has broken, and not some connection."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
