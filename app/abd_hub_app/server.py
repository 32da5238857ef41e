"""Serves the page, by default to this machine alone, and limits the requests of visitors."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from abd_hub import InputError
from abd_hub_app.files_folder import files_folder
from abd_hub_app.guard import LARGEST_UPLOAD, Bounds, Store
from abd_hub_app.run_queue import RunQueue
from abd_hub_app.shelf import load_shelf

_QUEUE = 8
_SESSIONS = 200
_TRIES = 5
_PORTS = range(7860, 7960)
# The page's own scripts are inline; it has no scripts in attributes such as onerror.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; script-src-attr 'none'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' ws: wss:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Once the webcam is chosen, the browser still needs the visitor's consent.
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=(), usb=(), payment=()"),
)
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class Guard:
    """Adds headers, as ASGI middleware, that keep a browser from loading anything from another host."""

    def __init__(self, app: _Application) -> None:
        self.app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Adds the headers to every answer."""

        async def guarded(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self.app(scope, receive, guarded)


def launch(
    folders: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
) -> None:
    """Serves the page until an interrupt.

    Args:
        folders: model folders, see ``load_shelf``; the bundled models by default.
        host: address of the server; any address but 127.0.0.1 opens the page to others.
        port: 1 to 65535; by default the first free one from 7860 on.
        browser: open the page in the web browser.

    Raises:
        InputError: a folder, the address or the port is wrong, and nothing is served.
    """
    chosen = _free_port(host, port)
    # An ordinary kill would leave the files, and a distillation for some seconds.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shelf = load_shelf(folders)

    # All files of visitors are in this folder and are removed with it.
    with files_folder() as files, RunQueue(files) as queue:
        os.environ["GRADIO_TEMP_DIR"] = str(files)
        # Neither the browser nor the server keeps a history of requests.
        os.environ["GRADIO_RUN_HISTORY"] = "false"
        # Gradio reads these as it is imported; else it makes a folder that all users of a machine share.
        from abd_hub_app.page import build_page

        page = build_page(shelf, files, queue, local=_is_loopback(host))
        page.queue(max_size=_QUEUE, default_concurrency_limit=1)
        store = Store(files)
        chosen = _start(page, store, host, port, chosen, browser)

        store.keep()
        print(f"abd-hub app: http://{_shown(host)}:{chosen} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def _start(page: Any, store: Store, host: str, port: int | None, chosen: int, browser: bool) -> int:
    """Serves on the chosen port, or on another free one if it was taken while the page was built."""
    for _ in range(_TRIES):
        try:
            page.launch(**_settings(store, host, chosen, browser))
        except OSError:
            chosen = _free_port(host, port)
        else:
            return chosen
    raise InputError(f"port: {chosen} of {host} cannot be used; give another with --port")


def _settings(store: Store, host: str, port: int, browser: bool) -> dict[str, Any]:
    from starlette.middleware import Middleware

    from abd_hub_app.page import STYLE, theme

    return {
        "server_name": host,
        "server_port": port,
        "inbrowser": browser,
        "share": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "show_error": False,
        "max_file_size": LARGEST_UPLOAD,
        "ssr_mode": False,
        "strict_cors": True,
        "pwa": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "footer_links": ["api", "settings"],
        "theme": theme(),
        "css_paths": STYLE,
        "state_session_capacity": _SESSIONS,
        "app_kwargs": {"middleware": [Middleware(Guard), Middleware(Bounds, store=store)]},
    }


def _free_port(host: str, port: int | None) -> int:
    if port is None:
        port = next((one for one in _PORTS if _is_free(host, one)), None)
        if port is None:
            raise InputError(f"port: {_PORTS[0]} to {_PORTS[-1]} are all in use; give another with --port")
        return port
    if not 1 <= port <= 65535:
        raise InputError(f"port: {port} is no port; use 1 to 65535")
    if not _is_free(host, port):
        raise InputError(f"port: {port} of {host} is in use or not allowed; give another with --port")
    return port


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"host: {host!r} is no address of this machine; use 127.0.0.1") from error

    with socket.socket(family, kind, protocol) as probe:
        # As for the server, a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def _is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches the address."""
    entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]).partition("%")[0] for entry in entries]
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
