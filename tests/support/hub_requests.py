"""Requests to the tests' Hub have a route, a token with rights, and perhaps a fault that they meet."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

NOTHING, READ, WRITE = "hf_rightsofnothing", "hf_rightstoread", "hf_rightstowrite"
RIGHTS = {NOTHING: "none", READ: "read", WRITE: "write"}
USER = "acme"

REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+?)"
ROUTES = [
    ("whoami", "GET", r"/api/whoami-v2"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("create", "POST", r"/api/repos/create"),
    ("delete", "DELETE", r"/api/repos/delete"),
    ("settings", "PUT", REPO + r"/settings"),
    ("preupload", "POST", REPO + r"/preupload/(?P<rev>[^/]+)"),
    ("commit", "POST", REPO + r"/commit/(?P<rev>[^/]+)"),
    ("branch", "POST", REPO + r"/branch/(?P<name>[^/]+)"),
    ("tag", "POST", REPO + r"/tag/(?P<rev>[^/]+)"),
    ("refs", "GET", REPO + r"/refs"),
    ("commits", "GET", REPO + r"/commits/(?P<rev>[^/]+)"),
    ("tree", "GET", REPO + r"/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?"),
    ("paths", "POST", REPO + r"/paths-info/(?P<rev>[^/]+)"),
    ("info", "GET", REPO + r"/revision/(?P<rev>[^/]+)"),
    ("info", "GET", REPO),
    ("lfs", "POST", GIT + r"\.git/info/lfs/objects/batch"),
    ("upload", "PUT", r"/storage/(?P<oid>[0-9a-f]{64})"),
    ("storage", "GET", r"/storage/(?P<oid>[0-9a-f]{64})"),
    ("head", "HEAD", GIT + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
    ("resolve", "GET", GIT + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
]
WRITING = {"create", "delete", "settings", "preupload", "commit", "branch", "tag", "lfs", "upload"}
WITHOUT_REVISION = {"settings", "branch", "refs", "lfs"}


@dataclass(frozen=True)
class Seen:
    """Holds one request as it came."""

    route: str
    method: str
    path: str
    host: str
    token: str | None
    range: str | None
    query: str = ""


@dataclass
class Fault:
    """Replaces or disturbs the answers to the next requests of a route."""

    route: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    seconds: float = 0.0
    held: threading.Event | None = None
    """Holds the answer back until it is set."""
    corrupt: bool = False
    """Changes the last byte of an answer or of an upload."""
    path: str = ""
    """Limits the fault to requests with these characters in their path."""
    later: bool = False
    """Lets the server do the work and loses only the answer."""


def route_of(method: str, path: str) -> tuple[str, dict[str, str]]:
    for name, wanted, pattern in ROUTES:
        found = re.fullmatch(pattern, path)
        if found and method == wanted:
            return name, {key: unquote(value) for key, value in found.groupdict().items() if value}
    return "", {}


def token_of(request: Request) -> str | None:
    return request.headers.get("authorization", "").removeprefix("Bearer ") or None


def as_seen(route: str, path: str, request: Request) -> Seen:
    headers = request.headers
    return Seen(
        route,
        request.method,
        unquote(path),
        headers.get("host", ""),
        token_of(request),
        headers.get("range"),
        request.url.query,
    )


def refusal_of(route: str, token: str | None) -> Response | None:
    if not route:
        return error_answer(404, "no such route")
    if token is not None and token not in RIGHTS:
        return error_answer(401, "Invalid credentials in Authorization header")
    if route in WRITING - {"upload"} and RIGHTS.get(token or "") != "write":
        return error_answer(403, "this token may not write") if token else error_answer(401, "no token")
    return None


def error_answer(status: int, message: str, code: str | None = None, **headers: str) -> Response:
    known = {"X-Error-Message": message, **headers}
    known |= {"X-Error-Code": code} if code else {}
    return JSONResponse({"error": message}, status, headers=known)


def damaging(receive: Any) -> Any:
    async def changed() -> Any:
        message = await receive()
        body = message.get("body", b"")
        return message | {"body": body[:-1] + bytes([body[-1] ^ 1])} if body else message

    return changed


async def read_a_part(receive: Any, limit: int) -> None:
    got = 0
    while got < limit:
        message = await receive()
        got += len(message.get("body", b""))
        if not message.get("more_body"):
            return
