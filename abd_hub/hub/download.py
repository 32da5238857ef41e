"""Large files of the Hub, kept in pieces: what has arrived outlives a cut line and a killed process.

The client itself (huggingface_hub 1.33 to 2.4) throws away what a failed call has fetched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from abd_hub.hub.listing import RemoteFile

PIECE = constants.DOWNLOAD_CHUNK_SIZE
"""Bytes that the client writes at a time (10 MiB); a smaller file has no part worth keeping."""


def fetch_in_pieces(repository: str, commit: str, file: RemoteFile) -> None:
    """Puts a large file where the client looks for it in its cache, going on where an earlier try ended.

    Left to the client are small files, those whose sha256 the Hub does not state, and what arrives damaged.

    Args:
        repository: ``owner/name`` of a model.
        commit: full hash.
        file: as the Hub lists it.

    Raises:
        OSError: the network fails, or the disk does.
    """
    if file.sha256 is None or file.size <= PIECE:
        return
    blobs = repository_cache(repository) / "blobs"
    blob = blobs / file.sha256
    blobs.mkdir(parents=True, exist_ok=True)
    with _alone(blobs / f"{file.sha256}.incomplete") as (partial, stream):
        if blob.exists():
            return
        _go_on(repository, commit, file, stream, partial)
        if file.holds(partial):
            os.replace(partial, blob)  # noqa: PTH105
        else:
            partial.unlink()


def repository_cache(repository: str) -> Path:
    """The folder of a model in the client's cache."""
    return Path(constants.HF_HUB_CACHE) / "--".join(["models", *repository.split("/")])


def _go_on(repository: str, commit: str, file: RemoteFile, stream: BinaryIO, partial: Path) -> None:
    done = stream.seek(0, os.SEEK_END)
    if done > file.size:
        done = 0
        stream.truncate(stream.seek(0))
    if done == file.size:
        return
    try:
        http_get(
            hf_hub_url(repository, file.name, revision=commit),
            stream,
            resume_size=done,
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )
    except OSError as error:
        if error.errno is not None:  # of the disk, which may be full: it gets back what was taken
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """The file, for this process alone: another that wants it waits, then finds it done or goes on."""
    # Unbuffered: each piece is on the disk when the next one comes, whatever happens to the process.
    with partial.open("ab", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield partial, stream
        finally:
            with contextlib.suppress(OSError):
                if partial.stat().st_size == 0:
                    partial.unlink()
