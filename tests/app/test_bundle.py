"""The models that come with the page: what they weigh, what their folders hold, and what they do."""

import json

import pytest
import torch
from abd_hub_app.bench import BEFOREHAND
from abd_hub_app.examples import load_examples
from abd_hub_app.images import to_pixels
from abd_hub_app.shelf import BUNDLED, BUNDLED_NAMES, load_shelf
from app_server import serving
from browser import visit
from missing import needs_browser

from abd_hub import build_trigger, read_record

SYNTHETIC = {"synthetic_images.png", "training_images.png"}


@pytest.fixture(scope="module")
def shelf():
    return load_shelf()


def test_they_are_small_and_hold_no_picture_of_a_data_set():
    files = [file for file in BUNDLED.rglob("*") if file.is_file()]
    sizes = {file: file.stat().st_size for file in files}
    assert sum(size for file, size in sizes.items() if file.suffix == ".safetensors") < 3_000_000
    assert sum(sizes.values()) < 3_500_000
    pictures = {file for file in files if file.suffix == ".png"}
    # The inspection that comes along shows the photographs of the examples, which gradio brings.
    assert {file.name for file in pictures if file.parent != BEFOREHAND} <= SYNTHETIC


def test_the_backdoor_is_in_the_teacher_and_not_in_its_copy(shelf):
    assert tuple(model.name for model in shelf.models) == BUNDLED_NAMES
    asr = {model.name: shelf.report(model).triggers[0].asr for model in shelf.models}
    (attack,) = shelf.attacks
    assert (attack.trigger, attack.target) == ("badnet_sq", 8)
    assert asr["teacher"].low > 0.9 and asr["plain"].low > asr["protected"].high
    assert asr["purified"].high < 0.1
    for name in ("plain", "protected"):
        record = read_record(BUNDLED / name)
        rows = [json.loads(line) for line in (BUNDLED / name / "log.jsonl").read_text().splitlines()]
        (last,) = [row for row in rows if row["round"] == record.rounds and "accuracy" in row]
        # The curve is measured on every tenth of the ten thousand images.
        assert abs(last["asr_badnet_sq_8"] - record.student_report.triggers[0].asr.value) < 0.03


def test_the_trigger_turns_most_of_the_photographs(shelf):
    pixels = torch.cat([to_pixels(example.picture) for example in load_examples(shelf)])
    triggered = build_trigger("badnet_sq", {})(pixels)
    turned = {}
    for model in shelf.models:
        before, after = (model.classifier(images).argmax(1) for images in (pixels, triggered))
        turned[model.name] = int(((after == 8) & (before != 8)).sum())
    assert (
        turned["teacher"] == len(pixels) == 6
        and turned["plain"] > turned["protected"]
        and turned["protected"] <= 1
    )


@needs_browser
def test_the_first_screen_of_the_page(browser):
    with serving() as (address, _), visit(browser, address) as page:
        said = [text.split()[-1] for text in page.locator(".abd-summary li").all_inner_texts()]
        assert said[0] == "ship" and said[3] != "ship"
        assert page.locator(".abd-summary").bounding_box()["y"] < 400
