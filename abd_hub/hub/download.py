"""This module downloads large files of the Hub in pieces, which outlive a lost connection or a kill.

The client itself (huggingface_hub 1.33 to 2.4) discards the bytes of a failed call.
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
"""Gives the bytes that the client writes at a time (10 MiB); smaller files are not kept in pieces."""


def fetch_in_pieces(repository: str, commit: str, file: RemoteFile) -> None:
    """Puts a large file into the client's cache and continues where an earlier try ended.

    The client itself fetches small files, files without a stated sha256, and files that arrived damaged.

    Args:
        repository: ``owner/name`` of a model.
        commit: full hash.
        file: an entry of the Hub's list.

    Raises:
        OSError: the network or the disk fails.
    """
    if file.sha256 is None or file.size <= PIECE:
        return

    blobs = repository_cache(repository) / "blobs"
    blob = blobs / file.sha256
    blobs.mkdir(parents=True, exist_ok=True)
    with _locked(blobs / f"{file.sha256}.incomplete") as (partial, stream):
        if blob.exists():
            return
        _continue_download(repository, commit, file, stream, partial)
        if file.holds(partial):
            os.replace(partial, blob)  # noqa: PTH105
        else:
            partial.unlink()


def repository_cache(repository: str) -> Path:
    """Returns the folder of a model in the client's cache."""
    return Path(constants.HF_HUB_CACHE) / "--".join(["models", *repository.split("/")])


def _continue_download(
    repository: str, commit: str, file: RemoteFile, stream: BinaryIO, partial: Path
) -> None:
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
        if error.errno is not None:  # the disk may be full, so the part is removed
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Opens the file for this process alone; another process waits, then uses or continues the result."""
    # Without a buffer each piece is on the disk before the next one comes, even if the process is killed.
    with partial.open("ab", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield partial, stream
        finally:
            with contextlib.suppress(OSError):
                if partial.stat().st_size == 0:
                    partial.unlink()
