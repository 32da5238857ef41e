"""Connects a sweep to Ray, notices when the cluster's head is lost, and waits for its return.

A head keeps its state in memory, so a new head is another cluster. Ray ends each process of the old one.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from abd_hub.core.errors import InputError
from abd_hub.sweep.config import Resources

_OBJECT_STORE = 100 * 2**20
"""Sets the bytes for objects, which are a few words here; Ray otherwise takes a third of the memory."""
_LONGEST_TEMPORARY = 40
"""Limits the path to which Ray adds up to 64 characters for its sockets, which may have 107."""
_LOOK_EVERY = 1.0
_LONGEST_SILENCE = 40.0
"""Waits so many seconds for a head that gives no answer; after 60, Ray ends this process."""
_CLIENT = "ray://"
_UNREACHABLE = (RuntimeError, ValueError, OSError)


def import_ray() -> Any:
    """Returns the module Ray, which is an extra.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            "sweep: runs on Ray, which is not installed; install it with pip install 'ray>=2.60'"
        ) from error


class Cluster:
    """Is the connection of this process to a cluster."""

    def __init__(self, ray: Any, address: str | None) -> None:
        """Takes the address of a cluster, or None for one that is started here or is connected already."""
        self._ray, self._address = ray, address
        self._head: tuple[str, int] | None = None
        self._silent_since: float | None = None

    def connect(self, **settings: Any) -> None:
        """Connects to the cluster, or starts one with these settings.

        Raises:
            InputError: the cluster cannot be reached.
        """
        address = self._address
        try:
            self._ray.init(
                address=address or "local", log_to_driver=False, configure_logging=False, **settings
            )
        except (*_UNREACHABLE, self._ray.exceptions.RayError) as error:
            where = f"{address} cannot be reached" if address else "no local Ray could be started"
            reason = next(iter(str(error).splitlines()), "")
            raise InputError(f"address: {where} ({type(error).__name__}: {reason})") from error
        if address and not address.startswith(_CLIENT):
            host, _, port = self._ray.get_runtime_context().gcs_address.rpartition(":")
            head = host.strip("[]"), int(port)
            # A head that this process cannot reach in this way is not watched.
            self._head = head if _answers(head) else None

    def lost(self) -> bool:
        """Returns whether the head has ended, or has given no answer for a while."""
        if self._head is None:
            return False
        answer = _answers(self._head)
        if answer is not None:
            self._silent_since = None
            return not answer
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        return now - self._silent_since > _LONGEST_SILENCE

    def come_back(self, stopping: Callable[[], bool]) -> bool:
        """Waits for a new head and connects to it; returns False where the sweep was stopped before."""
        head = self._head
        assert head
        self._silent_since = None
        self._ray.shutdown()
        while not stopping():
            if _answers(head):
                # The head's machine is not complete yet as the head begins to answer.
                with contextlib.suppress(InputError), _same_handler():
                    self.connect()
                    self._head = head
                    return True
                self._ray.shutdown()
            time.sleep(_LOOK_EVERY)
        return False


@contextlib.contextmanager
def _same_handler() -> Iterator[None]:
    """Keeps what SIGTERM does, which Ray changes as it connects."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # only the main thread can set a handler
            signal.signal(signal.SIGTERM, handler)


def _answers(place: tuple[str, int]) -> bool | None:
    """Returns whether a program listens at the address; None where its machine gives no answer."""
    try:
        socket.create_connection(place, timeout=_LOOK_EVERY).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def connected(ray: Any, address: str | None) -> Iterator[Cluster]:
    """Connects to the cluster, or starts one and removes it afterwards with its files."""
    cluster = Cluster(ray, address)
    if ray.is_initialized():
        yield cluster
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray leaves the cards visible; the run's own environment forbids their use if it takes none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    temporary = None if address else _temporary_folder()
    local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE, "_temp_dir": temporary}

    try:
        cluster.connect(**({} if address else local))
        yield cluster
    finally:
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides Ray's lines about dead workers on standard output, where JSON may be; the display shows them."""
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):  # noqa: PTH123
        yield


def _temporary_folder() -> str:
    """Creates a folder for Ray's sockets that only this user can read."""
    folder = tempfile.mkdtemp(prefix="abd-")
    if len(folder) <= _LONGEST_TEMPORARY:
        return folder
    Path(folder).rmdir()
    return tempfile.mkdtemp(prefix="abd-", dir="/tmp")


def check_resources(nodes: Sequence[Mapping[str, Any]], wanted: Resources) -> float:
    """Returns the cards a run takes; raises if no machine is large enough, as Ray would wait forever."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    cards = max((machine.get("GPU", 0) for machine in machines), default=0)
    gpus = min(1, cards) if wanted.gpus is None else wanted.gpus
    for name, kind, number in (("cpus", "CPU", wanted.cpus), ("gpus", "GPU", gpus)):
        most = max((machine.get(kind, 0) for machine in machines), default=0)
        if number > most:
            raise InputError(
                f"resources.{name}: a run takes {number:g}, and no machine has more than {most:g}; "
                f"use at most {most:g}"
            )
    if not any(m.get("CPU", 0) >= wanted.cpus and m.get("GPU", 0) >= gpus for m in machines):
        raise InputError(
            f"resources: no machine has both {wanted.cpus:g} cores and {gpus:g} cards; set one of them lower"
        )
    return float(gpus)
