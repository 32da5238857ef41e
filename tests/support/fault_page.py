"""The page as a command: serves it, distills on it as a visitor does, and unpacks the result."""

import io
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

from app_server import MODELS

sys.path.append(str(Path(__file__).parents[2] / "recipes"))

ASKED = ("shelf:teacher", "", [], "", "zskt", [], 5, 10, 1, "wrn_10_1", False, 2)


def run(made):
    """Serves the page until its visitor has the result, which appears when its files have gone."""
    from abd_hub.cli import main

    if Path(made).exists():
        print(f"abd-hub: {made} exists already", file=sys.stderr)
        return 2
    Path("tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(Path("tmp").resolve())
    tempfile.tempdir = None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    part = Path(f".abd-tmp-{'0' * 16}-made")
    shutil.rmtree(part, ignore_errors=True)
    threading.Thread(target=_visit, args=(port, part), daemon=True).start()
    code = main(["app", "--no-browser", "--port", str(port), str(MODELS / "teacher")])
    part.rename(made)
    return code


def _visit(port, part):
    try:
        _distill(port, part)
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def _distill(port, part):
    from visitor_page import Page, functions

    until = time.monotonic() + 120
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert time.monotonic() < until, "the page is not there"
        time.sleep(0.05)
    address = f"http://127.0.0.1:{port}"
    page = Page(address, functions(address), "visitor", lambda content: None)
    page.open()
    shown = page.call("distil", *ASKED)
    with zipfile.ZipFile(io.BytesIO(page.file(shown[3]["value"]))) as packed:
        packed.extractall(part)
    page.leave()
