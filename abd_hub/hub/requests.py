"""Requests to the Hub with patience that has an end, and what its refusals mean in words.

No text that a server sent and no address gets into a message: addresses may be signed.
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
"""Seconds before the second, third and last try."""
MAX_WAIT = 300.0
"""Seconds that the Hub may ask to wait: it counts requests over five minutes."""
HTTP_ERROR: type[Exception] = next(k for k in HfHubHTTPError.__mro__ if k.__name__ == "HTTPError")
"""What the client's HTTP library raises, whichever it is: it has changed between the client's versions."""

NOT_THERE = (
    "is no folder here and not on the Hub, or is private; check the name, or log in with 'hf auth login'"
)
REFUSALS: dict[type[HfHubHTTPError] | int, str] = {
    GatedRepoError: "is gated; accept its conditions on its page and log in with 'hf auth login'",
    DisabledRepoError: "is disabled by the Hub; use another",
    RemoteEntryNotFoundError: "lacks a file that the Hub lists (404); try again later",
    RepositoryNotFoundError: NOT_THERE,
    404: NOT_THERE,
    401: "is refused (401: the token is not valid); log in with 'hf auth login', or unset HF_TOKEN",
    403: "is forbidden (403); use a token that may read it",
}
"""The first that fits an answer; GatedRepoError is a RepositoryNotFoundError too."""


class Busy(Exception):
    """The Hub or the network cannot answer now."""

    def __init__(self, reason: str, wait: float = 0.0, *, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait = wait
        self.connected = connected


def patiently(action: Callable[[], T], *, hurry: bool = False) -> T:
    """What ``action`` gives, after a few tries where the Hub is busy or the network fails.

    Args:
        action: asks the Hub.
        hurry: do not wait for a network that is not there.

    Raises:
        Busy: all tries failed, or the Hub asks for a wait of more than ``MAX_WAIT``.
    """
    for wait in WAITS:
        try:
            return _watched(action)
        except Busy as busy:
            if busy.wait > MAX_WAIT or (hurry and not busy.connected):
                raise
            if busy.wait > 5:
                logger.warning("the Hub asks to wait %.0f seconds", busy.wait)
            time.sleep(max(wait, busy.wait))
    return _watched(action)


def _watched(action: Callable[[], T]) -> T:
    """Runs ``action``; whatever could be better after a wait becomes ``Busy``.

    The client itself would wait as long as any answer demands, so answers are looked at first.
    """
    thread = threading.get_ident()

    def look(response: Any) -> None:
        if threading.get_ident() == thread:  # the session belongs to all threads
            _check_answer(response)

    hooks: list[Any] = get_session().event_hooks["response"]
    hooks.append(look)
    try:
        return action()
    except OfflineModeIsEnabled:
        raise
    except LocalEntryNotFoundError as error:  # the client found no file here after an error there
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
        raise Busy("what the Hub sent is incomplete") from error
    except RuntimeError as error:  # how the client wraps whatever fails with a large file
        if isinstance(error.__cause__, HfHubHTTPError | Busy | InputError):
            raise error.__cause__ from error
        raise Busy("the transfer of a large file fails") from error
    except (json.JSONDecodeError, KeyError) as error:
        raise Busy("what answers does not speak as the Hub does; check HF_ENDPOINT") from error
    finally:
        hooks.remove(look)


def _check_answer(response: Any) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        wait = _asked_wait(response.headers)
        limit = f" and asks to wait {wait:.0f} seconds" if wait > MAX_WAIT else ""
        reason = "answers 429, too many requests" if status == 429 else f"answers {status}"
        raise Busy(f"the Hub {reason}{limit}", wait)
    if status == 409 and "another conflicting operation" in response.read().decode("utf-8", "replace"):
        raise Busy("the Hub is still at work on this repository")  # the client asks again without end
    if "/resolve" not in response.url.path:  # an answer about something else than a file
        return
    for header in ("etag", "x-linked-etag"):
        value = response.headers.get(header, "").removeprefix("W/")
        if "/" in value or "\\" in value or ".." in value:  # the cache makes a file name of it
            raise InputError(f"model: the Hub sends a malformed {header}; check HF_ENDPOINT")


def _asked_wait(headers: Any) -> float:
    """Seconds that an answer asks to wait; 0 where it asks for nothing."""
    limit = re.search(r"\bt=(\d+)", headers.get("ratelimit", ""))
    asked = headers.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    return float(limit[1]) if limit else 0.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the client's own warnings back: they hold addresses, which may be signed."""
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
    """What an answer means for the repository that was asked for, and what to do; follows its name."""
    status = error.response.status_code
    for kind, text in REFUSALS.items():
        if status == kind if isinstance(kind, int) else isinstance(error, kind):
            return text
    return f"cannot be fetched: the Hub answers {status}; try again later"


def why_not_fetched(error: Exception, repository: str) -> str:
    """Why one file could not be downloaded, for the end of a message."""
    match error:
        case LocalEntryNotFoundError():
            return "the Hub cannot be reached and there is no copy at hand"
        case EntryNotFoundError():
            return f"{repository} has no such file"
        case RevisionNotFoundError():
            return f"{repository} has no such revision"
        case RepositoryNotFoundError():
            return f"{repository} does not exist or is not open to you"
        case _:
            return str(error).strip().partition("\n")[0]
