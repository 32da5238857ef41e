"""Repositories of the tests' Hub keep commits, branches and tags, and list their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".bin", ".pth", ".pt", ".pkl", ".parquet", ".arrow", ".png")
"""Names the endings of files that go through LFS."""


@dataclass(frozen=True)
class Commit:
    """Holds one state of a repository."""

    sha: str
    files: Mapping[str, bytes]
    parent: str | None
    title: str


class Repo:
    """Keeps a repository with its history; tests change it directly or through HTTP."""

    def __init__(self, kind: str, name: str, private: bool) -> None:
        self.kind, self.id, self.private = kind, name, private
        self.commits: dict[str, Commit] = {}
        self.refs = {"main": ""}
        self.tags: dict[str, str] = {}
        self.scan: dict[str, Any] = {"scansDone": True, "filesWithIssues": []}
        self.names_blobs = True
        """Says whether the listing has the hashes of small files; some servers leave them out."""
        self.sizes: dict[str, int] = {}
        """Holds sizes, by path, that the listing claims against the truth."""
        self.commit({".gitattributes": b""}, "initial commit")

    def commit(self, files: Mapping[str, bytes | None], title: str = "files", branch: str = "main") -> str:
        """Adds, replaces and (with None) deletes files; returns the new commit."""
        parent = self.refs[branch] or None
        before = dict(self.commits[parent].files) if parent else {}
        after = {path: data for path, data in (before | dict(files)).items() if data is not None}
        content = sorted((path, blob_name(data)) for path, data in after.items())
        known = [self.kind, self.id, parent, title, len(self.commits), content]
        sha = hashlib.sha1(repr(known).encode()).hexdigest()
        self.commits[sha] = Commit(sha, after, parent, title)
        self.refs[branch] = sha
        return sha

    def branch(self, name: str, at: str = "main") -> str:
        """Makes a branch and returns the commit from which it starts."""
        self.refs[name] = self.at(at).sha
        return self.refs[name]

    def upload_folder(self, folder: Path, title: str = "files") -> str:
        """Commits a local folder."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.commit(files, title)

    def flag(self, path: str, level: str = "unsafe") -> None:
        """Makes the scan flag a file."""
        self.scan["filesWithIssues"].append({"path": path, "level": level})

    def at(self, revision: str) -> Commit:
        """Returns the commit that a branch, tag or hash names.

        Raises:
            KeyError: no commit has this name.
        """
        return self.commits[self.refs.get(revision) or self.tags.get(revision) or revision]

    @property
    def files(self) -> dict[str, bytes]:
        """Returns the files on the main branch."""
        return dict(self.at("main").files)


def history(repo: Repo, commit: Commit) -> Iterator[Commit]:
    found: Commit | None = commit
    while found is not None:
        yield found
        found = repo.commits[found.parent] if found.parent else None


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def blob_name(data: bytes) -> str:
    """Returns the hash that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def object_name(path: str, data: bytes | None) -> str | None:
    if data is None:
        return None
    return hashlib.sha256(data).hexdigest() if is_large(path) else blob_name(data)


def tree_entry(repo: Repo, path: str, data: bytes) -> dict[str, Any]:
    size = repo.sizes.get(path, len(data))
    entry = {"type": "file", "path": path, "size": size, "oid": blob_name(data)}
    if is_large(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
    return entry


def sibling(repo: Repo, path: str, data: bytes, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    size = repo.sizes.get(path, len(data))
    found: dict[str, Any] = {"rfilename": path, "size": size}
    if repo.names_blobs:
        found["blobId"] = blob_name(data)
    if is_large(path):
        found["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
    return found
