"""This module pushes a local folder to a repository on the Hub, in one commit after all checks.

Every try first reads the repository and sends only the differences. So the same command repeats an
interrupted push, and a push whose answer was lost has nothing left to send. A repository never holds half of
a run. The commit names its parent, so it fails if somebody else has changed the repository meanwhile.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
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
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from abd_hub.config.options import PushOptions
from abd_hub.core.errors import InputError
from abd_hub.hub.requests import Busy, patiently, quiet
from abd_hub.publish.card import check_names
from abd_hub.publish.card_file import CARD_FILE
from abd_hub.publish.card_text import one_line
from abd_hub.publish.remote import (
    LOG_IN,
    Remote,
    Stored,
    check_remote,
    explained,
    look,
    remote_files,
    repo_info,
    unwrapped,
)
from abd_hub.publish.uploads import Existing, Kind, Upload, read_upload, refuse_tokens
from abd_hub.training.running import in_main_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """Reports the result of a push."""

    repo_id: str
    kind: Kind
    url: str
    commit: str
    """Holds the hash of the commit with the content."""
    changed: tuple[str, ...]
    """Lists the files that were sent; it is empty if the repository held all of them before."""
    removed: tuple[str, ...]
    """Lists the removed files of an earlier push."""
    private: bool
    poisoned: bool = False
    """Is True for a teacher that was poisoned on purpose."""


def format_pushed(done: Pushed) -> str:
    """Describes the result of a push in a few lines."""
    lines = [f"nothing to push: {done.url} holds all files at commit {done.commit}"]
    if done.changed or done.removed:
        count = len(done.changed)
        lines = [f"pushed {count} file{'s' * (count != 1)} to {done.url} at commit {done.commit}"]
    if done.removed:
        lines.append(f"removed files of an earlier push: {', '.join(done.removed)}")
    if done.poisoned:
        where = "private" if done.private else "public"
        lines.append(
            f"warning: this model is poisoned on purpose, as its card says; the repository is {where}"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Request:
    upload: Upload
    repo_id: str
    private: bool
    license_id: str | None
    title: str
    force: bool
    api: HfApi = field(repr=False)
    """Holds the token of this push, which no text may show."""

    def contents(self, there: Existing) -> dict[str, Path | bytes]:
        contents = self.upload.contents(self.repo_id, there, license_id=self.license_id, force=self.force)
        card = contents.get(CARD_FILE)
        if isinstance(card, bytes):  # it may hold text of the card on the Hub
            refuse_tokens(self.upload.folder / CARD_FILE, card, _own_token(self.api))
        return contents


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
    """Sends a finished run, a purified copy, an image bank or a Space to the Hub in one commit.

    A missing repository is created. The card is made anew from the record and keeps the user's own text, also
    text that was written on the Hub. The folder does not change. The same call again sends nothing. After an
    error the content of the repository is unchanged.

    Args:
        folder: output folder of ``distill``, ``poison_teacher``, ``export_bank`` or ``abd-hub purify``, or
            the folder of a Space.
        repo_id: ``owner/name``.
        private: create a private repository; an existing public repository is refused.
        license_id: the Hub's name of the license; None keeps the card's license.
        message: the message of the commit.
        force: replace cards that were edited outside the place for own text.
        token: the token of the account, used for this call alone and never stored; None for the account that
            is logged in on this machine.

    Raises:
        InputError: the folder is incomplete, the repository is somebody else's, or the Hub refuses.
    """
    check_names(repo_id, license_id)
    api = HfApi(token=_checked(token))
    upload = read_upload(folder, token)
    with explained(repo_id), quiet():
        _check_account(api)
        title = message or f"{upload.kind} by abd-hub"
        request = _Request(upload, repo_id, private, license_id, title, force, api)
        sent: set[str] = set()
        return patiently(lambda: _send(request, sent))


def plan_push(options: PushOptions, folder: str | Path, kind: Kind, accelerator: Accelerator) -> str | None:
    """Returns the repository to which a run will be pushed, after a check; None for a run without a push.

    Args:
        options: the push options of the run.
        folder: the output folder of the run.
        kind: the kind of its content.
        accelerator: its main process checks for all processes.

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
    """Pushes a finished run to the result of ``plan_push``; does nothing for None.

    Raises:
        InputError: the push failed; the run is finished all the same, and the message gives the next command.
    """
    if destination is None:
        return
    try:
        logger.info(format_pushed(push_to_hub(folder, destination, private=private)))
    except InputError as error:
        raise InputError(
            f"{error} (the run is finished; push it with 'abd-hub push {folder} {destination}')"
        ) from error


def check_destination(repo_id: str | None, folder: str | Path, kind: Kind, *, private: bool) -> str:
    """Checks that a push will be possible, before the run begins.

    Args:
        repo_id: ``owner/name``; None for the name of ``folder`` under the account of the token.
        folder: the output folder of the run.
        kind: the kind of its content.
        private: whether the repository must be private.

    Returns:
        The complete ``owner/name``.

    Raises:
        InputError: nobody is logged in, the token may not write, or the repository is somebody else's.
    """
    if repo_id is not None and "/" not in repo_id:
        raise InputError(
            f"hub_model_id: {repo_id!r} is not of the form owner/name; use for example me/my-model"
        )
    check_names(repo_id, None)

    api = HfApi()
    with explained(repo_id or Path(folder).name), quiet():
        account = _check_account(api)
        wanted = repo_id or f"{account}/{Path(folder).resolve().name}"
        check_names(wanted, None)
        check_remote(patiently(lambda: look(api, wanted, "model")), kind, wanted, private)
    return wanted


def _checked(token: str | None) -> str | None:
    """Refuses a token that no HTTP header can carry; the client's own refusal would quote the token."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InputError("token: is empty or has characters that no token has; copy it again")
    return token


def _own_token(api: HfApi) -> str | None:
    return api.token if isinstance(api.token, str) else None


def _check_account(api: HfApi) -> str:
    """Returns the account's name; first refuses a token that can only read."""
    if _own_token(api) is None and get_token() is None:
        raise InputError(f"token: nobody is logged in to the Hub here; {LOG_IN}")

    account = patiently(api.whoami)
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError("token: may only read; log in with a token that may write ('hf auth login')")
    return str(account.get("name"))


def _send(request: _Request, sent: set[str]) -> Pushed:
    """Reads the repository, sends and checks the differences; ``sent`` gathers the files of all tries."""
    upload, repo_id = request.upload, request.repo_id
    remote = look(request.api, repo_id, upload.repo_type) or _created(request)
    check_remote(remote, upload.kind, repo_id, request.private)

    contents = request.contents(remote.existing)
    stale = upload.stale(remote.existing)
    there = Stored(request.api, repo_id, upload.repo_type, remote.commit, remote.files)
    changed = sorted(name for name in contents if not there.holds(name, contents[name], unread=False))
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


def _created(request: _Request) -> Remote:
    """Creates the repository, after a check of its content and of its card's metadata."""
    upload = request.upload
    _validate(request, request.contents(Existing()))
    request.api.create_repo(
        request.repo_id,
        repo_type=upload.repo_type,
        private=request.private or None,
        exist_ok=True,
        space_sdk=upload.sdk,
    )
    remote = look(request.api, request.repo_id, upload.repo_type)
    if remote is None:
        raise Busy("the Hub has created it but does not list it yet")
    return remote


def _validate(request: _Request, contents: Mapping[str, Path | bytes]) -> None:
    """Lets the Hub check the metadata of the card, before anything is created or sent."""
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
        errors = answer.json().get("errors") or [{}]
        reason = one_line(str(errors[0].get("message", "no reason given")), 200)
        raise InputError(
            f"{CARD_FILE}: the Hub refuses its metadata ({reason}); correct the license or your own metadata"
        )


def _commit(
    request: _Request, parent: str, contents: Mapping[str, Path | bytes], stale: Sequence[str]
) -> str:
    """Sends large files one by one, then the commit that makes all files visible at once."""
    place: dict[str, Any] = {"repo_id": request.repo_id, "repo_type": request.upload.repo_type}
    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    with unwrapped():
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
    """Checks that the Hub states the hashes of the sent files, so that none was ignored or damaged."""
    repo_id, repo_type = request.repo_id, request.upload.repo_type
    files = remote_files(repo_id, repo_info(request.api, repo_id, repo_type, commit))
    there = Stored(request.api, repo_id, repo_type, commit, files)
    wrong = sorted(name for name in contents if not there.holds(name, contents[name], unread=True))
    if wrong:
        raise InputError(
            f"repo_id: {repo_id} does not hold {', '.join(wrong[:3])} as it was sent; remove a "
            ".gitignore there that excludes the file, and push again"
        )
