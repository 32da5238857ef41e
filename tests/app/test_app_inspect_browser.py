"""The tab "Inspect" in a real browser, with the keyboard alone."""

import pytest
from browser import PATIENCE, fits, playwright, see_all, visit
from distil_server import wait
from missing import needs_browser

pytestmark = [needs_browser, pytest.mark.timeout(900)]
LONG = 2 * PATIENCE


@pytest.fixture(scope="module")
def app(runs_app):
    return runs_app


def tab_to(page, selector, key="Tab", most=40):
    """Presses Tab until the focus is there."""
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by {most} times Tab")


def says(page, place, text):
    playwright.expect(page.locator(place)).to_contain_text(text, timeout=LONG)


def inspect(page):
    """Inspects with few steps, without a mouse."""
    tab_to(page, "#inspect-teacher input")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    tab_to(page, "#inspect-steps input")
    page.keyboard.press("Control+a")
    page.keyboard.type("60")
    tab_to(page, "#inspect-start")
    page.keyboard.press("Enter")
    says(page, "#inspect-progress", "Done")
    says(page, "#inspect-result", "stand")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_an_inspection_by_keyboard(app, browser, shots, width, scheme):
    with visit(browser, app.address, width, tab=None, color_scheme=scheme) as page:
        playwright.expect(page.get_by_role("tab").first).to_have_text("Inspect")
        shots(page, f"inspect-first-{width}-{scheme}.png")
        inspect(page)
        images = page.locator("#inspect-result .abd-pair img")
        assert images.first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        see_all(page)
        shots(page, f"inspect-{width}-{scheme}.png")
        fits(page)

        tab_to(page, "#inspect-result summary:not(details[open] summary)")
        page.keyboard.press("Enter")
        assert page.locator("#inspect-result details[open]").count() == 2
        tab_to(page, "#inspect-plain")
        page.keyboard.press("Enter")
        says(page, "#inspect-step", "Starting")
        shots(page, f"inspect-step-{width}-{scheme}.png")
        tab_to(page, "#inspect-cancel", "Shift+Tab")
        page.keyboard.press("Enter")
        says(page, "#inspect-step", "Cancelled")
        assert app.runs() == []
    wait(lambda: not app.folders())
