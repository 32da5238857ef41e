"""From a local folder to a repository on the Hub: looked at first, then one commit, or nothing.

Every try begins with a look at what the repository holds now, and sends only what differs. So a push that was
cut off is repeated by the same command, one whose answer was lost finds its work done, and a repository never
holds half of a run. The commit names the state that was looked at: a change by somebody else in between is
seen, not overwritten.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from abd_hub.config.options import PushOptions
from abd_hub.core.errors import InputError
from abd_hub.core.files import RECORD_FILE
from abd_hub.hub.listing import RemoteFile, is_commit, remote_file
from abd_hub.hub.requests import Busy, patiently, quiet
from abd_hub.publish.card import check_names
from abd_hub.publish.card_file import CARD_FILE
from abd_hub.publish.card_text import one_line
from abd_hub.publish.uploads import Existing, Kind, Upload, check_kind, read_upload, refuse_tokens
from abd_hub.training.running import in_main_process

logger = logging.getLogger(__name__)

_LARGEST_TEXT = 20_000_000
"""Bytes of a card or record that is read back."""
_LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"
_REFUSALS = {
    401: f"is refused (401: the token is not valid); {_LOG_IN}",
    403: "may not be written to with this token (403); use a token with write access to it",
    404: "does not exist any more, or your token may not see it (404); check the name and the token",
    413: "does not take files of this size (413); see the Hub's limits",
}
_CHANGED_MEANWHILE = (409, 412)
_DAMAGED = (400, 422)


@dataclass(frozen=True)
class Pushed:
    """What a push has done."""

    repo_id: str
    kind: Kind
    url: str
    commit: str
    """That holds the content now."""
    changed: tuple[str, ...]
    """Files that were sent; empty where the repository held all of it before."""
    removed: tuple[str, ...]
    """Files of an earlier push that this content does not have."""
    private: bool
    poisoned: bool = False
    """Whether it is a teacher that was poisoned on purpose."""


def format_pushed(done: Pushed) -> str:
    """What was done, in a few lines."""
    lines = [f"nothing to push: {done.url} holds all of it at commit {done.commit}"]
    if done.changed or done.removed:
        count = len(done.changed)
        lines = [f"pushed {count} file{'s' * (count != 1)} to {done.url} at commit {done.commit}"]
    if done.removed:
        lines.append(f"removed what an earlier push had left: {', '.join(done.removed)}")
    if done.poisoned:
        where = "private" if done.private else "public"
        lines.append(
            f"warning: this model is poisoned on purpose, as its card says; the repository is {where}"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Remote:
    commit: str
    private: bool
    files: Mapping[str, RemoteFile]
    existing: Existing


@dataclass(frozen=True)
class _Request:
    upload: Upload
    repo_id: str
    private: bool
    license_id: str | None
    title: str
    force: bool
    api: HfApi = field(repr=False)
    """With the token of this push, which no text may show."""

    def contents(self, there: Existing) -> dict[str, Path | bytes]:
        found = self.upload.contents(self.repo_id, there, license_id=self.license_id, force=self.force)
        card = found.get(CARD_FILE)
        if isinstance(card, bytes):  # it may hold what the card on the Hub holds
            refuse_tokens(self.upload.folder / CARD_FILE, card, _given(self.api))
        return found


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    license_id: str | None = None,
    message: str | None = None,
    force: bool = False,
    token: str | None = None,
) -> Pushed:
    """Sends a finished run, an image bank or a Space to the Hub in one commit.

    The repository is made if there is none. The card is made anew from the record, its own text kept, also
    that which was written on the Hub; nothing in ``folder`` changes. The same call again sends nothing.

    Args:
        folder: output folder of ``distill``, ``poison_teacher`` or ``export_bank``, or that of a Space.
        repo_id: ``owner/name``.
        private: make the repository private; one that is there and public is refused then.
        license_id: the Hub's name of the licence; None keeps the one that the card has.
        message: of the commit.
        force: replace cards that were edited outside the place for own text.
        token: of the account that pushes, used for this call alone and kept nowhere; None for the account
            that is logged in on this machine.

    Raises:
        InputError: the folder is not whole, the repository is somebody else's, or the Hub refuses; neither
            the folder nor the content of the repository has changed then.
    """
    check_names(repo_id, license_id)
    api = HfApi(token=_checked(token))
    upload = read_upload(folder, token)
    with _explained(repo_id), quiet():
        _check_account(api)
        title = message or f"{upload.kind} by abd-hub"
        request = _Request(upload, repo_id, private, license_id, title, force, api)
        sent: set[str] = set()
        return patiently(lambda: _send(request, sent))


def plan_push(options: PushOptions, folder: str | Path, kind: Kind, accelerator: Accelerator) -> str | None:
    """Where a run will be pushed to, known to be possible now; None where it will not be.

    Args:
        options: of the run.
        folder: its output folder.
        kind: what it will hold.
        accelerator: the main process looks for all.

    Raises:
        InputError: see ``check_destination``.
    """
    if not options.push_to_hub:
        return None
    return in_main_process(
        accelerator,
        lambda: check_destination(options.hub_model_id, folder, kind, private=options.hub_private_repo),
    )


def push_finished(destination: str | None, folder: str | Path, *, private: bool) -> None:
    """Pushes a run that has just finished to where ``plan_push`` said; nothing where that was None.

    Raises:
        InputError: it did not work; the run is finished all the same, and the message says how to go on.
    """
    if destination is None:
        return
    try:
        logger.info(format_pushed(push_to_hub(folder, destination, private=private)))
    except InputError as error:
        raise InputError(f"{error} (the run is finished: abd-hub push {folder} {destination})") from error


def check_destination(repo_id: str | None, folder: str | Path, kind: Kind, *, private: bool) -> str:
    """Looks whether a push will be possible, before the work that it is to carry begins.

    Args:
        repo_id: ``owner/name``; None for the name of ``folder`` under the account of the token.
        folder: of the run.
        kind: what will be pushed.
        private: whether the repository must be private.

    Returns:
        ``repo_id``, completed.

    Raises:
        InputError: nobody is logged in, the token may not write, or the repository is somebody else's.
    """
    if repo_id is not None and "/" not in repo_id:
        raise InputError(f"hub_model_id: {repo_id!r} is not of the form owner/name")
    check_names(repo_id, None)
    api = HfApi()
    with _explained(repo_id or Path(folder).name), quiet():
        account = _check_account(api)
        wanted = repo_id or f"{account}/{Path(folder).resolve().name}"
        check_names(wanted, None)
        _check(patiently(lambda: _look(api, wanted, "model")), kind, wanted, private)
    return wanted


def _checked(token: str | None) -> str | None:
    """The token, unless no header could carry it; the client's own refusal would quote it."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InputError("token: it is empty or holds signs that no token has; copy it again")
    return token


def _given(api: HfApi) -> str | None:
    return api.token if isinstance(api.token, str) else None


def _check_account(api: HfApi) -> str:
    """The account's name; a token that can only read is refused before anything else happens."""
    if _given(api) is None and get_token() is None:
        raise InputError(f"token: nobody is logged in to the Hub here; {_LOG_IN}")
    found = patiently(api.whoami)
    role = found.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError("token: it may only read; log in with one that may write ('hf auth login')")
    return str(found.get("name"))


# ---------------------------------------------------------------------------------------------------- look


def _look(api: HfApi, repo_id: str, repo_type: str) -> _Remote | None:
    """What the repository holds now; None where there is none."""
    try:
        found = _info(api, repo_id, repo_type)
    except HfHubHTTPError as error:
        if error.response.status_code == 404:
            return None
        raise
    if not is_commit(found.sha or ""):
        raise InputError(f"repo_id: the Hub names no commit of {repo_id!r}; check HF_ENDPOINT")
    files = _files(repo_id, found)
    with tempfile.TemporaryDirectory(prefix="abd-hub-") as place:
        card, record = (
            _text(api, repo_id, repo_type, found.sha, files.get(name), place)
            for name in (CARD_FILE, RECORD_FILE)
        )
    return _Remote(found.sha, bool(found.private), files, Existing(card, record, tuple(files)))


def _info(api: HfApi, repo_id: str, repo_type: str, commit: str | None = None) -> Any:
    patience = constants.HF_HUB_ETAG_TIMEOUT
    return api.repo_info(repo_id, repo_type=repo_type, revision=commit, files_metadata=True, timeout=patience)


def _files(repo_id: str, found: Any) -> dict[str, RemoteFile]:
    return {entry.rfilename: remote_file("repo_id", repo_id, entry) for entry in found.siblings or []}


def _text(
    api: HfApi, repo_id: str, repo_type: str, commit: str, file: RemoteFile | None, place: str
) -> str | None:
    if file is None:
        return None
    if file.size > _LARGEST_TEXT:
        raise InputError(f"repo_id: {file.name} of {repo_id} has {file.size / 1e6:,.0f} MB; look what it is")
    got = Path(api.hf_hub_download(repo_id, file.name, repo_type=repo_type, revision=commit, local_dir=place))
    if not file.holds(got):
        raise Busy(f"{file.name} does not arrive as it is there")
    return got.read_text(encoding="utf-8", errors="replace")


def _check(remote: _Remote | None, kind: Kind, repo_id: str, private: bool) -> None:
    if remote is None:
        return
    check_kind(kind, repo_id, remote.existing)
    if private and not remote.private:
        raise InputError(
            f"private: {repo_id} is there and public; make it private in its settings, or leave private out"
        )


# ---------------------------------------------------------------------------------------------------- send


def _send(request: _Request, sent: set[str]) -> Pushed:
    """One try: look, compare, send what differs, look again; ``sent`` gathers what all tries have sent."""
    upload, repo_id = request.upload, request.repo_id
    remote = _look(request.api, repo_id, upload.repo_type) or _created(request)
    _check(remote, upload.kind, repo_id, request.private)
    contents = request.contents(remote.existing)
    stale = upload.stale(remote.existing)
    changed = _different(contents, remote)
    if CARD_FILE in changed:
        _validate(request, contents)
    commit = remote.commit
    sent.update(changed)
    if changed or stale:
        commit = _commit(request, commit, {name: contents[name] for name in changed}, stale)
        _verify(request, commit, contents)
    prefix = "" if upload.repo_type == "model" else f"{upload.repo_type}s/"
    url = f"{constants.ENDPOINT}/{prefix}{repo_id}"
    names = tuple(sorted(sent)), tuple(stale)
    return Pushed(repo_id, upload.kind, url, commit, *names, remote.private, upload.poisoned)


def _created(request: _Request) -> _Remote:
    """A new repository, made once nothing speaks against what it is to hold."""
    upload = request.upload
    _validate(request, request.contents(Existing()))
    request.api.create_repo(
        request.repo_id,
        repo_type=upload.repo_type,
        private=request.private or None,
        exist_ok=True,
        space_sdk=upload.sdk,
    )
    remote = _look(request.api, request.repo_id, upload.repo_type)
    if remote is None:
        raise Busy("it is made and not listed yet")
    return remote


def _validate(request: _Request, contents: Mapping[str, Path | bytes]) -> None:
    """Asks the Hub whether it takes the metadata of the card, before anything is made or sent."""
    card = contents.get(CARD_FILE)
    if card is None:
        return
    text = (card if isinstance(card, bytes) else card.read_bytes()).decode("utf-8", "replace")
    answer = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"repoType": request.upload.repo_type, "content": text},
        headers=build_hf_headers(token=request.api.token),
    )
    if answer.status_code == 400:
        found = answer.json().get("errors") or [{}]
        told = one_line(str(found[0].get("message", "no reason given")), 200)
        raise InputError(
            f"{CARD_FILE}: the Hub refuses its metadata ({told}); correct the licence or what you wrote there"
        )


def _different(contents: Mapping[str, Path | bytes], remote: _Remote) -> list[str]:
    there = remote.files
    return sorted(name for name in contents if name not in there or not there[name].holds(contents[name]))


def _commit(
    request: _Request, parent: str, contents: Mapping[str, Path | bytes], stale: Sequence[str]
) -> str:
    """Large files one by one, then the commit that makes all of them visible at once."""
    place: dict[str, Any] = {"repo_id": request.repo_id, "repo_type": request.upload.repo_type}
    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    with _unwrapped():
        for operation in added:
            request.api.preupload_lfs_files(additions=[operation], **place)
        done = request.api.create_commit(
            operations=[*added, *map(CommitOperationDelete, stale)],
            commit_message=request.title,
            parent_commit=parent,
            **place,
        )
    return str(done.oid)


def _verify(request: _Request, commit: str, contents: Mapping[str, Path | bytes]) -> None:
    """The Hub states the hashes of what was sent: nothing was ignored or damaged on the way."""
    repo_id = request.repo_id
    there = _files(repo_id, _info(request.api, repo_id, request.upload.repo_type, commit))
    wrong = sorted(n for n, content in contents.items() if n not in there or not there[n].holds(content))
    if wrong:
        raise InputError(
            f"repo_id: {repo_id} does not hold {', '.join(wrong[:3])} as they are here; look for a "
            ".gitignore there, and push again"
        )


# -------------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Answers that a further try can better become ``Busy``; the client wraps those of large files."""
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
        raise Busy("somebody else changes it at the same time") from error
    if status in _DAMAGED:
        raise Busy(f"the Hub does not accept what it got ({status})") from error


@contextlib.contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Makes one line of what may go wrong. No address and no answer's text gets into it."""
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
            f"repo_id: {repo_id} cannot be pushed to: {reason}; look at the folder and at {place} (TMPDIR)"
        ) from error
    except ValueError as error:
        kind = type(error).__name__
        raise InputError(f"repo_id: {repo_id}: the client refuses the push ({kind})") from error
