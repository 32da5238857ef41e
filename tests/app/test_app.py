"""The app over its API, in a process of its own, as a visitor's program meets it."""

import json
import runpy

import numpy as np
import pytest
import torch
from abd_hub_app.images import to_pixels
from app_server import (
    MODELS,
    NAMES,
    ROOT,
)
from app_visits import SQUARE, ask, ask_run, data_address, painted, save_digit
from gradio_client import handle_file
from PIL import Image

from abd_hub import (
    GradCam,
    build_trigger,
    load_classifier,
    read_evidence,
    read_record,
)


def test_probabilities_are_the_librarys(client, digits, tmp_path):
    file, pixels = save_digit(digits, 7, tmp_path)
    _, cards, numbers = ask(client, file)
    triggered = build_trigger("badnet_sq", SQUARE)(pixels)
    assert [model["name"] for model in numbers["models"]] == list(NAMES)
    for model in numbers["models"]:
        classifier = load_classifier(f"local-dir:{MODELS / model['name']}")
        for kind, images in (("clean", pixels), ("triggered", triggered)):
            wanted = classifier(images).softmax(1)[0]
            torch.testing.assert_close(torch.tensor(model[kind]), wanted, rtol=1e-4, atol=1e-6)
            assert model[f"{kind}_class"] == int(wanted.argmax())
    assert [model["triggered_class"] for model in numbers["models"]] == [0, 0, 7]
    assert numbers["options"] == SQUARE
    assert "The trigger decides" in cards and "Not moved" in cards


def test_pictures_have_exact_pixels(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    (clean, after, pair), _, _ = ask(client, file)
    shown = build_trigger("badnet_sq", SQUARE)(pixels)
    for path, wanted in ((clean, pixels), (after, shown), (pair[0], pixels), (pair[1], shown)):
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            factor = picture.width // 8
            found = to_pixels(picture)
        assert factor >= 16
        assert torch.equal(found[:, :, ::factor, ::factor], (wanted * 255).round() / 255)
        assert torch.equal(
            found, found[:, :, ::factor, ::factor].repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        )


def test_maps_are_the_librarys(client, digits, tmp_path):
    file, pixels = save_digit(digits, 7, tmp_path)
    _, cards, numbers = ask(client, file)
    both = torch.cat([pixels, build_trigger("badnet_sq", SQUARE)(pixels)])
    for model in numbers["models"]:
        found = GradCam(load_classifier(f"local-dir:{MODELS / model['name']}"))(both)
        maps = torch.tensor([model["clean_map"], model["triggered_map"]])
        torch.testing.assert_close(maps, found.maps, rtol=1e-3, atol=1e-5)
        assert found.maps.shape == (2, 2, 2) and found.maps.max() > 0
    assert cards.count('src="data:image/png;base64,') == 6
    assert "Heat map of teacher, with trigger, for 0: strongest at the bottom right" in cards


def test_an_option_is_turned(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    _, _, numbers = ask(client, file, trigger="blend", size=None, margin=None, strength=0.5)
    assert numbers["options"] == {"alpha": 0.5}
    wanted = load_classifier(f"local-dir:{MODELS / 'plain'}")(build_trigger("blend", {"alpha": 0.5})(pixels))
    found = torch.tensor(numbers["models"][1]["triggered"])
    torch.testing.assert_close(found, wanted.softmax(1)[0], rtol=1e-4, atol=1e-6)


def test_a_drawn_trigger_is_put_on_and_every_model_is_asked(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    image, drawn = handle_file(str(file)), data_address(painted())
    for strength in (None, 0.25):
        *pictures, _, numbers = client.predict(
            image, "drawn", 0, None, None, strength, drawn=drawn, api_name="/predict"
        )
        share = strength or 1
        wanted = pixels.clone()
        for column, paint in ((7, (1.0, 0.0, 0.0)), (6, (0.0, 1.0, 0.0))):
            wanted[0, :, 7, column] = (1 - share) * wanted[0, :, 7, column] + share * torch.tensor(paint)
        assert numbers["options"] == {"alpha": share, "painted": 2}
        with Image.open(pictures[1]) as shown:
            found = to_pixels(shown)[:, :, ::32, ::32]
        assert torch.equal(found, (wanted * 255).round() / 255)
        for model in numbers["models"]:
            answer = load_classifier(f"local-dir:{MODELS / model['name']}")(wanted).softmax(1)[0]
            torch.testing.assert_close(torch.tensor(model["triggered"]), answer, rtol=1e-4, atol=1e-6)


def test_a_trigger_goes_into_another_corner(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    for corner, high, wide in (
        ("top left", slice(1, 3), slice(1, 3)),
        ("bottom left", slice(5, 7), slice(1, 3)),
    ):
        *pictures, _, numbers = client.predict(
            handle_file(str(file)), "badnet_sq", 0, 2, 1, None, corner=corner, api_name="/predict"
        )
        wanted = pixels.clone()
        wanted[:, :, high, wide] = 1
        with Image.open(pictures[1]) as shown:
            found = to_pixels(shown)[:, :, ::32, ::32]
        assert torch.equal(found, (wanted * 255).round() / 255)
        assert numbers["options"] == {"size": 2, "margin": 1, "corner": corner}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 9}, "at least 9x9"),
        ({"size": 1.5}, "whole number"),
        ({"trigger": "blend", "strength": 7}, "alpha"),
    ],
)
def test_wrong_options_are_told(client, digits, tmp_path, given, message):
    with pytest.raises(Exception, match=message):
        ask(client, save_digit(digits, 3, tmp_path)[0], **given)


def test_comparison_is_what_the_records_hold(client):
    found = client.predict(api_name="/compare")
    record = read_record(MODELS / "abd")
    reports = (record.teacher_report, read_record(MODELS / "plain").student_report, record.student_report)
    assert [row["model"] for row in found] == list(NAMES)
    for row, report in zip(found, reports, strict=True):
        assert row["accuracy"] == vars(report.accuracy)
        assert row["asr"] == vars(report.triggers[0].asr)
        assert (row["trigger"], row["target"], row["options"]) == ("badnet_sq", 0, SQUARE)


def captions(gallery):
    return [entry["caption"] for entry in gallery or ()]


def test_run_tells_what_its_record_says(client):
    shown = ask_run(client, "abd")
    assert "took out the direction towards class 0" in shown["facts"]
    assert "shuffling_vaccine: active" in shown["facts"]
    assert "used without a vaccine check" in shown["facts"]
    assert captions(shown["pictures"]) == ["verdicts badnet sq 0"]
    plain = ask_run(client, "plain")
    assert captions(plain["pictures"]) == ["training images", "verdicts badnet sq 0"]
    assert not plain["marked"] and not plain["note"] and not plain["histogram"] and not plain["patterns"]
    assert plain["rates"] and plain["losses"]


def test_marked_images_are_the_runs_with_their_numbers(client):
    shown = ask_run(client, "abd")
    found = read_evidence(MODELS / "abd")
    kl, bad = found.divergence.kl, found.divergence.suspicious
    assert f"{sum(bad)} of 256 images" in shown["note"] and "there was no check" in shown["note"]
    below = sum(value < found.divergence.threshold for value in kl)
    assert f"{below} lie below it and {256 - below} above" in shown["note"]
    suspicious = sorted((place for place in range(256) if bad[place]), key=kl.__getitem__)[:12]
    order = suspicious + [place for place in range(256) if not bad[place]][:12]
    wanted = [f"divergence {kl[p]:.3g} nats" + ", suspicious" * bad[p] for p in order]
    assert captions(shown["marked"]) == wanted
    with Image.open(MODELS / "abd" / "samples" / "synthetic_images.png") as sheet:
        levels = np.asarray(sheet.convert("RGB"))
    for place, entry in zip(order, shown["marked"], strict=True):
        with Image.open(entry["image"]) as picture:
            assert picture.format == "PNG"
            seen = np.asarray(picture.convert("RGB"))
        tile = levels[place // 16 * 8 :, place % 16 * 8 :][:8, :8]
        assert (seen[8:104, 8:104] == tile.repeat(12, 0).repeat(12, 1)).all()
    (caption,) = captions(shown["patterns"])
    assert caption.startswith("universal direction: gray 0, white +0.475") and "L2 norm 1" in caption


def test_the_models_that_come_along_are_small_and_were_watched(client):
    """Their weights alone are 486 kB."""
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 700_000
    for name in ("plain", "abd"):
        record = read_record(MODELS / name)
        rows = [json.loads(line) for line in (MODELS / name / "log.jsonl").read_text().splitlines()]
        (last,) = [row for row in rows if row["round"] == record.rounds and "accuracy" in row]
        report = record.student_report
        assert (last["accuracy"], last["asr_badnet_sq_0"]) == (
            report.accuracy.value,
            report.triggers[0].asr.value,
        )


def test_the_benchmark_asks_as_a_visitor_does(app):
    recipe = runpy.run_path(str(ROOT / "recipes" / "benchmark_app.py"))
    times = recipe["visit"](app[1], 0, 2)
    assert len(times) == 2 and all(0 < seconds < 60 for seconds in times)
