"""This module reads the content of a repository on the Hub and turns every refusal into one line."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from abd_hub.core.errors import InputError
from abd_hub.core.files import RECORD_FILE
from abd_hub.core.purifications import REPORT_FILE
from abd_hub.hub.listing import RemoteFile, is_commit, remote_file
from abd_hub.hub.requests import Busy
from abd_hub.publish.card_file import CARD_FILE
from abd_hub.publish.uploads import Existing, Kind, check_kind

_LARGEST_TEXT = 20_000_000
"""Limits the bytes of a card or record that is read from the Hub."""
LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"
_REFUSALS = {
    401: f"is refused (401: the token is not valid); {LOG_IN}",
    403: "may not be written to with this token (403); use a token with write access to it",
    404: "no longer exists, or your token may not see it (404); check the name and the token",
    413: "does not accept files of this size (413); keep to the Hub's limits",
}
_CHANGED_MEANWHILE = (409, 412)
_DAMAGED = (400, 422)


@dataclass(frozen=True)
class Remote:
    """Holds the content of a repository at one commit."""

    commit: str
    private: bool
    files: Mapping[str, RemoteFile]
    """Holds the files by name."""
    existing: Existing
    """Holds the card and the record as text, and the names of the files."""


def look(api: HfApi, repo_id: str, repo_type: str) -> Remote | None:
    """Reads the present content of a repository.

    Returns:
        The content; None where there is no such repository, or the token may not see it.

    Raises:
        InputError: the answer is malformed, or a card or record is too large.
        Busy: a file was damaged on the way.
    """
    try:
        info = repo_info(api, repo_id, repo_type)
    except HfHubHTTPError as error:
        if error.response.status_code == 404:
            return None
        raise
    if not is_commit(info.sha or ""):
        raise InputError(f"repo_id: the Hub gives no commit for {repo_id!r}; check HF_ENDPOINT")

    files = remote_files(repo_id, info)
    record_file = RECORD_FILE if RECORD_FILE in files else REPORT_FILE
    with tempfile.TemporaryDirectory(prefix="abd-hub-") as place:
        card, record = (
            _text(api, repo_id, repo_type, info.sha, files.get(name), place)
            for name in (CARD_FILE, record_file)
        )
    return Remote(info.sha, bool(info.private), files, Existing(card, record, tuple(files)))


def repo_info(api: HfApi, repo_id: str, repo_type: str, commit: str | None = None) -> Any:
    """Returns the Hub's facts and files of a repository, at ``commit`` or at its newest commit."""
    patience = constants.HF_HUB_ETAG_TIMEOUT
    return api.repo_info(repo_id, repo_type=repo_type, revision=commit, files_metadata=True, timeout=patience)


def remote_files(repo_id: str, found: Any) -> dict[str, RemoteFile]:
    """Returns the files in an answer of ``repo_info``, by name."""
    return {entry.rfilename: remote_file("repo_id", repo_id, entry) for entry in found.siblings or []}


def _text(
    api: HfApi, repo_id: str, repo_type: str, commit: str, file: RemoteFile | None, place: str
) -> str | None:
    if file is None:
        return None
    if file.size > _LARGEST_TEXT:
        raise InputError(
            f"repo_id: {file.name} of {repo_id} has {file.size / 1e6:,.0f} MB, too much for a card or a "
            "record; remove the file there"
        )
    got = _fetch(api, repo_id, repo_type, commit, file, place)
    return got.read_text(encoding="utf-8", errors="replace")


def _fetch(api: HfApi, repo_id: str, repo_type: str, commit: str, file: RemoteFile, place: str) -> Path:
    got = Path(api.hf_hub_download(repo_id, file.name, repo_type=repo_type, revision=commit, local_dir=place))
    if not file.holds(got):
        raise Busy(f"{file.name} was damaged on the way")
    return got


@dataclass(frozen=True)
class Stored:
    """Compares local files with the files of a repository at one commit."""

    api: HfApi = field(repr=False)
    """Holds the token, which no text may show."""
    repo_id: str
    repo_type: str
    commit: str
    files: Mapping[str, RemoteFile]

    def holds(self, name: str, content: Path | bytes, *, unread: bool) -> bool:
        """Returns whether the repository has a file of this name and content.

        Where the Hub states no hash of a file, its bytes are fetched and compared.

        Args:
            name: of the file.
            content: the local bytes, or the path of the local file.
            unread: the answer for a file without a hash that is too large to be fetched.
        """
        file = self.files.get(name)
        if file is None or not file.holds(content):
            return False
        if file.sha256 or file.git_sha1:
            return True
        if file.size > _LARGEST_TEXT:
            return unread
        with tempfile.TemporaryDirectory(prefix="abd-hub-") as place:
            got = _fetch(self.api, self.repo_id, self.repo_type, self.commit, file, place).read_bytes()
        return got == (content if isinstance(content, bytes) else content.read_bytes())


def check_remote(remote: Remote | None, kind: Kind, repo_id: str, private: bool) -> None:
    """Refuses a repository with other content, or a public one where it must be private.

    Raises:
        InputError: the repository is one of these.
    """
    if remote is None:
        return
    check_kind(kind, repo_id, remote.existing)
    if private and not remote.private:
        raise InputError(
            f"private: {repo_id} exists and is public; make it private in its settings, or leave private out"
        )


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Turns errors that another try may avoid into ``Busy``; the client wraps the errors of large files."""
    try:
        yield
    except RuntimeError as error:
        _again(error.__cause__)
        raise
    except HfHubHTTPError as error:
        _again(error)
        raise


def _again(error: BaseException | None) -> None:
    if not isinstance(error, HfHubHTTPError):
        return
    status = error.response.status_code
    if status in _CHANGED_MEANWHILE:
        raise Busy("somebody else is changing it at the same time") from error
    if status in _DAMAGED:
        raise Busy(f"the Hub did not accept the files ({status})") from error


@contextlib.contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns any error into one line, without an address and without the text of an answer."""
    try:
        yield
    except InputError:
        raise
    except HFValidationError as error:
        raise InputError(f"repo_id: {repo_id!r} is no Hub id; use 'owner/name'") from error
    except OfflineModeIsEnabled as error:
        raise InputError("repo_id: HF_HUB_OFFLINE is set; unset it to push") from error
    except Busy as error:
        raise InputError(f"repo_id: {repo_id} cannot be pushed to: {error}; push again later") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        text = _REFUSALS.get(status, f"cannot be pushed to: the Hub answers {status}; push again later")
        raise InputError(f"repo_id: {repo_id} {text}") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "a file cannot be read"
        place = tempfile.gettempdir()
        raise InputError(
            f"repo_id: {repo_id} cannot be pushed to: {reason}; check the folder and {place} (TMPDIR)"
        ) from error
    except ValueError as error:
        kind = type(error).__name__
        raise InputError(f"repo_id: {repo_id}: the client refuses the push ({kind})") from error
