"""What a visitor does with a page of the app: opens it, changes the tab, scrolls."""

from contextlib import contextmanager
from urllib.parse import urlparse

try:
    from playwright import sync_api as playwright
except ImportError:  # whose tests are skipped then
    playwright = None

PATIENCE = 120_000
"""Milliseconds for whatever the page has to do: a busy machine takes ten times as long as an idle one."""
if playwright is not None:
    playwright.expect.set_options(timeout=PATIENCE)


@contextmanager
def visit(browser, address, width=1280, cut_short=(), tab="Try it", **options):
    """A page that at the end has had no console error and has asked no other host for anything.

    It opens the tab "Try it", unless ``tab`` is None. What a page says of requests that leaving it cuts short
    counts only if it is not in ``cut_short``.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    errors, hosts = [], set()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlparse(request.url).netloc))
    page.goto(address)
    page.locator("#inspect-progress").wait_for()
    if tab is not None:
        open_tab(page, tab)
        page.locator("#answers .abd-card").first.wait_for()
    yield page
    context.close()
    told = [error for error in errors if not any(words in error for words in cut_short)]
    assert told == [], told
    assert hosts <= {urlparse(address).netloc, ""}


def open_tab(page, name):
    page.get_by_role("tab").first.wait_for()
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
        return
    tab.click()


def see_all(page):
    """Scrolls down and up, so that pictures that load when they are seen are loaded."""
    for place in (*range(0, page.evaluate("document.body.scrollHeight"), 400), 0):
        page.evaluate(f"window.scrollTo(0, {place})")
        page.wait_for_timeout(60)
    page.wait_for_timeout(300)


def fits(page):
    """Nothing makes the page wider than the screen."""
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 1, wide
