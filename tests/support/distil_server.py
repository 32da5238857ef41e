"""A running app whose Hub is the tests' own, and what of its visitors' runs can be seen from outside."""

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import quick_python
from app_server import COMMAND, ENVIRONMENT, SMALL
from hub_server import READ, HubServer

SHORT = {"minutes": 10, "seed": 1, "student": "wrn_10_1", "vaccine_check": False, "vaccine_layers": 2}


class App:
    """The server's process, its address, and the folder for all that it writes.

    ``python`` is a real one where the memory of the process is measured.
    """

    def __init__(self, folder: Path, hub: HubServer, python: str = "") -> None:
        self.hub = hub
        self.place = folder / "tmp"
        self.place.mkdir()
        self.output = folder / "output"
        home = folder / "home"
        # The owner of the server is logged in: no visitor may get anything out of that.
        own = hub.environment(home, READ, HF_HUB_ETAG_TIMEOUT="60", SOME_API_KEY="secret-of-the-owner")
        # A client that closes says so with its next heartbeat.
        own |= {"GRADIO_HEARTBEAT_INTERVAL": "0.3"}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [python or quick_python.executable(), *COMMAND[1:], *map(str, SMALL)],
                env=ENVIRONMENT | own | {"TMPDIR": str(self.place)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.address = ""

    def serves(self) -> bool:
        """Whether it is there, at ``address``."""
        assert self.process.poll() is None, self.output.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+", self.output.read_text())
        self.address = found[0] if found else ""
        return bool(found)

    def runs(self) -> list[int]:
        """Processes of runs that are there now."""
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self._is_run(entry)]

    def _is_run(self, entry: Path) -> bool:
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return any(word.endswith(b"run_child.py") for word in words) and any(
            word.startswith(str(self.place).encode()) for word in words
        )

    def folders(self) -> list[Path]:
        """Folders of runs that are there now."""
        return list(self.place.glob("abd-hub-app-*/run-*"))

    def holding(self, text: str) -> list[Path]:
        """Files in reach of the server that hold this text, its output among them."""
        files = [self.output, *(file for file in self.place.rglob("*") if file.is_file())]
        return [file for file in files if text.encode() in content(file)]

    def stop(self, how: int = signal.SIGINT) -> None:
        """Ends the server as its owner does."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout=300)


@contextmanager
def distilling(folder: Path):
    """A running app; at the end it has ended, and its output has no traceback."""
    with HubServer() as hub:
        app = App(folder, hub)
        try:
            wait(app.serves)
            yield app
        finally:
            app.stop()
        assert "Traceback" not in app.output.read_text(), app.output.read_text()
        assert hub.strangers == []


def wait(look, seconds=240):
    """The first answer that is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{look} is never true")


def content(file: Path) -> bytes:
    """Nothing where the server has removed the file since it was listed."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def environment_of(process: int) -> str:
    return Path(f"/proc/{process}/environ").read_bytes().replace(b"\0", b"\n").decode()


def nice_of(process: int) -> int:
    """The priority of a run; what is seen of it waits for the run, and has its number for a name."""
    name = Path(f"/proc/{process}/comm").read_text("utf-8").strip()
    return os.getpriority(os.PRIO_PROCESS, int(name) if name.isdecimal() else process)
