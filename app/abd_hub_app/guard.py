"""Limits the requests of visitors before the rest of the server sees them, and the files kept of them."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

LARGEST_UPLOAD = 50_000_000
"""Limits the bytes of a file, such as a model; pictures have a lower limit, where they are read."""
LARGEST_REQUEST = 500_000
"""Limits the bytes of any other request; the server keeps the last one of each visitor."""
RUNS = "run-"
"""Begins the names of the folders of visitors' runs."""
MOST_HELD = 64_000_000
"""Limits the bytes of all requests that are arriving at one moment."""
MOST_STORED = 300_000_000
"""Limits the bytes of pictures and answers on the disk; the oldest go first."""
_ENVELOPE = 10_000
_PATIENCE = 30
_SWEEP_SECONDS = 20
_SWEEP_BYTES = 30_000_000
_RUN = re.compile(rf"/{RUNS}[0-9a-f]{{32}}/")
# The page never needs these: fetch addresses, run ffmpeg, write links, edit the page, use the Hub.
_CLOSED = (
    "proxy=",
    "process_recording",
    "deep_link",
    "run-history",
    "runs",
    "vibe-",
    "undo-vibe-",
    "monitoring",
    "component_server",
    "stream/",
)
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Store:
    """Limits the folder that holds the requests of visitors and the answers to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = frozenset[Path]()
        """Holds the files of the page itself."""

    def keep(self) -> None:
        """Keeps the present files as the page's own, and limits the folder from now on."""
        self.kept = frozenset(self._files())
        threading.Thread(target=self._watch, daemon=True).start()

    def sweep(self) -> None:
        """Removes the oldest files down to half of ``MOST_STORED`` bytes if there are more than that."""
        files = []
        for file in self._files():
            try:
                status = file.stat()
            except OSError:  # another thread has removed it
                continue
            files.append((status.st_mtime, status.st_size, file))

        total = sum(size for _, size, _ in files)
        if total <= MOST_STORED:
            return

        for _, size, file in sorted(files):
            if total <= MOST_STORED // 2:
                return
            if file not in self.kept:
                file.unlink(missing_ok=True)
                total -= size

    def _files(self) -> list[Path]:
        """Returns all files except the files of visitors' runs, which the queue limits and removes itself."""
        found = []
        # os.walk passes over what another thread removes meanwhile, where rglob raises an error.
        for place, folders, files in os.walk(self.folder):
            if place == str(self.folder):
                folders[:] = [folder for folder in folders if not folder.startswith(RUNS)]
            found += [path for path in (Path(place, name) for name in files) if path.is_file()]
        return found

    def _watch(self) -> None:
        while self.folder.is_dir():
            self.sweep()
            threading.Event().wait(_SWEEP_SECONDS)


class Bounds:
    """Passes on, as ASGI middleware, requests that arrive whole and within their limit; keeps no others."""

    def __init__(self, app: _Application, store: Store) -> None:
        self.app = app
        self.store = store
        self.held = 0
        self.arrived = 0

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Passes on a request that is open to visitors and within the limits."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif _is_closed(scope["path"]):
            await _answer(send, 404, "there is nothing here")
        elif scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        uploads = scope["path"].rstrip("/").endswith("/upload")
        most = (LARGEST_UPLOAD if uploads else LARGEST_REQUEST) + _ENVELOPE
        parts: list[bytes] = []

        try:
            async with asyncio.timeout(_PATIENCE):
                complete = await self._collect(receive, parts, most)
            if complete:
                body = b"".join(parts)
                await self._make_room(len(body))
                await self.app(scope, _replay(body, receive), send)
            else:
                await _answer(send, 413, f"the request is larger than {most} bytes; send a smaller file")
        except ConnectionAbortedError:
            return  # the client has gone
        except TimeoutError:
            await _answer(send, 408, f"the request took longer than {_PATIENCE} seconds; send it again")
        finally:
            self.held -= sum(map(len, parts))

    async def _collect(self, receive: _Receive, parts: list[bytes], most: int) -> bool:
        """Collects the body in ``parts``; returns False if it is too large.

        The rest of a body that is too large is read and thrown away. A client that still sends when the
        connection closes would see a broken pipe instead of the reason.
        """
        length, complete = 0, True
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError
            part = message.get("body", b"")
            length += len(part)

            if complete and (length > most or self.held + len(part) > MOST_HELD):
                self.held -= sum(map(len, parts))
                parts.clear()
                complete = False
            if complete:
                parts.append(part)
                self.held += len(part)

            if not message.get("more_body", False):
                return complete

    async def _make_room(self, size: int) -> None:
        self.arrived += size
        if self.arrived > _SWEEP_BYTES:
            self.arrived = 0
            await asyncio.to_thread(self.store.sweep)


def _is_closed(path: str) -> bool:
    inside = path.split("gradio_api/", 1)[-1].lstrip("/")
    return inside.startswith(_CLOSED) or (inside.startswith("file") and _is_no_download(inside))


def _is_no_download(file: str) -> bool:
    """Returns whether a file is an address, or lies in the folder of a run and is not its zip."""
    return "://" in file or (_RUN.search(file) is not None and not file.endswith(".zip"))


def _replay(body: bytes, receive: _Receive) -> _Receive:
    """Returns the body in one piece, and then further messages, such as the end of the connection."""
    waiting = [body]

    async def again() -> _Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


async def _answer(send: _Send, status: int, words: str) -> None:
    body = words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
