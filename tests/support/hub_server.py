"""A Hub of the tests' own: a real HTTP server on this machine that huggingface_hub pushes to and pulls from.

    with HubServer() as server:
        commit = server.repo("acme/bugs").commit({"config.json": b"{}"})
        server.fail("resolve", 429, times=2, retry_after=1)
        subprocess.run(command, env=os.environ | server.environment(home, token=READ))
        assert [request.token for request in server.requests] == ...

Every fault belongs to a route, a name in ``ROUTES``, and is used up by the requests that meet it. Requests to
any other host end in ``server.strangers``, as the environment names a proxy that answers nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

NOTHING, READ, WRITE = "hf_rightsofnothing", "hf_rightstoread", "hf_rightstowrite"
RIGHTS = {NOTHING: "none", READ: "read", WRITE: "write"}
USER = "acme"
LICENSES = ("apache-2.0", "mit", "cc-by-4.0")
SPACE_CARD = """---
title: Demo
sdk: gradio
app_file: app.py
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""
LARGE = (".safetensors", ".bin", ".pth", ".pt", ".pkl", ".parquet", ".arrow", ".png")
"""Endings of the files that go through LFS."""

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
    """One request, as it came."""

    route: str
    method: str
    path: str
    host: str
    token: str | None
    range: str | None
    query: str = ""


@dataclass
class Fault:
    """What the next requests of a route meet instead of an answer."""

    route: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    seconds: float = 0.0
    held: threading.Event | None = None
    """No answer until it is set."""
    corrupt: bool = False
    """Of an answer, or of what is uploaded, the last byte is changed."""
    path: str = ""
    """Only requests with this in their path."""
    later: bool = False
    """The work is done and only the answer is lost."""


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    sha: str
    files: Mapping[str, bytes]
    parent: str | None
    title: str


class Repo:
    """A repository with its history, changed from the test or through HTTP."""

    def __init__(self, kind: str, name: str, private: bool) -> None:
        self.kind, self.id, self.private = kind, name, private
        self.commits: dict[str, Commit] = {}
        self.refs = {"main": ""}
        self.tags: dict[str, str] = {}
        self.scan: dict[str, Any] = {"scansDone": True, "filesWithIssues": []}
        self.sizes: dict[str, int] = {}
        """What the listing claims about a file's size, against the truth."""
        self.commit({".gitattributes": b""}, "initial commit")

    def commit(self, files: Mapping[str, bytes | None], title: str = "files", branch: str = "main") -> str:
        """Adds, replaces and (with None) deletes files; gives the new commit."""
        parent = self.refs[branch] or None
        before = dict(self.commits[parent].files) if parent else {}
        after = {path: data for path, data in (before | dict(files)).items() if data is not None}
        content = sorted((path, _blob(data)) for path, data in after.items())
        known = [self.kind, self.id, parent, title, len(self.commits), content]
        sha = hashlib.sha1(repr(known).encode()).hexdigest()
        self.commits[sha] = Commit(sha, after, parent, title)
        self.refs[branch] = sha
        return sha

    def branch(self, name: str, at: str = "main") -> str:
        """A new branch; gives the commit it starts from."""
        self.refs[name] = self.at(at).sha
        return self.refs[name]

    def upload_folder(self, folder: Path, title: str = "files") -> str:
        """Commits a local folder."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.commit(files, title)

    def flag(self, path: str, level: str = "unsafe") -> None:
        """The scan finds fault with a file."""
        self.scan["filesWithIssues"].append({"path": path, "level": level})

    def at(self, revision: str) -> Commit:
        """The commit that a branch, tag or hash names.

        Raises:
            KeyError: there is none.
        """
        return self.commits[self.refs.get(revision) or self.tags.get(revision) or revision]

    @property
    def files(self) -> dict[str, bytes]:
        """What is on the main branch."""
        return dict(self.at("main").files)


class HubServer:
    """The server; a context manager. ``requests`` and ``strangers`` are what it has seen."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[Seen] = []
        self.strangers: list[str] = []
        self.faults: list[Fault] = []
        self.ignored = ""
        """A file that a .gitignore in the repository keeps out."""
        self.redirects = False
        """Large files come from another host name, as they do from the Hub."""
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
        """What a child process needs so that this is its Hub, and the only host that it reaches."""
        proxy = f"http://127.0.0.1:{self._trap.server_address[1]}"
        known = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        known |= {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1,localhost"}
        known |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0"}  # which the datasets library reports to a host of its own
        known |= {"HF_HUB_OFFLINE": "0", "HF_TOKEN": token or "", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0"}
        return known | {name.lower(): known[name] for name in known if name.endswith("PROXY")} | more

    def repo(self, name: str, kind: str = "model", private: bool = False) -> Repo:
        """The repository of this name, made if there is none."""
        key = (kind, name)
        if key not in self.repos:
            self.repos[key] = Repo(kind, name, private)
        return self.repos[key]

    def fail(
        self,
        route: str,
        status: int,
        times: int = 1,
        retry_after: float | None = None,
        path: str = "",
        **headers: str,
    ) -> None:
        """The next requests of this route get this status and do nothing."""
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        extra |= {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.faults.append(Fault(route, times, status, extra, path=path))

    def cut(self, route: str, times: int = 1, after: int = 1000, path: str = "", later: bool = False) -> None:
        """The connection ends after so many bytes of the answer, or for an upload of the request.

        With ``later`` an upload is carried out in full and only its answer is lost.
        """
        self.faults.append(Fault(route, times, cut_after=after, path=path, later=later))

    def stall(self, route: str, seconds: float, times: int = 1, path: str = "") -> None:
        """The answer comes so much later."""
        self.faults.append(Fault(route, times, seconds=seconds, path=path))

    def hold(self, route: str) -> threading.Event:
        """The next answer comes once the event is set."""
        event = threading.Event()
        self.faults.append(Fault(route, 1, held=event))
        return event

    def corrupt(self, path: str, times: int = 1) -> None:
        """A file of this name arrives with its last byte changed."""
        for route in ("resolve", "storage"):
            self.faults.append(Fault(route, times, corrupt=True, path=path if route == "resolve" else ""))

    def damage(self, times: int = 1) -> None:
        """An upload arrives with a byte changed."""
        self.faults.append(Fault("upload", times, corrupt=True))

    def forget(self) -> None:
        """Everything: repositories, uploads, faults and requests."""
        self.repos.clear()
        self.large.clear()
        self.redirects = False
        self.ignored = ""
        self.clear()

    def clear(self) -> None:
        """Forgets faults and requests; the repositories stay."""
        self.faults.clear()
        self.requests.clear()
        self.strangers.clear()

    def seen(self, *routes: str) -> list[Seen]:
        """The requests of these routes."""
        return [request for request in self.requests if request.route in routes]

    # ------------------------------------------------------------------------------------------ requests

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        raw = scope["raw_path"].decode("ascii").partition("?")[0]
        route, parts = _route(scope["method"], raw)
        self.requests.append(_seen(route, raw, request))
        fault = self._take_fault(route, raw)
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)
        while fault and fault.held and not fault.held.is_set():
            await asyncio.sleep(0.01)
        if fault and fault.status:
            response: Response = _error(fault.status, "a fault on request", **fault.headers)
        elif fault and fault.cut_after is not None and route in WRITING and not fault.later:
            await _read_a_part(receive, fault.cut_after)
            response = Response(b"lost")
        else:
            damaged = fault is not None and fault.corrupt and route == "upload"
            sent = Request(scope, _damaging(receive)) if damaged else request
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

    async def _answer(self, route: str, parts: dict[str, str], request: Request) -> Response:
        token = _token(request)
        refusal = _refusal(route, token)
        if refusal is not None:
            return refusal
        handler = getattr(self, f"_{route}")
        if "id" not in parts:
            return await handler(parts, request)
        repo = self._visible(parts, token)
        if repo is None:
            return _error(404 if token else 401, "Repository not found", "RepoNotFound")
        if route in WITHOUT_REVISION:
            return await handler(repo, parts, request)
        try:
            commit = repo.at(parts.get("rev", "main"))
        except KeyError:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        return await handler(repo, commit, parts, request)

    def _visible(self, parts: dict[str, str], token: str | None) -> Repo | None:
        repo = self.repos.get(((parts.get("kind") or "models")[:-1], parts["id"]))
        hidden = repo is not None and repo.private and RIGHTS.get(token or "") not in ("read", "write")
        return None if hidden else repo

    # -------------------------------------------------------------------------------- without repository

    async def _whoami(self, _: dict[str, str], request: Request) -> Response:
        token = _token(request)
        if token is None:
            return _error(401, "no token")
        role = {"none": "fineGrained"}.get(RIGHTS[token], RIGHTS[token])
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return JSONResponse({"type": "user", "id": "1", "name": USER, "orgs": [], "auth": auth})

    async def _validate(self, _: dict[str, str], request: Request) -> Response:
        sent = await request.json()
        front = re.match(r"---\n(.*?)\n---", sent["content"], re.S)
        data = yaml.safe_load(front[1]) if front else {}
        errors = []
        if data.get("license", "mit") not in LICENSES:
            errors.append({"message": '"license" must be one of [apache-2.0, mit, ...]'})
        for entry in data.get("model-index", []):
            errors += [{"message": '"model-index[0].name" is required'}] * (not entry.get("name"))
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    async def _create(self, _: dict[str, str], request: Request) -> Response:
        wanted = await request.json()
        kind = wanted.get("type") or "model"
        owner = wanted.get("organization") or USER
        name = f"{owner}/{wanted['name']}"
        url = self._page(kind, name)
        if owner != USER:
            return _error(403, f"you may not create repositories of {owner}")
        if (kind, name) in self.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        made = self.repo(name, kind, private)
        if kind == "space":
            made.commit({"README.md": SPACE_CARD.encode()}, "initial commit")
        return JSONResponse({"url": url, "name": name, "id": name})

    async def _delete(self, _: dict[str, str], request: Request) -> Response:
        wanted = await request.json()
        key = (wanted.get("type") or "model", f"{wanted.get('organization') or USER}/{wanted['name']}")
        if self.repos.pop(key, None) is None:
            return _error(404, "Repository not found", "RepoNotFound")
        return JSONResponse({})

    async def _upload(self, parts: dict[str, str], request: Request) -> Response:
        data = await request.body()
        if hashlib.sha256(data).hexdigest() != parts["oid"]:
            return _error(422, "the content has another hash")
        self.large[parts["oid"]] = data
        return Response(b"")

    async def _storage(self, parts: dict[str, str], request: Request) -> Response:
        data = self.large.get(parts["oid"])
        if data is None:
            return _error(404, "no such object")
        return _part(data, request, {"ETag": f'"{parts["oid"]}"'})

    # ------------------------------------------------------------------------------------ of a repository

    async def _settings(self, repo: Repo, _: dict[str, str], request: Request) -> Response:
        wanted = await request.json()
        repo.private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        return JSONResponse({"private": repo.private})

    async def _branch(self, repo: Repo, parts: dict[str, str], request: Request) -> Response:
        if parts["name"] in repo.refs:
            return _error(409, "Reference already exists")
        wanted = json.loads(await request.body() or b"{}")
        repo.branch(parts["name"], wanted.get("startingPoint", "main"))
        return JSONResponse({})

    async def _tag(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        name = (await request.json())["tag"]
        if name in repo.tags:
            return _error(409, "Reference already exists")
        repo.tags[name] = commit.sha
        return JSONResponse({})

    async def _refs(self, repo: Repo, _: dict[str, str], request: Request) -> Response:
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in repo.refs.items()
        ]
        tags = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in repo.tags.items()
        ]
        return JSONResponse({"branches": branches, "tags": tags, "converts": []})

    async def _commits(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        return JSONResponse(
            [
                {
                    "id": entry.sha,
                    "title": entry.title,
                    "message": "",
                    "authors": [{"user": USER}],
                    "date": "2026-01-01T00:00:00.000Z",
                }
                for entry in _history(repo, commit)
            ]
        )

    async def _info(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        wanted = request.query_params
        found: dict[str, Any] = {
            "_id": "1",
            "id": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": commit.sha,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [_sibling(repo, p, d, "blobs" in wanted) for p, d in sorted(commit.files.items())],
        }
        if "securityStatus" in wanted:
            found["securityRepoStatus"] = repo.scan
        return JSONResponse(found)

    async def _tree(self, repo: Repo, commit: Commit, parts: dict[str, str], request: Request) -> Response:
        recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
        folder = f"{parts['path']}/" if parts.get("path") else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in sorted(commit.files.items()):
            if not path.startswith(folder):
                continue
            steps = path.removeprefix(folder).split("/")
            for depth in range(1, len(steps)):
                if recursive or depth == 1:
                    name = folder + "/".join(steps[:depth])
                    oid = hashlib.sha1(name.encode()).hexdigest()
                    found[name] = {"type": "directory", "path": name, "size": 0, "oid": oid}
            if recursive or len(steps) == 1:
                found[path] = _entry(repo, path, data)
        if not found and folder:
            return _error(404, "Entry not found", "EntryNotFound")
        return JSONResponse(list(found.values()))

    async def _paths(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        if "json" in request.headers.get("content-type", ""):
            paths = (await request.json())["paths"]
        else:
            paths = (await request.form()).getlist("paths")
        return JSONResponse([_entry(repo, p, commit.files[p]) for p in paths if p in commit.files])

    async def _head(self, repo: Repo, commit: Commit, parts: dict[str, str], request: Request) -> Response:
        return await self._resolve(repo, commit, parts, request)

    async def _resolve(self, repo: Repo, commit: Commit, parts: dict[str, str], request: Request) -> Response:
        known = {"X-Repo-Commit": commit.sha}
        data = commit.files.get(parts["path"])
        if data is None:
            return _error(404, "Entry not found", "EntryNotFound", **known)
        if not _is_large(parts["path"]):
            return _part(data, request, known | {"ETag": f'"{_blob(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        known |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        if not self.redirects:
            return _part(data, request, known | {"ETag": f'"{oid}"'})
        self.large[oid] = data
        place = f"http://localhost:{self.port}/storage/{oid}?signature=secret"
        return Response(b"", 302, known | {"Location": place})

    # -------------------------------------------------------------------------------------------- uploads

    async def _preupload(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        files = (await request.json())["files"]
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                "shouldIgnore": file["path"] == self.ignored,
                "oid": _oid(file["path"], commit.files.get(file["path"])),
            }
            for file in files
        ]
        return JSONResponse({"files": answers})

    async def _lfs(self, repo: Repo, _: dict[str, str], request: Request) -> Response:
        found = []
        for wanted in (await request.json())["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.large:
                place = f"{self.url}/storage/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": place, "header": {}}}
            found.append(entry)
        return JSONResponse({"transfer": "basic", "objects": found})

    async def _commit(self, repo: Repo, commit: Commit, parts: dict[str, str], request: Request) -> Response:
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, commit.sha):
            return _error(412, "A commit has happened since. Please refresh and try again.")
        try:
            changes = self._changes(commit, lines[1:])
        except KeyError as error:
            return _error(400, f"object {error} was never uploaded")
        branch = parts["rev"]
        asked = request.query_params.get("create_pr") == "1"
        if asked:
            branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repo.refs)}"
            repo.refs[branch] = commit.sha
        if branch not in repo.refs:
            return _error(400, f"{branch} is no branch")
        sha = repo.commit(changes, header.get("summary", ""), branch)
        page = self._page(repo.kind, repo.id)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}"}
        if asked:
            answer["pullRequestUrl"] = f"{page}/discussions/{branch.rpartition('/')[2]}"
        return JSONResponse(answer)

    def _changes(self, commit: Commit, lines: list[dict[str, Any]]) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for line in lines:
            path, value = line["value"]["path"], line["value"]
            if line["key"] == "file":
                found[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found[path] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                found[path] = None
            elif line["key"] == "deletedFolder":
                folder = path.rstrip("/") + "/"
                found |= {known: None for known in commit.files if known.startswith(folder)}
        return found

    def _page(self, kind: str, name: str) -> str:
        return f"{self.url}/{'' if kind == 'model' else kind + 's/'}{name}"


def _trap(strangers: list[str]) -> socketserver.ThreadingTCPServer:
    """A proxy that notes who was asked for, and hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            strangers.append(self.rfile.readline(2000).decode("latin-1").strip())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    return Server(("127.0.0.1", 0), Handler)


def _route(method: str, path: str) -> tuple[str, dict[str, str]]:
    for name, wanted, pattern in ROUTES:
        found = re.fullmatch(pattern, path)
        if found and method == wanted:
            return name, {key: unquote(value) for key, value in found.groupdict().items() if value}
    return "", {}


def _refusal(route: str, token: str | None) -> Response | None:
    if not route:
        return _error(404, "no such route")
    if token is not None and token not in RIGHTS:
        return _error(401, "Invalid credentials in Authorization header")
    if route in WRITING - {"upload"} and RIGHTS.get(token or "") != "write":
        return _error(403, "this token may not write") if token else _error(401, "no token")
    return None


def _seen(route: str, path: str, request: Request) -> Seen:
    headers = request.headers
    return Seen(
        route,
        request.method,
        unquote(path),
        headers.get("host", ""),
        _token(request),
        headers.get("range"),
        request.url.query,
    )


def _token(request: Request) -> str | None:
    return request.headers.get("authorization", "").removeprefix("Bearer ") or None


def _error(status: int, message: str, code: str | None = None, **headers: str) -> Response:
    known = {"X-Error-Message": message, **headers}
    known |= {"X-Error-Code": code} if code else {}
    return JSONResponse({"error": message}, status, headers=known)


def _part(data: bytes, request: Request, headers: dict[str, str]) -> Response:
    """The file, or the range of it that is asked for."""
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not asked:
        return Response(data, headers=headers, media_type="application/octet-stream")
    begin, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
    if begin >= len(data):
        return _error(416, "out of range", **{"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
    return Response(data[begin : end + 1], 206, headers, media_type="application/octet-stream")


def _damaging(receive: Any) -> Any:
    async def changed() -> Any:
        message = await receive()
        body = message.get("body", b"")
        return message | {"body": body[:-1] + bytes([body[-1] ^ 1])} if body else message

    return changed


async def _read_a_part(receive: Any, limit: int) -> None:
    got = 0
    while got < limit:
        message = await receive()
        got += len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _send(send: Any, response: Response, body: bytes, method: str, cut_after: int | None) -> None:
    headers = list(response.raw_headers)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if cut_after is None:
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
        return
    kept = body[: min(cut_after, max(len(body) - 1, 0))]
    await send({"type": "http.response.body", "body": kept, "more_body": True})
    raise ConnectionAbortedError("cut on request")  # whereupon uvicorn closes the connection


def _history(repo: Repo, commit: Commit) -> Iterator[Commit]:
    found: Commit | None = commit
    while found is not None:
        yield found
        found = repo.commits[found.parent] if found.parent else None


def _is_large(path: str) -> bool:
    return path.endswith(LARGE)


def _blob(data: bytes) -> str:
    """git's name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _oid(path: str, data: bytes | None) -> str | None:
    if data is None:
        return None
    return hashlib.sha256(data).hexdigest() if _is_large(path) else _blob(data)


def _entry(repo: Repo, path: str, data: bytes) -> dict[str, Any]:
    size = repo.sizes.get(path, len(data))
    entry = {"type": "file", "path": path, "size": size, "oid": _blob(data)}
    if _is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
    return entry


def _sibling(repo: Repo, path: str, data: bytes, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    size = repo.sizes.get(path, len(data))
    found: dict[str, Any] = {"rfilename": path, "size": size, "blobId": _blob(data)}
    if _is_large(path):
        found["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
    return found
