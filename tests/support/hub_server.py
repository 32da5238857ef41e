"""The tests have a Hub of their own, a real HTTP server that serves the pushes and pulls of huggingface_hub.

    with HubServer() as server:
        commit = server.repo("acme/bugs").commit({"config.json": b"{}"})
        server.fail("resolve", 429, times=2, retry_after=1)
        subprocess.run(command, env=os.environ | server.environment(home, token=READ))
        assert [request.token for request in server.requests] == ...

A fault belongs to a route, a name in ``ROUTES``; the requests that meet it use it up. The environment names a
proxy that answers nothing, so requests to any other host end in ``server.strangers``.
"""

from __future__ import annotations

import asyncio
import socketserver
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from hub_answers import HubAnswers
from hub_requests import (
    NOTHING,
    READ,
    WRITE,
    WRITING,
    Fault,
    Seen,
    as_seen,
    damaging,
    error_answer,
    read_a_part,
    route_of,
)
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["NOTHING", "READ", "WRITE", "WRITING", "HubServer"]


class HubServer(HubAnswers):
    """Serves as a context manager and notes ``requests`` to itself and to ``strangers``."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Seen] = []
        self.strangers: list[str] = []
        self.faults: list[Fault] = []
        config = uvicorn.Config(
            self._app,
            host="127.0.0.1",
            port=0,
            interface="asgi3",
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._trap = _trap(self.strangers)

    def __enter__(self) -> HubServer:
        self._thread.start()
        threading.Thread(target=self._trap.serve_forever, daemon=True).start()
        deadline = time.monotonic() + 120
        while not self._server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._trap.shutdown()
        self._trap.server_close()

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Returns variables that make this the Hub of a child process, and the only host that it reaches."""
        proxy = f"http://127.0.0.1:{self._trap.server_address[1]}"
        known = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        known |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1,localhost"}
        known |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}  # which the datasets library reports to a host of its own
        known |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": token or "", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
        return known | {name.lower(): known[name] for name in known if name.endswith("PROXY")} | more

    def fail(
        self,
        route: str,
        status: int,
        times: int = 1,
        retry_after: float | None = None,
        path: str = "",
        **headers: str,
    ) -> None:
        """Answers the next requests of this route with this status and does nothing else."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        extra |= {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.faults.append(Fault(route, times, status, extra, path=path))

    def cut(self, route: str, times: int = 1, after: int = 1000, path: str = "", later: bool = False) -> None:
        """Ends the connection after so many bytes of the answer or, for an upload, of the request.

        With ``later`` the server carries out an upload in full and loses only the answer.
        """
        self.faults.append(Fault(route, times, cut_after=after, path=path, later=later))

    def stall(self, route: str, seconds: float, times: int = 1, path: str = "") -> None:
        """Delays the next answers by so many seconds."""
        self.faults.append(Fault(route, times, seconds=seconds, path=path))

    def hold(self, route: str) -> threading.Event:
        """Holds the next answer back until the returned event is set."""
        event = threading.Event()
        self.faults.append(Fault(route, 1, held=event))
        return event

    def corrupt(self, path: str, times: int = 1) -> None:
        """Changes the last byte of a file of this name on its way out."""
        for route in ("resolve", "storage"):
            self.faults.append(Fault(route, times, corrupt=True, path=path if route == "resolve" else ""))

    def damage(self, times: int = 1) -> None:
        """Changes the last byte of an upload."""
        self.faults.append(Fault("upload", times, corrupt=True))

    def forget(self) -> None:
        """Forgets everything, repositories and uploads included."""
        self.repos.clear()
        self.large.clear()
        self.redirects = False
        self.ignored = ""
        self.clear()

    def clear(self) -> None:
        """Forgets faults and requests and keeps the repositories."""
        self.faults.clear()
        self.requests.clear()
        self.strangers.clear()

    def seen(self, *routes: str) -> list[Seen]:
        """Returns the requests of these routes."""
        return [request for request in self.requests if request.route in routes]

    # ------------------------------------------------------------------------------------------ requests

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        raw = scope["raw_path"].decode("ascii").partition("?")[0]
        route, parts = route_of(scope["method"], raw)
        self.requests.append(as_seen(route, raw, request))
        fault = self._take_fault(route, raw)
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)
        while fault and fault.held and not fault.held.is_set():
            await asyncio.sleep(0.01)
        if fault and fault.status:
            response: Response = error_answer(fault.status, "a fault on request", **fault.headers)
        elif fault and fault.cut_after is not None and route in WRITING and not fault.later:
            await read_a_part(receive, fault.cut_after)
            response = Response(b"lost")
        else:
            damaged = fault is not None and fault.corrupt and route == "upload"
            sent = Request(scope, damaging(receive)) if damaged else request
            response = await self._answer(route, parts, sent)
        if fault and fault.cut_after is not None and not response.body:
            response = Response(b"lost", response.status_code)  # an empty answer cannot be cut
        if route not in ("head", "resolve", "storage", "upload"):
            response.headers["ETag"] = 'W/"a27-vndQfbspAL31/eKATEOf36LyR8k"'  # as the Hub's, with any letter
        body = bytes(response.body)
        if fault and fault.corrupt and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        await _send(send, response, body, scope["method"], fault.cut_after if fault else None)

    def _take_fault(self, route: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.route == route and fault.times > 0 and fault.path in unquote(path):
                fault.times -= 1
                return fault
        return None


def _trap(strangers: list[str]) -> socketserver.ThreadingTCPServer:
    """Returns a proxy that notes each request to another host, and hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = [self.rfile.readline(2000)]
            while lines[-1].strip():
                lines.append(self.rfile.readline(2000))
            strangers.append(b"".join(lines).decode("latin-1").strip())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    return Server(("127.0.0.1", 0), Handler)


async def _send(send: Any, response: Response, body: bytes, method: str, cut_after: int | None) -> None:
    headers = list(response.raw_headers)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if cut_after is None:
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
        return
    kept = body[: min(cut_after, max(len(body) - 1, 0))]
    await send({"type": "http.response.body", "body": kept, "more_body": True})
    raise ConnectionAbortedError("cut on request")  # whereupon uvicorn closes the connection
