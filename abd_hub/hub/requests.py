"""This module repeats failed requests to the Hub a few times and explains refusals.

No server's text and no address gets into a message, because addresses may be signed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from abd_hub.core.errors import InputError

logger = logging.getLogger(__name__)
T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0)
"""Gives the seconds before the second, third and last try."""
MAX_WAIT = 300.0
"""Limits the seconds of a wait that the Hub requires; the Hub counts requests over five minutes."""
_STRANGE = "the server does not answer like the Hub; check HF_ENDPOINT"
HTTP_ERROR: type[Exception] = next(k for k in HfHubHTTPError.__mro__ if k.__name__ == "HTTPError")
"""Is the error class of the client's HTTP library, which differs between the client's versions."""

NOT_THERE = (
    "is no folder here and not on the Hub, or is private; check the name, or log in with 'hf auth login'"
)
REFUSALS: dict[type[HfHubHTTPError] | int, str] = {
    GatedRepoError: "is gated; accept its conditions on its page and log in with 'hf auth login'",
    DisabledRepoError: "is disabled by the Hub; use another repository",
    RemoteEntryNotFoundError: "lacks a file that the Hub lists (404); try again later",
    RepositoryNotFoundError: NOT_THERE,
    404: NOT_THERE,
    401: "is refused (401: the token is not valid); log in with 'hf auth login', or unset HF_TOKEN",
    403: "is forbidden (403); use a token that may read it",
}
"""Explains each refusal; the first entry that fits counts, as GatedRepoError is a RepositoryNotFoundError."""


class Busy(Exception):
    """Reports that the Hub or the network fails now; another try may succeed.

    Args:
        reason: one line.
        wait: seconds before the next try.
        connected: False if the Hub cannot be reached.
    """

    def __init__(self, reason: str, wait: float = 0.0, *, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait = wait
        self.connected = connected


def patiently(action: Callable[[], T], *, hurry: bool = False) -> T:
    """Returns the result of ``action``; repeats it a few times if the Hub is busy or the network fails.

    Args:
        action: sends requests to the Hub.
        hurry: do not wait for a network that is not there.

    Raises:
        Busy: all tries failed, or the Hub requires a wait of more than ``MAX_WAIT`` seconds.
    """
    for wait in WAITS:
        try:
            return _watched(action)
        except Busy as busy:
            if busy.wait > MAX_WAIT or (hurry and not busy.connected):
                raise
            if busy.wait > 5:
                logger.warning("the Hub requires a wait of %.0f seconds", busy.wait)
            time.sleep(max(wait, busy.wait))
    return _watched(action)


def _watched(action: Callable[[], T]) -> T:
    """Runs ``action`` and turns errors that may pass after a wait into ``Busy``.

    The client itself would wait as long as an answer demands, so a hook checks every answer first.
    """
    thread = threading.get_ident()

    def check(response: Any) -> None:
        if threading.get_ident() == thread:  # all threads share the session
            _check_answer(response)

    hooks: list[Any] = get_session().event_hooks["response"]
    hooks.append(check)
    try:
        return _translated(action)
    finally:
        hooks.remove(check)


def _translated(action: Callable[[], T]) -> T:
    """Runs ``action``, and raises the errors of the Hub and of the network in place of the client's."""
    try:
        return action()
    except OfflineModeIsEnabled:
        raise
    except LocalEntryNotFoundError as error:  # the client found no local file after an error of the Hub
        if isinstance(error.__cause__, HfHubHTTPError):
            raise error.__cause__ from error
        raise Busy("the Hub cannot be reached", connected=False) from error
    except HfHubHTTPError:
        raise
    except HTTP_ERROR as error:
        raise Busy("the Hub cannot be reached", connected=False) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _of_no_number(error) from error
    except RuntimeError as error:  # the client wraps every failure with a large file so
        if isinstance(error.__cause__, HfHubHTTPError | Busy | InputError):
            raise error.__cause__ from error
        raise Busy("the transfer of a large file fails") from error
    except (json.JSONDecodeError, KeyError) as error:
        raise Busy(_STRANGE) from error
    except ValueError as error:
        found = _of_forced(error)
        if found is None:
            raise
        raise found from error


def _of_no_number(error: OSError) -> Busy:
    """Returns the error for an OSError that the system has not raised."""
    if isinstance(error, ConnectionError):  # the datasets library's word for every failed request
        return Busy("the Hub cannot be reached", connected=False)
    return Busy("the Hub's answer is incomplete")


def _of_forced(error: ValueError) -> Exception | None:
    """Returns the error for which the client gives a ValueError, where a damaged file must come again."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError | OfflineModeIsEnabled):
        return cause
    if isinstance(cause, FileMetadataError):
        return Busy(_STRANGE)
    if isinstance(cause, HTTP_ERROR | OSError):
        return Busy("the Hub cannot be reached", connected=False)
    return None


def _check_answer(response: Any) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        wait = _required_wait(response.headers)
        limit = f" and requires a wait of {wait:.0f} seconds" if wait > MAX_WAIT else ""
        reason = "answers 429, too many requests" if status == 429 else f"answers {status}"
        raise Busy(f"the Hub {reason}{limit}", wait)
    if status == 409 and "another conflicting operation" in response.read().decode("utf-8", "replace"):
        raise Busy("the Hub is still at work on this repository")  # the client would repeat without end

    if "/resolve" not in response.url.path:  # the answer concerns no file
        return
    for header in ("etag", "x-linked-etag"):
        value = response.headers.get(header, "").removeprefix("W/")
        if "/" in value or "\\" in value or ".." in value:  # the value becomes a file name in the cache
            raise InputError(f"model: the Hub sends a malformed {header}; check HF_ENDPOINT")


def _required_wait(headers: Any) -> float:
    """Returns the seconds of wait that an answer requires, 0 by default."""
    limit = re.search(r"\bt=(\d+)", headers.get("ratelimit", ""))
    retry_after = headers.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", retry_after):
        return float(retry_after)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return float(limit[1]) if limit else 0.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses the client's own warnings, because they hold addresses, which may be signed."""
    client = logging.getLogger("huggingface_hub")
    before = client.level
    client.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="huggingface_hub")
            yield
    finally:
        client.setLevel(before)


def refusal(error: HfHubHTTPError) -> str:
    """Explains an answer and its remedy, as words that follow the name of the repository."""
    status = error.response.status_code
    for kind, text in REFUSALS.items():
        if status == kind if isinstance(kind, int) else isinstance(error, kind):
            return text
    return f"cannot be fetched: the Hub answers {status}; try again later"


def why_not_fetched(error: Exception, repository: str) -> str:
    """Explains why one file could not be downloaded, for the end of a message."""
    match error:
        case LocalEntryNotFoundError():
            return "the Hub cannot be reached and the cache holds no copy; try again later"
        case EntryNotFoundError():
            return f"{repository} has no such file; check its path"
        case RevisionNotFoundError():
            return f"{repository} has no such revision; check its name"
        case RepositoryNotFoundError():
            return (
                f"{repository} does not exist or is private; check its name, or log in with 'hf auth login'"
            )
        case _:
            return str(error).strip().partition("\n")[0]
