"""A running app for all files, the browser, and where its screenshots go."""

import os
from pathlib import Path

import pytest
from app_server import SMALL, serving
from browser import playwright
from distil_server import distilling
from gradio_client import Client
from missing import CHROMIUM

from abd_hub import load_images

FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream"]
# Nothing that a test looks at needs these, and they take a seventh of the processor time.
FLAGS += ["--disable-gpu", "--disable-extensions", "--disable-background-networking"]


@pytest.fixture(scope="module")
def shots():
    """Takes screenshots, where a folder is named that keeps them; no test looks at one."""
    given = os.environ.get("ABD_HUB_SCREENSHOTS")

    def take(page, name):
        if given:
            Path(given).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(given, name), full_page=True)

    return take


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by Playwright."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def app():
    """A visitor's program, the address, the process."""
    with serving(*SMALL) as (address, process):
        yield Client(address, verbose=False, download_files=True), address, process


@pytest.fixture(scope="session")
def runs_app(tmp_path_factory):
    """An app whose Hub is the tests' own, for all files about visitors' runs."""
    with distilling(tmp_path_factory.mktemp("app")) as started:
        yield started


@pytest.fixture(scope="session")
def client(app):
    return app[0]


@pytest.fixture(scope="session")
def digits():
    return load_images("digits", "test")
