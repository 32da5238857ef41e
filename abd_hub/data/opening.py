"""This module opens one split of a data set with the ``datasets`` library, within its boundary.

Only the files of the wanted split are fetched and decoded. A Hub that is busy is tried again, as for models.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.picture_file import read_file
from abd_hub.data.boundary import (
    CARD,
    MOST_CARD_BYTES,
    OTHER_CARD,
    Boundary,
    check_card,
    check_folder,
    check_reader,
)
from abd_hub.hub.requests import Busy, patiently, quiet, refusal

_TALKATIVE = ("datasets", "huggingface_hub")
"""Libraries that log damage of a file beside the error that they raise."""


@dataclass(frozen=True)
class Opened:
    """Holds a split of a data set."""

    dataset: Any
    """Is a data set of the library."""
    commit: str | None
    """Holds the commit on the Hub; None for a folder."""
    boundary: Boundary


def open_split(
    source: str, split: str, revision: str | None, config: str | None, max_size_gb: float
) -> Opened:
    """Opens a split of a folder or of a Hub data set.

    Args:
        source: Hub id (``org/name``) or local folder.
        split: name of a split, a slice of one, or a sum of them.
        revision: branch, tag or commit on the Hub.
        config: configuration of a data set that has several.
        max_size_gb: largest size of the split's files on the Hub, in GB of 10^9 bytes.

    Raises:
        InputError: the split cannot be read, is too large, or reaches out of the data set.
    """
    import datasets

    path = _locate(source, revision)
    with _quiet(datasets, is_folder=path is not None), _explained(source):
        if path is None:
            _check_remote_cards(source, revision)
        else:
            check_folder(source, Path(path))
        builder = _builder(source, path, split, revision, config)
        commit = None if path else _commit(builder, source, revision)
        boundary = _bounded(source, path, commit, builder)
        files = _narrow(builder, source, split)
        boundary.check_files(files)
        if path is None and commit is not None and files:
            _check_sizes(source, commit, files, max_size_gb)

        stated = _row_counts(builder)
        _tried(path, lambda: builder.download_and_prepare(verification_mode="no_checks"))
        return Opened(_split_of(builder, source, split, stated), commit, boundary)


# --------------------------------------------------------------------------------------------------- place


def _locate(source: str, revision: str | None) -> str | None:
    """Returns the absolute path of a local folder, or None for a Hub id."""
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InputError(f"revision {revision!r} has no meaning for the folder {source}; leave it out")
        return str(path.resolve())
    if path.is_file():
        raise InputError(f"data set {source} is a file; use the folder that holds it")

    # A single word such as "parquet" would make the library read the files in the working folder.
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        raise InputError(
            f"data set {source!r}: no such folder; use a folder or a Hub id of the form org/name"
        )
    return None


def _bounded(source: str, path: str | None, commit: str | None, builder: Any) -> Boundary:
    """Returns the boundary of a folder, or of a repository with its places in both caches."""
    is_images = check_reader(source, builder) == "imagefolder"
    own = Path(builder._cache_downloaded_dir)
    if path is not None:
        return Boundary(source, (Path(path), own), None, is_images)
    cache = Path(constants.HF_HUB_CACHE) / f"datasets--{source.replace('/', '--')}"
    return Boundary(source, (cache, own), f"hf://datasets/{source}@{commit}/", is_images)


def _cache_of(folder: str, cache: Path) -> Path:
    """Returns a cache folder for the library, which is the same only for the same files of the same folder.

    The library's own cache goes by the folder's name where a README lists configurations. Then the folder
    ``b/data`` would silently give the images of the folder ``a/data``.
    """
    digest = hashlib.sha256(folder.encode())
    for file in sorted(Path(folder).rglob("*")):
        state = file.lstat()
        digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return cache / "folders" / digest.hexdigest()[:32]


# ----------------------------------------------------------------------------------------------- the library


def _builder(source: str, path: str | None, split: str, revision: str | None, config: str | None) -> Any:
    """Returns the library's builder, whose cache holds the splits that the run wants and no others."""
    import datasets

    # The library prepares all splits or none, and finds them again by the place of the cache alone.
    wanted = hashlib.sha256("+".join(names_of(split)).encode()).hexdigest()[:16]
    general = Path(datasets.config.HF_DATASETS_CACHE)
    cache = (general if path is None else _cache_of(path, general)) / "splits" / wanted

    def load(**place: Any) -> Any:
        return datasets.load_dataset_builder(path or source, name=config, revision=revision, **place)

    try:
        return _tried(path, lambda: load(cache_dir=str(cache)), hurry=True)
    except (Busy, OfflineModeIsEnabled) as error:
        if isinstance(error, Busy) and error.connected:
            raise
        return load()  # perhaps the library has a copy that somebody else fetched


def _tried(path: str | None, action: Callable[[], Any], *, hurry: bool = False) -> Any:
    """Returns the result of ``action``, which reads a folder or sends requests to the Hub."""
    # The errors of damaged files must not pass for answers of the Hub.
    return action() if path is not None else patiently(action, hurry=hurry)


def names_of(split: str) -> list[str]:
    """Returns the names of the splits in an expression such as ``train[:10%]+test``."""
    return sorted({part.partition("[")[0].strip() for part in split.split("+")})


def _narrow(builder: Any, source: str, split: str) -> list[str]:
    """Leaves the files of the wanted splits to a builder and returns them; a cached copy names none.

    Raises:
        InputError: there is no such split.
    """
    files = getattr(builder.config, "data_files", None)
    names = names_of(split)
    if not files or names == ["all"]:
        return [file for some in (files or {}).values() for file in some]
    known = {str(name): some for name, some in files.items()}
    for name in names:
        if name not in known:
            raise InputError(f"split {split!r} of {source} cannot be read; it has {', '.join(known)}")
    builder.config.data_files = type(files)({name: known[name] for name in names})
    return [file for name in names for file in known[name]]


def _row_counts(builder: Any) -> dict[str, int]:
    return {str(name): facts.num_examples for name, facts in (builder.info.splits or {}).items()}


def _split_of(builder: Any, source: str, split: str, stated: dict[str, int]) -> Any:
    known = _row_counts(builder)
    for name in names_of(split):
        if known.get(name) == 0:
            raise InputError(f"split {name!r} of {source} is empty; use another split")
        if stated.get(name) is not None and name in known and stated[name] != known[name]:
            raise InputError(
                f"split {name!r} of {source} has {known[name]:,} rows, and its card states {stated[name]:,}; "
                "get a whole copy, or correct the card"
            )
    try:
        dataset = builder.as_dataset(split=split)
    except Exception as error:
        raise InputError(
            f"split {split!r} of {source} cannot be read; it has {', '.join(known)}: {_reason(error)}"
        ) from error
    if len(dataset) == 0:
        raise InputError(f"split {split!r} of {source} is empty; use another split")
    return dataset


def _commit(builder: Any, source: str, revision: str | None) -> str | None:
    """Returns the commit of a Hub data set; refuses a cached copy of another revision.

    Without a connection, the datasets library falls back on any copy that it has, of whatever revision.
    """
    copy = str(builder.hash)
    is_commit = re.fullmatch(r"[0-9a-f]{40}", copy) is not None
    from_cache = type(builder).__module__.startswith("datasets.packaged_modules.cache")
    if revision is not None and copy != revision and (from_cache or not is_commit):
        raise InputError(
            f"revision {revision!r} of {source} cannot be fetched, the copy at hand is {copy}; "
            f"go online or set revision to {copy}"
        )
    return copy if is_commit else None


# ------------------------------------------------------------------------------------------------- the Hub


def _check_remote_cards(source: str, revision: str | None) -> None:
    """Checks the cards before the library follows what they name; without a Hub it cannot follow either."""
    for name in (CARD, OTHER_CARD):
        download = partial(hf_hub_download, source, name, repo_type="dataset", revision=revision)
        try:
            with quiet():
                file = patiently(download, hurry=True)
        except (Busy, OfflineModeIsEnabled, LocalEntryNotFoundError):
            return  # the library says why
        except HfHubHTTPError:
            continue  # no such file, or no such repository
        content = read_file(Path(file), f"data set {source}: its {name}", most_bytes=MOST_CARD_BYTES)
        check_card(source, content.decode("utf-8", "replace"), name=name)


def _check_sizes(source: str, commit: str, files: Sequence[str], max_size_gb: float) -> None:
    prefix = f"hf://datasets/{source}@{commit}/"
    names = [file.removeprefix(prefix) for file in files]
    found = patiently(lambda: HfApi().get_paths_info(source, names, repo_type="dataset", revision=commit))
    total = sum(getattr(entry, "size", 0) for entry in found)
    if total > max_size_gb * 1e9:
        raise InputError(
            f"max_size_gb: the split of {source} has {total / 1e9:,.2f} GB, more than {max_size_gb:g}; "
            "raise max_size_gb to download it"
        )


# -------------------------------------------------------------------------------------------------- errors


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns any failure of the library into one line, because strangers' files cause errors of every type."""
    try:
        yield
    except InputError:
        raise
    except HfHubHTTPError as error:
        raise InputError(f"data set {source} {refusal(error)}") from error
    except Exception as error:
        raise InputError(f"data set {source} cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Returns the reason of an error; for a general error of the library, the reason of its cause."""
    while type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return reason_of(error)


@contextmanager
def _quiet(datasets: Any, is_folder: bool) -> Iterator[None]:
    """Hides bars and the libraries' own words for a local folder; a download shows them."""
    hide = is_folder and not datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in _TALKATIVE] if is_folder else []
    levels = [logger.level for logger in loggers]
    if hide:
        datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if hide:
            datasets.enable_progress_bars()
