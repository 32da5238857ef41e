"""Two Ray nodes on this machine, each with a network of its own where this user may make one.

``Network`` makes two network namespaces and a cable between them, which takes the rights of root. Otherwise
the nodes share the loopback network, with one address each. ``Cluster`` starts, kills and stops the nodes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

HEAD, WORKER = "head", "worker"
NODES = (HEAD, WORKER)
ROOT = Path(__file__).resolve().parents[1]
_OBJECT_STORE = 100 * 2**20
_GRACE = 10.0
"""Seconds that a stopped node gets before it is killed, as ``ray stop`` gives it."""
_START = 120.0
_STARTS = 5


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits until the condition holds; returns False after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def processes_in(folder: Path) -> list[int]:
    """Returns the processes whose working folder is this one or below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            here = (entry / "cwd").readlink()
            if here == folder or folder in here.parents:
                found.append(int(entry.name))
    return found


def kill(numbers: Iterable[int], how: signal.Signals = signal.SIGKILL) -> None:
    """Sends the signal to each process that still lives."""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, how)


class Network:
    """Gives each node an address; the end of the ``with`` block removes what was made."""

    def __init__(self, place: Path, *, isolated: bool | None = None) -> None:
        """Names the namespaces after a folder; ``isolated`` by default says whether they can be made."""
        number = hashlib.sha256(str(place).encode()).digest()
        self.names = {node: f"abd{number.hex()[:6]}{node[0]}" for node in NODES}
        self._subnet = f"10.{200 + number[0] % 50}.{number[1]}"
        self._wanted = isolated
        self.isolated = False
        self.addresses: dict[str, str] = {}
        self.port = 6379

    def __enter__(self) -> Network:
        self.isolated = self._wanted is not False and self._make()
        assert self.isolated or not self._wanted, "the namespaces could not be made"
        subnet = self._subnet if self.isolated else "127.0.0"
        self.addresses = {node: f"{subnet}.{index + 1}" for index, node in enumerate(NODES)}
        if not self.isolated:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    @property
    def cluster_address(self) -> str:
        """Returns the address of the head for ``--address``."""
        return f"{self.addresses[HEAD]}:{self.port}"

    def inside(self, node: str) -> list[str]:
        """Returns the words before a command that runs in the node's network."""
        return ["ip", "netns", "exec", self.names[node]] if self.isolated else []

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Pulls the cable for the time of the block."""
        name = self.names[WORKER]
        _ip("-n", name, "link", "set", name, "down")
        try:
            yield
        finally:
            _ip("-n", name, "link", "set", name, "up")

    def _make(self) -> bool:
        self._remove()
        head, worker = (self.names[node] for node in NODES)
        try:
            _ip("link", "add", head, "type", "veth", "peer", "name", worker)
            for index, name in enumerate((head, worker)):
                _ip("netns", "add", name)
                _ip("link", "set", name, "netns", name)
                _ip("-n", name, "address", "add", f"{self._subnet}.{index + 1}/24", "dev", name)
                for device in ("lo", name):
                    _ip("-n", name, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError):
            self._remove()
            return False
        return True

    def _remove(self) -> None:
        for words in (
            ["link", "delete", self.names[HEAD]],
            *(["netns", "delete", n] for n in self.names.values()),
        ):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip(*words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cluster:
    """Starts and ends two nodes; each works in a folder of its own, by which its processes are found."""

    def __init__(self, network: Network, place: Path, cores: int) -> None:
        """Keeps the folders of the nodes in ``place``; each node offers so many cores."""
        self.network, self.cores = network, cores
        self.place = (place / "nodes").resolve()
        self._temporary = Path(tempfile.mkdtemp(prefix="abd-", dir="/tmp"))
        # A path of its own, so that the token under the user's home stays as it is.
        token = self._temporary / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        self.environment = {
            **os.environ,
            **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)},
            **{"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "ACCELERATE_USE_CPU": "true"},
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }

    def __enter__(self) -> Cluster:
        for node in NODES:
            self.kill(node)  # of an earlier call that was killed
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(NODES):
            self.stop(node)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def start(self, node: str) -> None:
        """Starts a node, several times where its Ray does not come up."""
        folder = self._folder(node)
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_STARTS):
            self.kill(node)
            # ``ray stop`` removes this file. With it, a head takes the other node's raylet for its own.
            (self._temporary / node[0] / "ray_current_cluster").unlink(missing_ok=True)
            with (
                (self.place / f"{node}.log").open("ab") as log,
                contextlib.suppress(subprocess.TimeoutExpired),
            ):
                done = subprocess.run(
                    [*self.network.inside(node), *self._words(node)],
                    **{"cwd": folder, "env": self.environment, "stdout": log, "stderr": log},
                    stdin=subprocess.DEVNULL,
                    timeout=_START,
                    check=False,
                )
                if done.returncode == 0 and self.alive(node):
                    return
        raise RuntimeError(f"no Ray could be started; {self.place / node}.log says why")

    def _words(self, node: str) -> list[str]:
        address = self.network.addresses[node]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
        words += ["--node-ip-address", address, "--num-cpus", str(self.cores), "--num-gpus", "0"]
        words += ["--object-store-memory", str(_OBJECT_STORE), "--temp-dir", str(self._temporary / node[0])]
        if node == HEAD:
            return [*words, "--head", "--port", str(self.network.port), "--include-dashboard", "false"]
        return [*words, "--address", self.network.cluster_address]

    def _folder(self, node: str) -> Path:
        return self.place / node

    def processes(self, node: str) -> list[int]:
        """Returns the processes of a node, and what they have started."""
        found = set(processes_in(self._folder(node)))
        for number in list(found):
            with contextlib.suppress(psutil.Error):
                found.update(child.pid for child in psutil.Process(number).children(recursive=True))
        return sorted(found)

    def raylets(self, node: str) -> list[int]:
        """Returns the process that is the node for Ray, if it lives."""
        return [number for number in processes_in(self._folder(node)) if name_of(number) == "raylet"]

    def alive(self, node: str) -> bool:
        """Returns whether the node's raylet lives."""
        return bool(self.raylets(node))

    def kill(self, node: str) -> None:
        """Takes the node's power away, with all that runs on it."""
        while numbers := self.processes(node):
            kill(numbers)
            time.sleep(0.05)

    def stop(self, node: str) -> None:
        """Ends the node as ``ray stop`` does, which would reach the other node as well."""
        kill(processes_in(self._folder(node)), signal.SIGTERM)
        until(lambda: not processes_in(self._folder(node)), _GRACE)
        self.kill(node)

    def workers(self) -> list[int]:
        """Returns the Ray workers that carry out a run."""
        found = []
        for node in NODES:
            for number in processes_in(self._folder(node)):
                with contextlib.suppress(psutil.Error):
                    if any("abd_hub.child" in child.cmdline() for child in psutil.Process(number).children()):
                        found.append(number)
        return sorted(found)


def name_of(number: int) -> str:
    """Returns the name of a process that is no zombie, or nothing."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(number)
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    return ""
