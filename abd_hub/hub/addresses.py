"""This module reads the address of one file on the Hub: ``hf://[datasets/]org/name[@revision]/path``."""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from abd_hub.core.errors import InputError

SCHEME = "hf://"
OLD_SCHEME = "hf-hub:"
"""Begins the old form of an address, ``hf-hub:org/name[@revision]/path``, which is still read."""
FORM = "hf://[datasets/]org/name[@revision]/path"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Names a file in a repository of the Hub."""

    kind: str
    """Holds the kind of the repository: model, dataset or space."""
    repository: str
    """Holds ``org/name``."""
    revision: str | None
    """Holds the branch, tag or commit; None stands for the default branch."""
    path: str
    """Holds the path of the file inside the repository."""


def is_address(name: str) -> bool:
    """Returns whether the name begins like the address of a file on the Hub."""
    return name.startswith((SCHEME, OLD_SCHEME))


def parse_address(name: str, what: str) -> Address:
    """Splits an address into its parts, without a request to the Hub.

    Args:
        name: the address.
        what: the field and the value, which begin every message.

    Raises:
        InputError: the address names no file.
    """
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        uri = parse_hf_uri(_in_new_spelling(name))
    except HfUriError as error:
        raise InputError(f"{what} names no file on the Hub; use the form {FORM}") from error
    if uri.type not in ("model", "dataset", "space") or not uri.path_in_repo:
        raise InputError(f"{what} names no file; use the form {FORM}")
    return Address(uri.type, uri.id, uri.revision, uri.path_in_repo)


def fetch_file(name: str, what: str) -> tuple[Path, str]:
    """Downloads a file or finds it in the cache.

    Args:
        name: the file's address.
        what: the field and the value, which begin every message.

    Returns:
        The file's path on this machine, and its commit.

    Raises:
        InputError: the address names no file, or the file cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    from abd_hub.hub.requests import why_not_fetched

    address = parse_address(name, what)
    try:
        file = hf_hub_download(
            address.repository, address.path, repo_type=address.kind, revision=address.revision
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = why_not_fetched(error, address.repository)
        raise InputError(f"{what} cannot be fetched: {reason}") from error

    # The client keeps files under .../snapshots/<commit>/<path>, also for a branch or tag.
    return Path(file), Path(file).parts[-1 - len(Path(address.path).parts)]


def _in_new_spelling(name: str) -> str:
    if not name.startswith(OLD_SCHEME):
        return name
    new = SCHEME + name.removeprefix(OLD_SCHEME)
    if re.fullmatch(r"[^/@]+/[^/@]+(@[^/]+)?/.+", name.removeprefix(OLD_SCHEME)):
        _warn_once(name, new)
    return new


@functools.cache
def _warn_once(old: str, new: str) -> None:
    """Warns of an old spelling, once in a process."""
    logger.warning("%s: this spelling is old; write %s", old, new)
