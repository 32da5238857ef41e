"""Opens the page of ``abd-hub app`` as a browser does, with its session, events, uploads and files."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from gradio_client.utils import apply_diff

PATIENCE = 120.0
"""Limits the seconds of any answer but those of runs."""
API = "/gradio_api"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refused(Exception):
    """Says in the page's words why it gives no answer."""


class Broken(Exception):
    """Says that the page gave no answer at all."""


def functions(address: str) -> dict[str, int]:
    """Returns the number of each endpoint, by its name."""
    with _DIRECT.open(f"{address}/config", timeout=PATIENCE) as answer:
        config = json.load(answer)
    return {found["api_name"]: found["id"] for found in config["dependencies"] if found["api_name"]}


class Page:
    """Is one page in one browser; ``leave`` closes it."""

    def __init__(
        self, address: str, known: dict[str, int], session: str, see: Callable[[bytes], None]
    ) -> None:
        """Prepares the page.

        Args:
            address: of the server.
            known: from ``functions``.
            session: key of the visitor while the page is open.
            see: gets every byte that the page sends.
        """
        self.address, self.known, self.session, self.see = address, known, session, see
        self.left = False
        self._told: dict[str, queue.Queue[dict[str, Any]]] = defaultdict(queue.Queue)
        """Holds the messages of each event."""
        self._pending: set[str] = set()
        self._completed: set[str] = set()
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._stream: http.client.HTTPConnection | None = None
        self._heart: socket.socket | None = None

    # ------------------------------------------------------------------------------------ for visitors

    def open(self) -> bytes:
        """Loads the page and begins its heartbeat; returns its HTML."""
        place = urlsplit(self.address)
        self._heart = socket.create_connection((place.hostname, place.port), timeout=PATIENCE)
        head = f"GET {API}/heartbeat/{self.session} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
        # The beats stay unread in the buffer of the socket, which is large enough for hours.
        self._heart.sendall(head.encode())
        return self.get("/")

    def leave(self) -> None:
        """Closes the page, and all that waits for an answer ends."""
        self.left = True
        if self._heart is not None:
            self._heart.close()
        stream = self._stream
        if stream is not None and stream.sock is not None:
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for event in self._pending:
                self._told[event].put({"msg": "lost"})

    def get(self, path: str) -> bytes:
        """Returns the content at an address of the server.

        Raises:
            Refused: the server refuses it.
        """
        return self._ask(urllib.request.Request(self.address + quote(path, safe="/?=&")))

    def file(self, shown: dict[str, Any]) -> bytes:
        """Returns the content of a file that an answer names."""
        return self.get(f"{API}/file={shown['path']}")

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Sends a file; returns how an event names it."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        path = f"{API}/upload?upload_id={self.session}"
        said = self._post(path, body, "multipart/form-data; boundary=x")
        return {"path": said[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def direct(self, name: str, *data: Any) -> Any:
        """Returns the answer of an endpoint that has no line."""
        return self._post_json(f"{API}/run/{name}", {"data": data, "session_hash": self.session})["data"]

    def begin(self, name: str, *data: Any) -> str:
        """Begins an event; returns its key.

        Raises:
            Refused: the line is full.
        """
        body = {"data": data, "fn_index": self.known[name], "session_hash": self.session}
        event = self._post_json(f"{API}/queue/join", body)["event_id"]
        with self._lock:
            if event not in self._completed:
                self._pending.add(event)
                if self._reader is None:
                    self._reader = threading.Thread(target=self._read, daemon=True)
                    self._reader.start()
        return str(event)

    def follow(self, event: str, patience: float = PATIENCE) -> Iterator[list[Any]]:
        """Yields every state of an event's answer.

        Raises:
            Refused: the page refuses it, in words.
            Broken: no answer came, or an error without words.
        """
        until, values = time.monotonic() + patience, []
        while True:
            try:
                message = self._told[event].get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise Broken(f"no answer within {patience:g} seconds") from None
            if message["msg"] == "process_generating":
                data = message["output"]["data"]
                # The first state comes whole, and each later one as its difference.
                values = [apply_diff(*pair) for pair in zip(values, data, strict=True)] if values else data
                yield values
            elif message["msg"] == "process_completed":
                _raise_refusal(message)
                if not values:
                    yield message["output"]["data"]
                return
            elif message["msg"] == "lost":
                raise Broken("the connection has ended")

    def call(self, name: str, *data: Any, patience: float = PATIENCE) -> list[Any]:
        """Returns the last state of the answer to an event."""
        *_, last = self.follow(self.begin(name, *data), patience)
        return last

    # ---------------------------------------------------------------------------------------- requests

    def _post_json(self, path: str, body: Any) -> Any:
        return self._post(path, json.dumps(body).encode(), "application/json")

    def _post(self, path: str, body: bytes, kind: str) -> Any:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": kind})
        return json.loads(self._ask(request))

    def _ask(self, request: urllib.request.Request) -> bytes:
        try:
            with _DIRECT.open(request, timeout=PATIENCE) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            content = error.read()
            self.see(content)
            raise Refused(_words(content, error.code)) from None
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"{type(error).__name__}: {error}") from None
        self.see(content)
        return content

    # ------------------------------------------------------------------------------------------ stream

    def _read(self) -> None:
        """Reads the messages of this session until none is expected any more."""
        while True:
            with self._lock:
                if self.left or not self._pending:
                    self._reader = None
                    return
            try:
                self._read_stream()
            except (OSError, http.client.HTTPException, AttributeError):
                # A stream that ``leave`` has closed has no file any more.
                with self._lock:
                    for event in self._pending:
                        self._told[event].put({"msg": "lost"})
                    self._pending.clear()

    def _read_stream(self) -> None:
        place = urlsplit(self.address)
        self._stream = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        try:
            self._stream.request("GET", f"{API}/queue/data?session_hash={self.session}")
            for line in self._stream.getresponse():
                self.see(line)
                if line.startswith(b"data:"):
                    self._take(json.loads(line[5:]))
        finally:
            self._stream.close()

    def _take(self, message: dict[str, Any]) -> None:
        event = message.get("event_id")
        if message["msg"] == "unexpected_error":
            raise http.client.HTTPException(message.get("message"))
        if event is None:
            return  # a heartbeat, or the end of the stream
        with self._lock:
            self._told[event].put(message)
            if message["msg"] == "process_completed":
                self._completed.add(event)
                self._pending.discard(event)


def _raise_refusal(message: dict[str, Any]) -> None:
    if message["success"]:
        return
    words = message["output"].get("error")
    if not words:
        raise Broken("an error without words")
    raise Refused(html.unescape(str(words)))


def _words(content: bytes, code: int) -> str:
    text = content.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["detail"])
    return text or f"status {code} without words"
