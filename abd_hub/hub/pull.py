"""This module downloads one commit of a Hub repository into a local folder, without any file that could run.

``fetch`` sends one request for the commit, the names, sizes and hashes of its files and the result of the
Hub's scan. It refuses a wrong one before any weights travel. Then it downloads the files of this commit, the
small ones first, and checks the hash of each. Without a network it uses the cache.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from abd_hub.core.errors import InputError
from abd_hub.core.files import write_text
from abd_hub.hub.choice import CONFIGS, INDEX, choose_files, choose_weights, why_no_weights
from abd_hub.hub.download import fetch_in_pieces, repository_cache
from abd_hub.hub.listing import RemoteFile, check_classes, is_commit, remote_file, stays_inside
from abd_hub.hub.requests import Busy, patiently, quiet, refusal

logger = logging.getLogger(__name__)

MAX_SIZE_GB = 5.0
MAX_TEXT = 20_000_000
"""Limits the bytes of a JSON file; the 21,841 labels of ImageNet-21k take 2 million."""
HARMLESS = ("safe", "queued", "unscanned")
"""Lists the levels of the Hub's scan that do not flag a file."""


@dataclass(frozen=True)
class Place:
    """Holds a folder on this machine and its name in records and messages."""

    folder: Path
    id: str
    revision: str | None = None
    """Holds the commit on the Hub."""
    scan: str | None = None
    """Holds the result of the Hub's scan; it is None where no result was read."""


@dataclass(frozen=True)
class Listing:
    """Holds the Hub's facts about a repository at one commit."""

    repository: str
    commit: str
    files: dict[str, RemoteFile]
    flagged: tuple[str, ...]
    """Lists the files that the scan has flagged, each with its level."""
    scanned: bool


def fetch(
    repository: str,
    revision: str | None,
    allow_pickle: bool = False,
    *,
    allow_flagged: bool = False,
    max_size_gb: float = MAX_SIZE_GB,
) -> Place:
    """Downloads the needed files of a Hub repository and returns their folder with the commit.

    Args:
        repository: ``org/name``.
        revision: branch, tag or commit; None for the default branch.
        allow_pickle: fetch pickles too, where there is no safetensors file.
        allow_flagged: fetch from a repository that the Hub's scan has flagged.
        max_size_gb: largest size of all files together, in GB of 10^9 bytes.

    Raises:
        InputError: the repository, the revision or the network is missing, or a limit is exceeded.
    """
    _check_revision(revision)
    if not max_size_gb > 0:
        raise InputError(f"max_size_gb: must be above 0, got {max_size_gb}; use for example {MAX_SIZE_GB:g}")
    with _explained(repository, revision), quiet():
        cached = _cached(repository, revision)
        try:
            listing = patiently(lambda: _list(repository, revision), hurry=cached is not None)
        except (Busy, OfflineModeIsEnabled) as error:
            return _from_cache(repository, revision, cached, error, allow_flagged)

        _check_scan(listing, allow_flagged)
        wanted = _wanted(listing, allow_pickle)
        _check_sizes(listing, wanted, max_size_gb)
        folder = _download(listing, wanted)
        _remember(listing, revision)
        return Place(folder, repository, listing.commit, _scan_in_words(listing))


# ------------------------------------------------------------------------------------------------ listing


def _list(repository: str, revision: str | None) -> Listing:
    info = HfApi().model_info(
        repository,
        revision=revision,
        securityStatus=True,
        files_metadata=True,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )
    commit = info.sha or ""
    is_another = is_commit(revision or "") and commit != revision
    if not is_commit(commit) or is_another:
        raise InputError(f"model: the Hub names no commit of {repository!r}; check HF_ENDPOINT")

    files = {entry.rfilename: remote_file("model", repository, entry) for entry in info.siblings or []}
    flagged, scanned = _read_scan(info.security_repo_status)
    return Listing(repository, commit, files, flagged, scanned)


def _read_scan(status: Any) -> tuple[tuple[str, ...], bool]:
    """Returns the flagged files, and whether the scan is done; a Hub without a scan gives ((), False)."""
    if not isinstance(status, dict):
        return (), False
    issues = [issue for issue in status.get("filesWithIssues") or () if isinstance(issue, dict)]
    flagged = tuple(
        f"{str(issue.get('path'))[:80]} ({issue.get('level')})"
        for issue in issues
        if issue.get("level") not in HARMLESS
    )
    return flagged, bool(status.get("scansDone"))


def _scan_in_words(listing: Listing) -> str:
    if listing.flagged:
        return f"flagged: {', '.join(listing.flagged)}"
    return "nothing found" if listing.scanned else "not finished"


# ------------------------------------------------------------------------------------------------- limits


def _check_revision(revision: str | None) -> None:
    if revision is not None and not stays_inside(revision):
        raise InputError(f"revision: {revision[:80]!r} is no branch, tag or commit; check its name")


def _check_scan(listing: Listing, allow_flagged: bool) -> None:
    if not listing.flagged:
        return
    flagged = f"{listing.repository!r}: the Hub's scan flags {', '.join(listing.flagged[:3])}"
    if not allow_flagged:
        raise InputError(
            f"model: {flagged}; use another repository, or pass allow_flagged=true if you trust this one"
        )
    logger.warning("%s; the repository is used all the same because allow_flagged is set", flagged)


def _wanted(listing: Listing, allow_pickle: bool) -> list[str]:
    """Returns the files to download; refuses a repository without weights before anything travels."""
    wanted = choose_files(listing.files, allow_pickle)
    if not choose_weights(wanted, allow_pickle):
        why = why_no_weights(listing.files, listing.repository, allow_pickle)
        raise InputError(f"weights: {why}")
    return wanted


def _check_sizes(listing: Listing, wanted: Sequence[str], max_size_gb: float) -> None:
    for name in wanted:
        if name.endswith(".json") and listing.files[name].size > MAX_TEXT:
            raise InputError(
                f"model: {name} of {listing.repository!r} has {listing.files[name].size / 1e6:,.0f} MB, more"
                f" than {MAX_TEXT / 1e6:.0f}; use another repository"
            )

    total = sum(listing.files[name].size for name in wanted)
    if total > max_size_gb * 1e9:
        raise InputError(
            f"max_size_gb: {listing.repository!r} needs {total / 1e9:,.2f} GB, more than {max_size_gb:g};"
            " raise max_size_gb to download it"
        )

    absent = sum(listing.files[name].size for name in wanted if not _is_here(listing, name))
    free = shutil.disk_usage(_nearest(Path(constants.HF_HUB_CACHE))).free
    if absent > free:
        raise InputError(
            f"model: {listing.repository!r} needs {absent / 1e9:.2g} GB but the disk of the cache has"
            f" {free / 1e9:.2g} left; free some space, or set HF_HOME to another disk"
        )


def _is_here(listing: Listing, name: str) -> bool:
    return isinstance(try_to_load_from_cache(listing.repository, name, revision=listing.commit), str)


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


# ----------------------------------------------------------------------------------------------- download


def _download(listing: Listing, wanted: Sequence[str]) -> Path:
    """Downloads all files of the commit; the number of classes is checked before the weights come."""
    folder = None
    for name in wanted:
        folder = _download_one(listing, listing.files[name]).parent
        if name == "config.json":
            _check_config(folder / name, listing.repository)

    assert folder is not None, "files without weights are refused before"
    return folder


def _download_one(listing: Listing, file: RemoteFile) -> Path:
    for again in (False, True):
        path = patiently(lambda again=again: _get(listing, file, again))  # type: ignore[misc]
        _check_place(path, listing)
        if file.holds(path) and (file.stated or _is_readable(path)):
            return path
        damaged = path.resolve()
        path.unlink()
        damaged.unlink(missing_ok=True)  # or the next call would find it in the cache

    what = "its hash is not the stated one" if file.stated else "it is no JSON, and the Hub states no hash"
    raise InputError(
        f"weights: {file.name} of {listing.repository!r} arrived damaged: {what}; try again later"
    )


def _is_readable(path: Path) -> bool:
    """Returns False for a JSON file that is none, by which alone damage shows where no hash is stated."""
    if path.suffix != ".json":
        return True
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


def _get(listing: Listing, file: RemoteFile, again: bool) -> Path:
    if not again and not _is_here(listing, file.name):
        fetch_in_pieces(listing.repository, listing.commit, file)
    name, commit = file.name, listing.commit
    return Path(hf_hub_download(listing.repository, name, revision=commit, force_download=again))


def _check_place(path: Path, listing: Listing) -> None:
    """Refuses a file outside the commit's folder, or a link that leads out of the cache."""
    # The user may have moved the repository's folder to another disk and left a link.
    roots = [Path(constants.HF_HUB_CACHE).resolve(), repository_cache(listing.repository).resolve()]
    inside = any(path.resolve().is_relative_to(root) for root in roots)
    if path.parent.name != listing.commit or not inside:
        raise InputError(
            f"model: {path.name} of {listing.repository!r} leads out of the cache; delete the repository's"
            " folder in the cache and try again"
        )


def _check_config(path: Path, repository: str) -> None:
    """Refuses absurd class counts; the loader refuses a file that is no JSON object."""
    with contextlib.suppress(ValueError, RecursionError, OSError):
        config = json.loads(path.read_text(encoding="utf-8"))
        problem = isinstance(config, dict) and check_classes(config)
        if problem:
            raise _Refused(f"model: config.json of {repository}: {problem}")


class _Refused(Exception):
    """Carries the message of an InputError past the suppressed ValueErrors."""


# -------------------------------------------------------------------------------------------------- cache


def _cached(repository: str, revision: str | None) -> Path | None:
    """Returns the folder of a revision in the cache, whether complete or not."""
    for name in (*CONFIGS, "model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.pth", "model.pth"):
        file = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(file, str):
            return Path(file).parent

    folder = repository_cache(repository)
    note = folder / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = note.read_text(encoding="utf-8") if note.is_file() else revision or ""
    place = folder / "snapshots" / commit
    return place if is_commit(commit) and place.is_dir() else None


def _from_cache(
    repository: str, revision: str | None, folder: Path | None, error: Exception, allow_flagged: bool
) -> Place:
    offline = isinstance(error, OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else str(error)
    at = f" at revision {revision!r}" if revision else ""
    remedy = "unset HF_HUB_OFFLINE" if offline else "check the path or the network, or try again later"

    if folder is None:
        raise InputError(
            f"model: {repository!r}{at} is no folder here, not in the cache, and {why}; {remedy}"
        ) from error
    if not _is_complete(folder):
        raise InputError(
            f"model: {repository!r}{at} is in the cache only in part, and {why}; {remedy}"
        ) from error

    if not offline:
        logger.warning("%s: %s; using commit %s from the cache", repository, why, folder.name[:12])
    listing = Listing(repository, folder.name, {}, _flags(repository, folder.name), False)
    _check_scan(listing, allow_flagged)
    for name in choose_files({file.name for file in folder.iterdir()}, allow_pickle=True):
        _check_place(folder / name, listing)
    return Place(folder, repository, folder.name, _scan_in_words(listing) if listing.flagged else None)


def _is_complete(folder: Path) -> bool:
    """Returns whether the weights, which are downloaded last, and all parts named by an index are there."""
    names = {file.name for file in folder.iterdir() if file.exists()}
    wanted = choose_files(names, allow_pickle=True)
    if INDEX in wanted:
        return set(shards_of(folder / INDEX)) <= names
    return any(not name.endswith(".json") for name in wanted)


def shards_of(index: Path) -> list[str]:
    """Returns the file names in a checkpoint's index.

    Raises:
        InputError: the file is no index.
    """
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(map(str, weights.values())))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"weights: {index.name} is no index of weights; use another checkpoint") from error


def _remember(listing: Listing, revision: str | None) -> None:
    """Notes in the cache the commit of a branch or tag, and the files that the scan has flagged."""
    folder = repository_cache(listing.repository)
    name = revision or constants.DEFAULT_REVISION
    notes = {folder / "flagged" / listing.commit: "\n".join(listing.flagged)}
    if name != listing.commit:
        notes[folder / "refs" / name] = listing.commit
    with contextlib.suppress(OSError):  # a cache may be read-only
        for note, text in notes.items():
            if (note.read_text(encoding="utf-8") if note.is_file() else "") != text:
                write_text(note, text)


def _flags(repository: str, commit: str) -> tuple[str, ...]:
    """Returns the files that the scan had flagged when this commit was downloaded."""
    note = repository_cache(repository) / "flagged" / commit
    return tuple(note.read_text(encoding="utf-8").splitlines()) if note.is_file() else ()


@contextlib.contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turns any error into one line, without an address and without the text of an answer."""
    at = f" at revision {revision!r}" if revision else ""
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"model: {repository!r} is no Hub id; use 'org/name'") from error
    except _Refused as error:
        raise InputError(str(error)) from error
    except Busy as error:
        raise InputError(f"model: {repository!r}{at} cannot be fetched: {error}; try again later") from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"revision: {revision!r} does not exist in {repository!r}; check the name"
        ) from error
    except HfHubHTTPError as error:
        raise InputError(f"model: {repository!r}{at} {refusal(error)}") from error
    except OSError as error:
        raise InputError(f"model: {repository!r}{at} cannot be stored: {_disk_problem(error)}") from error


def _disk_problem(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk of the cache is full; free some space, or set HF_HOME to another disk"
    reason = os.strerror(error.errno) if error.errno else "the cache does not work"
    return f"{reason}; check the folder of the cache, or set HF_HOME to another folder"
