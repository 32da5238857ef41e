"""The tab "Distill" in a real browser, over a Hub of the tests' own."""

import pytest
from browser import PATIENCE, fits, open_tab, playwright, see_all, visit
from distil_server import wait
from hub_server import WRITE
from missing import needs_browser

pytestmark = [needs_browser, pytest.mark.timeout(900)]
LONG = 2 * PATIENCE
KEPT = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"


@pytest.fixture(scope="module")
def app(runs_app):
    return runs_app


def begin(page, rounds):
    """As somebody without a mouse does."""
    page.locator("#distil-rounds input").fill(str(rounds))
    start = page.get_by_role("button", name="Distill", exact=True)
    start.focus()
    start.press("Enter")


def says(page, text):
    playwright.expect(page.locator("#distil-progress")).to_contain_text(text, timeout=LONG)


def test_a_run_from_beginning_to_push(app, browser, shots):
    with visit(browser, app.address) as page:
        open_tab(page, "Distill")
        shots(page, "distil-idle-1280.png")
        page.get_by_label("universal direction").check()
        begin(page, 6)
        playwright.expect(page.locator("#distil-progress polyline").first).to_be_visible(timeout=LONG)
        shots(page, "distil-running-1280.png")
        says(page, "Done: 6 rounds")
        playwright.expect(page.locator("#distil-result")).to_contain_text("badnet_sq to class 0")
        playwright.expect(page.locator("#distil-pictures img").first).to_be_visible()
        with page.expect_download() as download:
            page.locator("#distil-download").click()
        assert download.value.suggested_filename == "student.zip"
        page.get_by_text("Push it to the Hub").click()
        token = page.locator("#push-token input")
        token.focus()
        playwright.expect(token).to_have_attribute("autocomplete", "off")
        assert token.get_attribute("type") == "password"
        page.get_by_label("Repository").fill("acme/from-the-page")
        token.fill(WRITE)
        page.get_by_role("button", name="Push", exact=True).press("Enter")
        playwright.expect(page.locator("#push-outcome")).to_contain_text(
            "acme/from-the-page at commit", timeout=LONG
        )
        playwright.expect(token).to_have_value("")
        assert WRITE not in page.content() and WRITE not in page.evaluate(KEPT)
        see_all(page)
        shots(page, "distil-done-1280.png")
        fits(page)
    assert app.holding(WRITE) == []
    wait(lambda: not app.folders())


def test_a_cancel_and_another_teacher_on_a_telephone(app, browser, shots):
    with visit(browser, app.address, 390) as page:
        open_tab(page, "Distill")
        begin(page, 5000)
        says(page, "Starting")
        shots(page, "distil-starting-390.png")
        page.get_by_role("button", name="Cancel", exact=True).press("Enter")
        says(page, "Cancelled")
        assert app.runs() == []
        page.locator("#distil-teacher input").click()
        page.get_by_role("option", name="Files that I upload").click()
        playwright.expect(page.locator("#distil-files")).to_be_visible(timeout=PATIENCE)
        begin(page, 5)
        playwright.expect(page.get_by_text("config.json is missing")).to_be_visible(timeout=PATIENCE)
        page.locator("#distil").get_by_text("More settings").click()
        see_all(page)
        shots(page, "distil-files-390.png")
        fits(page)


def test_a_reload_ends_the_run(app, browser, shots):
    cut_short = ("AbortError", "Connection errored out")
    with visit(browser, app.address, cut_short=cut_short, color_scheme="dark") as page:
        open_tab(page, "Distill")
        begin(page, 5000)
        wait(app.runs)
        says(page, "Starting")
        shots(page, "distil-dark-1280.png")
        page.reload()
        wait(lambda: not app.runs() and not app.folders())
        page.locator("#inspect-progress").wait_for()
        open_tab(page, "Distill")
        says(page, "Nothing is running")
