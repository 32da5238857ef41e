"""A running app for all files, the browser, and where its screenshots go."""

import os
from pathlib import Path

import pytest
from app_server import serving
from browser import playwright
from gradio_client import Client
from missing import CHROMIUM

from abd_hub import load_images


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Where screenshots are put: a folder of one's own choice keeps them."""
    given = os.environ.get("ABD_HUB_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by Playwright."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-fake-device-for-media-stream"]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def app():
    """A visitor's program, the address, the process."""
    with serving() as (address, process):
        yield Client(address, verbose=False, download_files=True), address, process


@pytest.fixture(scope="session")
def client(app):
    return app[0]


@pytest.fixture(scope="session")
def digits():
    return load_images("digits", "test")
