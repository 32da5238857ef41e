"""From a Hub repository to a local folder: one commit, no file that could run, nothing unlooked at.

``fetch`` asks the Hub once, for the commit, the names, sizes and hashes of its files and what the Hub's own
scan says. What is wrong with these is refused before any weights travel. Then the files come by that commit,
the small ones first, and each is held against its hash. Without a network the cache answers.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
from abd_hub.hub.download import fetch_in_pieces, repository_cache
from abd_hub.hub.listing import RemoteFile, check_classes, is_commit, remote_file, stays_inside
from abd_hub.hub.requests import Busy, patiently, quiet, refusal

logger = logging.getLogger(__name__)

CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
INDEX = "model.safetensors.index.json"
SAFE_WEIGHTS = (("model.safetensors",), ("model-*-of-*.safetensors", INDEX), ("model*.safetensors",))
"""The first of these that a repository has is what it is loaded from."""
PICKLED_WEIGHTS = ("pytorch_model*.bin", "pytorch_model*.bin.index.json", "pytorch_model.pth", "model.pth")
"""Names of weights, as transformers and timm write them into pickles."""
MAX_SIZE_GB = 5.0
MAX_TEXT = 20_000_000
"""Bytes of a JSON file; the 21,841 labels of ImageNet-21k take 2 million."""
HARMLESS = ("safe", "queued", "unscanned")
"""Levels of the scan that are no complaint."""


@dataclass(frozen=True)
class Place:
    """A folder on this machine, and what to call it in records and messages."""

    folder: Path
    id: str
    revision: str | None = None
    """Commit on the Hub."""
    scan: str | None = None
    """What the Hub's scan said; None where it was not asked."""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repository: str
    commit: str
    files: dict[str, RemoteFile]
    flagged: tuple[str, ...]
    """Files that the scan complains about, each with its level."""
    scanned: bool


def fetch(
    repository: str,
    revision: str | None,
    allow_pickle: bool = False,
    *,
    allow_flagged: bool = False,
    max_size_gb: float = MAX_SIZE_GB,
) -> Place:
    """Downloads what is needed of a Hub repository; the place names the commit that was found.

    Args:
        repository: ``org/name``.
        revision: branch, tag or commit; None for the default branch.
        allow_pickle: fetch pickles too, where there is no safetensors file.
        allow_flagged: fetch from a repository that the Hub's scan has flagged.
        max_size_gb: most that the files may have together, in 10^9 bytes.

    Raises:
        InputError: the repository, the revision or the network is not there, or a limit is broken.
    """
    _check_revision(revision)
    if not max_size_gb > 0:
        raise InputError(f"max_size_gb: must be above 0, got {max_size_gb}")
    with _explained(repository, revision), quiet():
        cached = _cached(repository, revision)
        try:
            listing = patiently(lambda: _list(repository, revision), hurry=cached is not None)
        except (Busy, OfflineModeIsEnabled) as error:
            return _from_cache(repository, revision, cached, error, allow_flagged)
        _check_scan(listing, allow_flagged)
        wanted = choose_files(listing.files, allow_pickle)
        _check_sizes(listing, wanted, max_size_gb)
        folder = _download(listing, wanted)
        _remember(listing, revision)
        return Place(folder, repository, listing.commit, _scan_in_words(listing))


def choose_files(names: Collection[str], allow_pickle: bool) -> list[str]:
    """What is needed of a repository with these files, the weights last. Subfolders are never needed."""
    plain = sorted(name for name in names if "/" not in name)
    groups = [*SAFE_WEIGHTS, *([PICKLED_WEIGHTS] if allow_pickle else [])]
    matches = ([name for name in plain if _matches(name, patterns)] for patterns in groups)
    weights = next((found for found in matches if found), [])
    texts = [name for name in CONFIGS if name in plain]
    return texts + sorted(weights, key=lambda name: not name.endswith(".json"))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# ------------------------------------------------------------------------------------------------ listing


def _list(repository: str, revision: str | None) -> Listing:
    found = HfApi().model_info(
        repository,
        revision=revision,
        securityStatus=True,
        files_metadata=True,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )
    commit = found.sha or ""
    asked_for_another = is_commit(revision or "") and commit != revision
    if not is_commit(commit) or asked_for_another:
        raise InputError(f"model: the Hub names no commit of {repository!r}; check HF_ENDPOINT")
    files = {entry.rfilename: remote_file("model", repository, entry) for entry in found.siblings or []}
    flagged, scanned = _read_scan(found.security_repo_status)
    return Listing(repository, commit, files, flagged, scanned)


def _read_scan(status: Any) -> tuple[tuple[str, ...], bool]:
    """The complaints, and whether the scan is done; a Hub without a scan has neither."""
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
        raise InputError(f"revision: {revision[:80]!r} is no branch, tag or commit; check the name")


def _check_scan(listing: Listing, allow_flagged: bool) -> None:
    if not listing.flagged:
        return
    what = f"{listing.repository!r}: the Hub's scan flags {', '.join(listing.flagged[:3])}"
    if not allow_flagged:
        raise InputError(f"model: {what}; choose another, or pass allow_flagged=true if you trust it")
    logger.warning("%s; used all the same, as allow_flagged says", what)


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
            " raise max_size_gb if that is right"
        )
    absent = sum(listing.files[name].size for name in wanted if not _is_here(listing, name))
    free = shutil.disk_usage(_nearest(Path(constants.HF_HUB_CACHE))).free
    if absent > free:
        raise InputError(
            f"model: {listing.repository!r} needs {absent / 1e9:.2g} GB but the disk of the cache has"
            f" {free / 1e9:.2g} left; free some, or set HF_HOME to another disk"
        )


def _is_here(listing: Listing, name: str) -> bool:
    return isinstance(try_to_load_from_cache(listing.repository, name, revision=listing.commit), str)


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


# ----------------------------------------------------------------------------------------------- download


def _download(listing: Listing, wanted: Sequence[str]) -> Path:
    """All files at the commit; the number of classes is looked at before the weights come."""
    folder = None
    for name in wanted:
        folder = _download_one(listing, listing.files[name]).parent
        if name == "config.json":
            _check_config(folder / name, listing.repository)
    if folder is None:
        names = ", ".join(sorted(listing.files)[:3])
        raise InputError(
            f"weights: {listing.repository} has no config.json and no safetensors file (it has {names});"
            " pass allow_pickle=true if its pickle may be read, or use another repository"
        )
    return folder


def _download_one(listing: Listing, file: RemoteFile) -> Path:
    for again in (False, True):
        path = patiently(lambda again=again: _get(listing, file, again))  # type: ignore[misc]
        _check_place(path, listing)
        if file.holds(path):
            return path
    damaged = path.resolve()
    path.unlink()
    damaged.unlink(missing_ok=True)  # or it would be found in the cache
    raise InputError(
        f"weights: {file.name} of {listing.repository!r} does not have the hash that the Hub states; the"
        " download is damaged, try again later"
    )


def _get(listing: Listing, file: RemoteFile, again: bool) -> Path:
    if not again and not _is_here(listing, file.name):
        fetch_in_pieces(listing.repository, listing.commit, file)
    name, commit = file.name, listing.commit
    return Path(hf_hub_download(listing.repository, name, revision=commit, force_download=again))


def _check_place(path: Path, listing: Listing) -> None:
    """The file lies in the commit's folder, and what it links to in the cache."""
    cache = Path(constants.HF_HUB_CACHE).resolve()
    if path.parent.name != listing.commit or not path.resolve().is_relative_to(cache):
        raise InputError(
            f"model: {path.name} of {listing.repository!r} leads out of the cache; delete the repository's"
            " folder in the cache and try again"
        )


def _check_config(path: Path, repository: str) -> None:
    """Refuses absurd class counts; a file that is no JSON object is the loader's matter."""
    with contextlib.suppress(ValueError, RecursionError, OSError):
        config = json.loads(path.read_text(encoding="utf-8"))
        problem = isinstance(config, dict) and check_classes(config)
        if problem:
            raise _Refused(f"model: config.json of {repository}: {problem}")


class _Refused(Exception):
    """An InputError that passes the suppressed ValueErrors."""


# -------------------------------------------------------------------------------------------------- cache


def _cached(repository: str, revision: str | None) -> Path | None:
    """The folder of a revision in the cache, whether complete or not."""
    for name in (*CONFIGS, "model.safetensors", INDEX, "pytorch_model.bin", "pytorch_model.pth", "model.pth"):
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


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
    """Whether there are weights, and every part that an index names. The weights are downloaded last."""
    names = {file.name for file in folder.iterdir() if file.exists()}
    wanted = choose_files(names, allow_pickle=True)
    if INDEX in wanted:
        return set(shards_of(folder / INDEX)) <= names
    return any(not name.endswith(".json") for name in wanted)


def shards_of(index: Path) -> list[str]:
    """The file names in a checkpoint's index.

    Raises:
        InputError: it is no index.
    """
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted(set(map(str, weights.values())))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"weights: {index.name} is no index of weights; use another checkpoint") from error


def _remember(listing: Listing, revision: str | None) -> None:
    """Notes in the cache which commit a branch or tag is, and what the scan has flagged."""
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
    """What the scan had flagged when this commit was downloaded."""
    note = repository_cache(repository) / "flagged" / commit
    return tuple(note.read_text(encoding="utf-8").splitlines()) if note.is_file() else ()


@contextlib.contextmanager
def _explained(repository: str, revision: str | None) -> Iterator[None]:
    """Makes one line of what may go wrong. No address and no answer's text gets into it."""
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
        return "the disk of the cache is full; free some, or set HF_HOME to another disk"
    reason = os.strerror(error.errno) if error.errno else "the cache does not work"
    return f"{reason}; check the folder of the cache, or set HF_HOME to another"
