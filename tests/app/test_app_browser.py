"""The page in a real browser, each tab used as a person would: Debian's Chromium driven by Playwright."""

import re
from pathlib import Path

import pytest
from app_server import hostile_folder, serving
from browser import PATIENCE, fits, open_tab, playwright, see_all, visit
from missing import needs_browser

pytestmark = needs_browser
WIDTHS = (1280, 390)


@pytest.fixture
def address(app):
    return app[1]


def verdicts(page):
    return [text.strip() for text in page.locator("#answers .abd-verdict").all_inner_texts()]


def wait_for_verdict(page, place, text):
    playwright.expect(page.locator("#answers .abd-verdict").nth(place)).to_contain_text(text)


@pytest.mark.parametrize("width", WIDTHS)
def test_first_screen_shows_the_effect(browser, address, shots, width):
    with visit(browser, address, width) as page:
        said = verdicts(page)
        assert (
            "The trigger decides" in said[0] and "The trigger decides" in said[1] and "Not moved" in said[2]
        )
        see_all(page)
        shots(page, f"try-it-{width}.png")
        fits(page)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_tab(browser, address, shots, width):
    with visit(browser, address, width) as page:
        open_tab(page, "Compare")
        playwright.expect(page.locator("#comparison")).to_contain_text("0.914")
        playwright.expect(page.locator("#scatter img")).to_be_visible()
        see_all(page)
        shots(page, f"compare-{width}.png")
        fits(page)
        with page.expect_download() as download:
            page.locator("#download-csv").click()
        assert Path(download.value.path()).read_text().startswith("model,kind,trigger")
        open_tab(page, "What the teacher taught")
        playwright.expect(page.locator("#facts")).to_contain_text("took out the direction")
        see_all(page)
        for part in ("curves", "rates", "histogram"):
            playwright.expect(page.locator(f"#{part} img")).to_be_visible()
        playwright.expect(page.locator("#evidence")).to_contain_text("52 of 256 images")
        playwright.expect(page.locator("#marked .thumbnail-item")).to_have_count(24)
        playwright.expect(page.locator("#patterns")).to_contain_text("L2 norm 1")
        shots(page, f"taught-{width}.png")
        fits(page)
        page.get_by_role("radio", name="plain").click()
        playwright.expect(page.locator("#facts")).to_contain_text("as it is")
        for part in ("evidence", "marked", "histogram", "patterns"):
            playwright.expect(page.locator(f"#{part}")).to_be_hidden()
        playwright.expect(page.locator("#rates img")).to_be_visible()


def test_another_image_and_trigger(browser, address, shots):
    with visit(browser, address) as page:
        page.locator("#examples button.thumbnail-item, #examples .thumbnail-lg").nth(6).click()
        playwright.expect(page.locator("#answers .abd-card").nth(2)).to_contain_text("clean: 7")
        page.locator("#size input").fill("9")
        page.locator("#size input").press("Enter")
        playwright.expect(page.get_by_text("at least 9x9")).to_be_visible(timeout=PATIENCE)
        page.locator("#size input").fill("1")
        page.locator("#size input").press("Enter")
        page.locator("#trigger input").click()
        page.get_by_role("option", name=re.compile("blend", re.I)).last.click()
        playwright.expect(page.locator("#strength")).to_be_visible(timeout=PATIENCE)
        playwright.expect(page.locator("#size")).to_be_hidden()
        page.get_by_text("A picture of your own").click()
        shots(page, "blend-1280.png")


def choose_trigger(page, name):
    page.locator("#trigger input").click()
    page.get_by_role("option", name=re.compile(f"^{name}", re.I)).last.click()


def painted(page):
    """Pixels of the canvas that are painted."""
    return page.locator("#drawing canvas").evaluate(
        """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
        .filter((level, i) => i % 4 === 3 && level).length"""
    )


def test_a_trigger_is_painted_with_pointer_and_keys(browser, address, shots):
    with visit(browser, address) as page:
        choose_trigger(page, "drawn")
        playwright.expect(page.locator("#answers .abd-verdict").first).to_contain_text("Not moved")
        canvas = page.locator("#drawing canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        pixel = box["width"] / 8
        for row in (6.5, 7.5):
            page.mouse.move(box["x"] + 6.5 * pixel, box["y"] + row * pixel)
            page.mouse.down()
            page.mouse.move(box["x"] + 7.5 * pixel, box["y"] + row * pixel, steps=3)
            page.mouse.up()
        wait_for_verdict(page, 0, "The trigger decides")
        wait_for_verdict(page, 2, "Not moved")
        assert painted(page) == 4
        shots(page, "drawn-1280.png")
        page.locator("#drawing button", has_text="Clear").click()
        wait_for_verdict(page, 0, "Not moved")
        canvas.focus()
        for key in ("Space", "ArrowLeft", "Space", "ArrowUp", "Space", "ArrowRight", "Space"):
            page.keyboard.press(key)
        wait_for_verdict(page, 0, "The trigger decides")
        assert painted(page) == 4
        page.keyboard.press("Delete")
        assert painted(page) == 3


def test_the_webcam_is_used_when_it_is_chosen(browser, address, shots):
    with visit(browser, address, permissions=["camera"]) as page:
        page.get_by_text("A picture of your own").click()
        page.locator("button[aria-label='Clear'], button[aria-label='Remove Image']").first.click()
        assert page.locator("#picture video").count() == 0
        page.locator(
            "#picture button[aria-label*='ebcam'], #picture button[aria-label*='amera']"
        ).first.click()
        page.locator("#picture").get_by_text(re.compile("access webcam", re.I)).click()
        playwright.expect(page.locator("#picture video")).to_be_visible(timeout=PATIENCE)
        before = page.locator("#clean img").get_attribute("src")
        page.wait_for_timeout(500)
        page.locator("#picture button[aria-label*='apture'], #picture .button-wrap button").first.click()
        playwright.expect(page.locator("#clean img")).not_to_have_attribute("src", before)
        shots(page, "webcam-1280.png")


def test_visitors_do_not_see_each_other_and_reloading_starts_fresh(browser, address):
    reloaded = {"cut_short": ("AbortError", "Connection errored out")}  # on a slow machine
    with visit(browser, address, **reloaded) as one, visit(browser, address, 390, **reloaded) as other:
        first = verdicts(other)
        choose_trigger(one, "blend")
        one.locator("#examples button.thumbnail-item, #examples .thumbnail-lg").nth(6).click()
        playwright.expect(one.locator("#answers")).to_contain_text("clean: 7")
        playwright.expect(one.locator("#strength")).to_be_visible(timeout=PATIENCE)
        other.locator("#margin input").fill("1")
        other.locator("#margin input").press("Enter")
        playwright.expect(other.locator("#answers")).to_contain_text("clean: 1")
        other.wait_for_timeout(500)
        assert "blend" not in other.locator("#trigger input").input_value()
        assert "blend" in one.locator("#trigger input").input_value()
        playwright.expect(one.locator("#answers")).to_contain_text("clean: 7")
        for page in (one, other):
            page.reload()
            open_tab(page, "Try it")
            page.locator("#answers .abd-card").first.wait_for()
            assert verdicts(page) == first
            assert "badnet_sq" in page.locator("#trigger input").input_value()
            assert page.locator("#margin input").input_value() == "0"


def test_on_a_phone_the_controls_come_before_the_answers(browser, address):
    with visit(browser, address, 390) as page:
        places = [
            page.locator(name).bounding_box()["y"] for name in ("#examples", "#trigger", "#answers", "#clean")
        ]
        assert places == sorted(places)
        assert places[2] < 900, "the first verdict is on the first screen"


@pytest.mark.parametrize("width", WIDTHS)
def test_dark(browser, address, shots, width):
    with visit(browser, address, width, color_scheme="dark") as page:
        see_all(page)
        shots(page, f"try-it-dark-{width}.png")


def test_names_of_strangers_run_nothing(browser, shots, tmp_path):
    with serving(hostile_folder(tmp_path / "model")) as (address, _), visit(browser, address) as page:
        playwright.expect(page.locator("#answers")).to_contain_text("<script>window.hacked = 1</script>")
        page.locator("#target input").click()
        playwright.expect(page.get_by_role("option").first).to_contain_text("<script>")
        page.get_by_role("option").nth(1).click()
        page.get_by_text("All numbers").last.click()
        playwright.expect(page.locator("#numbers")).to_contain_text("labels")
        shots(page, "hostile-try-it.png")
        open_tab(page, "Compare")
        playwright.expect(page.locator("#comparison")).to_contain_text("<img src=x")
        open_tab(page, "What the teacher taught")
        playwright.expect(page.locator("#facts")).to_contain_text("<img src=x onerror")
        see_all(page)
        shots(page, "hostile-taught.png")
        assert page.evaluate("window.hacked") is None
        strange = '#answers img:not([src^="data:image/png"]), #facts img, #comparison img'
        assert page.locator(strange).count() == 0
