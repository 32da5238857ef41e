"""The browser, and where its screenshots go."""

import os
from pathlib import Path

import pytest
from browser import playwright
from missing import CHROMIUM


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
