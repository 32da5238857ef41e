"""One file on the Hub, named as the Hub's own tools name it: ``hf://[datasets/]org/name[@revision]/path``."""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from abd_hub.core.errors import InputError

SCHEME = "hf://"
OLD_SCHEME = "hf-hub:"
"""It still names a file of a model repository, as ``hf-hub:org/name[@revision]/path``."""
FORM = "hf://[datasets/]org/name[@revision]/path"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """A file in a repository of the Hub."""

    kind: str
    """Of the repository: model, dataset or space."""
    repository: str
    """``org/name``."""
    revision: str | None
    """Branch, tag or commit; None for the default branch."""
    path: str
    """Of the file in the repository."""


def is_address(name: str) -> bool:
    """Whether the name begins as the address of a file on the Hub does."""
    return name.startswith((SCHEME, OLD_SCHEME))


def parse_address(name: str, what: str) -> Address:
    """Takes an address apart, without a request.

    Args:
        name: the address.
        what: the field and the value, with which every message begins.

    Raises:
        InputError: it names no file.
    """
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        uri = parse_hf_uri(_in_new_spelling(name))
    except HfUriError as error:
        raise InputError(f"{what} names no file on the Hub; it must look like {FORM}") from error
    if uri.type not in ("model", "dataset", "space") or not uri.path_in_repo:
        raise InputError(f"{what} names no file; it must look like {FORM}")
    return Address(uri.type, uri.id, uri.revision, uri.path_in_repo)


def fetch_file(name: str, what: str) -> tuple[Path, str]:
    """Downloads a file, or finds it in the cache; returns its place on this machine and its commit.

    Args:
        name: the file's address.
        what: the field and the value, with which every message begins.

    Raises:
        InputError: the address names no file, or the file cannot be fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    from abd_hub.hub.requests import why_not_fetched

    address = parse_address(name, what)
    try:
        found = hf_hub_download(
            address.repository, address.path, repo_type=address.kind, revision=address.revision
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = why_not_fetched(error, address.repository)
        raise InputError(f"{what} cannot be fetched: {reason}") from error
    # The client keeps files under .../snapshots/<commit>/<path>, whatever the revision was called.
    return Path(found), Path(found).parts[-1 - len(Path(address.path).parts)]


def _in_new_spelling(name: str) -> str:
    if not name.startswith(OLD_SCHEME):
        return name
    spelled = SCHEME + name.removeprefix(OLD_SCHEME)
    if re.fullmatch(r"[^/@]+/[^/@]+(@[^/]+)?/.+", name.removeprefix(OLD_SCHEME)):
        _advise(name, spelled)
    return spelled


@functools.cache
def _advise(old: str, new: str) -> None:
    """Warns of an old spelling, once in a process."""
    logger.warning("%s: this spelling is old; write %s", old, new)
