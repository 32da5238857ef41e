"""The tests' Hub answers whatever huggingface_hub sends to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import yaml
from hub_repositories import Commit, Repo, blob_name, history, is_large, object_name, sibling, tree_entry
from hub_requests import RIGHTS, USER, WITHOUT_REVISION, error_answer, refusal_of, token_of
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

LICENSES = ("apache-2.0", "mit", "cc-by-4.0")
SPACE_CARD = """---
title: Demo
sdk: gradio
app_file: app.py
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


class HubAnswers:
    """Keeps repositories and large files; the method ``_NAME`` answers the route NAME of ``ROUTES``."""

    url: str
    port: int

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.ignored = ""
        """Names a file that a .gitignore in the repository keeps out."""
        self.redirects = False
        """Sends large files from another host name, as the Hub does."""

    def repo(self, name: str, kind: str = "model", private: bool = False) -> Repo:
        """Returns the repository of this name and makes it where there is none."""
        key = (kind, name)
        if key not in self.repos:
            self.repos[key] = Repo(kind, name, private)
        return self.repos[key]

    async def _answer(self, route: str, parts: dict[str, str], request: Request) -> Response:
        token = token_of(request)
        refusal = refusal_of(route, token)
        if refusal is not None:
            return refusal
        handler = getattr(self, f"_{route}")
        if "id" not in parts:
            return await handler(parts, request)
        repo = self._visible(parts, token)
        if repo is None:
            return error_answer(404 if token else 401, "Repository not found", "RepoNotFound")
        if route in WITHOUT_REVISION:
            return await handler(repo, parts, request)
        try:
            commit = repo.at(parts.get("rev", "main"))
        except KeyError:
            return error_answer(404, "Invalid rev id", "RevisionNotFound")
        return await handler(repo, commit, parts, request)

    def _visible(self, parts: dict[str, str], token: str | None) -> Repo | None:
        repo = self.repos.get(((parts.get("kind") or "models")[:-1], parts["id"]))
        hidden = repo is not None and repo.private and RIGHTS.get(token or "") not in ("read", "write")
        return None if hidden else repo

    async def _whoami(self, _: dict[str, str], request: Request) -> Response:
        token = token_of(request)
        if token is None:
            return error_answer(401, "no token")
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
            return error_answer(403, f"you may not create repositories of {owner}")
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
            return error_answer(404, "Repository not found", "RepoNotFound")
        return JSONResponse({})

    async def _upload(self, parts: dict[str, str], request: Request) -> Response:
        data = await request.body()
        if hashlib.sha256(data).hexdigest() != parts["oid"]:
            return error_answer(422, "the content has another hash")
        self.large[parts["oid"]] = data
        return Response(b"")

    async def _storage(self, parts: dict[str, str], request: Request) -> Response:
        data = self.large.get(parts["oid"])
        if data is None:
            return error_answer(404, "no such object")
        return file_answer(data, request, {"ETag": f'"{parts["oid"]}"'})

    # ------------------------------------------------------------------------------------ of a repository

    async def _settings(self, repo: Repo, _: dict[str, str], request: Request) -> Response:
        wanted = await request.json()
        repo.private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        return JSONResponse({"private": repo.private})

    async def _branch(self, repo: Repo, parts: dict[str, str], request: Request) -> Response:
        if parts["name"] in repo.refs:
            return error_answer(409, "Reference already exists")
        wanted = json.loads(await request.body() or b"{}")
        repo.branch(parts["name"], wanted.get("startingPoint", "main"))
        return JSONResponse({})

    async def _tag(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        name = (await request.json())["tag"]
        if name in repo.tags:
            return error_answer(409, "Reference already exists")
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
                for entry in history(repo, commit)
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
            "siblings": [sibling(repo, p, d, "blobs" in wanted) for p, d in sorted(commit.files.items())],
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
                found[path] = tree_entry(repo, path, data)
        if not found and folder:
            return error_answer(404, "Entry not found", "EntryNotFound")
        return JSONResponse(list(found.values()))

    async def _paths(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        if "json" in request.headers.get("content-type", ""):
            paths = (await request.json())["paths"]
        else:
            paths = (await request.form()).getlist("paths")
        return JSONResponse([tree_entry(repo, p, commit.files[p]) for p in paths if p in commit.files])

    async def _head(self, repo: Repo, commit: Commit, parts: dict[str, str], request: Request) -> Response:
        return await self._resolve(repo, commit, parts, request)

    async def _resolve(self, repo: Repo, commit: Commit, parts: dict[str, str], request: Request) -> Response:
        known = {"X-Repo-Commit": commit.sha}
        data = commit.files.get(parts["path"])
        if data is None:
            return error_answer(404, "Entry not found", "EntryNotFound", **known)
        if not is_large(parts["path"]):
            return file_answer(data, request, known | {"ETag": f'"{blob_name(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        known |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        if not self.redirects:
            return file_answer(data, request, known | {"ETag": f'"{oid}"'})
        self.large[oid] = data
        place = f"http://localhost:{self.port}/storage/{oid}?signature=secret"
        return Response(b"", 302, known | {"Location": place})

    # -------------------------------------------------------------------------------------------- uploads

    async def _preupload(self, repo: Repo, commit: Commit, _: dict[str, str], request: Request) -> Response:
        files = (await request.json())["files"]
        answers = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                "shouldIgnore": file["path"] == self.ignored,
                "oid": object_name(file["path"], commit.files.get(file["path"])),
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
            return error_answer(412, "A commit has happened since. Please refresh and try again.")
        try:
            changes = self._changes(commit, lines[1:])
        except KeyError as error:
            return error_answer(400, f"object {error} was never uploaded")
        branch = parts["rev"]
        asked = request.query_params.get("create_pr") == "1"
        if asked:
            branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repo.refs)}"
            repo.refs[branch] = commit.sha
        if branch not in repo.refs:
            return error_answer(400, f"{branch} is no branch")
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


def file_answer(data: bytes, request: Request, headers: dict[str, str]) -> Response:
    """Answers with the file, or with the range that the request names."""
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not asked:
        return Response(data, headers=headers, media_type="application/octet-stream")
    begin, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
    if begin >= len(data):
        return error_answer(416, "out of range", **{"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
    return Response(data[begin : end + 1], 206, headers, media_type="application/octet-stream")
