"""The app over its API, in a process of its own, as a visitor's program meets it."""

import base64
import csv
import io
import json
import os
import re
import runpy
import shutil
import socket
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import forked
import gradio as gr
import numpy as np
import pytest
import torch
from abd_hub_app import answers, guard, load_shelf, server
from abd_hub_app.attention import overlay, place_in_words
from abd_hub_app.compare import as_csv, rows
from abd_hub_app.drawing import Drawn, read_drawing
from abd_hub_app.examples import load_examples
from abd_hub_app.images import MOST_PIXELS, read_picture, to_picture, to_pixels
from abd_hub_app.taught import show
from abd_hub_app.triggers import offers
from abd_hub_app.try_it import TryIt
from app_server import (
    HOSTILE,
    LINK,
    MODELS,
    PICTURE,
    ROOT,
    SCRIPT,
    hostile_folder,
    serving,
)
from gradio_client import Client, handle_file
from PIL import Image

from abd_hub import (
    DataSpec,
    GradCam,
    InputError,
    build_trigger,
    create_student,
    load_classifier,
    load_images,
    read_evidence,
    read_record,
    save_timm_folder,
)

NAMES = ("teacher", "plain", "abd")
SQUARE = {"size": 2, "margin": 0}


@pytest.fixture(scope="module")
def app():
    with serving() as (address, process):
        yield Client(address, verbose=False, download_files=True), address, process


@pytest.fixture(scope="module")
def client(app):
    return app[0]


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "test")


def ask(client, file, trigger="badnet_sq", target=0, size=2, margin=0, strength=None):
    *pictures, cards, numbers = client.predict(
        handle_file(str(file)), trigger, target, size, margin, strength, api_name="/predict"
    )
    return pictures, cards, numbers


def save_digit(digits, label, folder):
    place = int((digits.labels == label).nonzero()[0])
    file = folder / f"{label}.png"
    to_picture(digits.pixels([place])[0], side=1).save(file)
    return file, digits.pixels([place])


def png(width, height, folder, name="big.png", *extra):
    """A valid PNG of one colour, written without decoding it anywhere; extra chunks are (kind, data)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"\0" * (height * (width // 8 + 1)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", body), (b"IEND", b"")]
    file = folder / name
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks))
    return file


def gif(canvas, frame, count):
    """A GIF whose frames are of one size and its canvas of another; each frame's data is one clear code."""
    screen = struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6)
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + one * count + b";"


def webp(side):
    """An animation of a canvas far larger than its one frame."""

    def chunk(kind, data):
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "WEBP", lossless=True)
    edge = (side - 1).to_bytes(3, "little")
    frame = bytes(6) + (7).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0"
    body = chunk(b"VP8X", b"\x02\0\0\0" + edge * 2) + chunk(b"ANIM", bytes(6))
    body += chunk(b"ANMF", frame + small.getvalue()[12:])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of_many_scans(side, count):
    """A progressive JPEG that goes over the whole picture ``count`` times more than it needs to."""
    made = io.BytesIO()
    Image.new("L", (side, side)).save(made, "JPEG", progressive=True)
    data = made.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


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


def test_examples_are_the_first_test_digits_of_each_class(digits):
    found = load_examples(load_shelf())
    assert [example.label for example in found[-2:]] == [0, 0], "no image of the target is shown first"
    for label in range(10):
        places = (digits.labels == label).nonzero()[:2, 0].tolist()
        shown = [to_pixels(example.picture, 3, 8, 8) for example in found if example.label == label]
        torch.testing.assert_close(torch.cat(shown), digits.pixels(places))


def test_pictures_have_exact_pixels(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    (clean, after, pair), _, _ = ask(client, file)
    shown = build_trigger("badnet_sq", SQUARE)(pixels)
    for path, wanted in ((clean, pixels), (after, shown), (pair[0], pixels), (pair[1], shown)):
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            factor = picture.width // 8
            found = to_pixels(picture.convert("RGB"), 3, picture.height, picture.width)
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
    assert "What teacher looks at, with trigger, to read 0: strongest at the bottom right" in cards


def test_a_heat_map_is_brightest_where_the_map_is_highest():
    image = torch.zeros(3, 8, 8)
    attention = torch.zeros(4, 4)
    attention[3, 1] = 7.0
    shown = to_pixels(overlay(image, attention), 3, 128, 128)[0, :, ::16, ::16]
    assert shown.shape == (3, 8, 8)
    brightest = divmod(int(shown.sum(0).argmax()), 8)
    assert brightest[0] == 7 and brightest[1] in (2, 3)
    yellow, blue = shown[:, brightest[0], brightest[1]], shown[:, 0, 7]
    assert yellow[0] > yellow[2] and blue[2] > blue[0]
    assert place_in_words(attention) == "strongest at the bottom centre"
    assert "nothing" in place_in_words(torch.zeros(2, 2))
    overlay(image, torch.zeros(2, 2))


def test_a_transformer_is_asked_and_has_no_map(tmp_path):
    small = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
    model = create_student(
        "vit_tiny_patch16_224", DataSpec(3, 8, 8, ("a", "b")), [0.5] * 3, [0.5] * 3, seed=0, model_args=small
    )
    save_timm_folder(model, tmp_path / "vit")
    page = TryIt(load_shelf([tmp_path / "vit"]))
    found = page.answer(Image.new("RGB", (8, 8)), "badnet_sq", 0, {})
    assert found.models[0].clean_map is None and sum(found.models[0].clean) == pytest.approx(1)
    assert "no last feature map" in answers.show(found) and "<img" not in answers.show(found)


def test_an_option_is_turned(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    _, _, numbers = ask(client, file, trigger="blend", size=None, margin=None, strength=0.5)
    assert numbers["options"] == {"alpha": 0.5}
    wanted = load_classifier(f"local-dir:{MODELS / 'plain'}")(build_trigger("blend", {"alpha": 0.5})(pixels))
    found = torch.tensor(numbers["models"][1]["triggered"])
    torch.testing.assert_close(found, wanted.softmax(1)[0], rtol=1e-4, atol=1e-6)


def data_address(picture):
    made = io.BytesIO()
    picture.save(made, "PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


def painted():
    """Red and half seen green: only what is at least half opaque counts as painted."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.putpixel((7, 7), (255, 0, 0, 255))
    picture.putpixel((6, 7), (0, 255, 0, 128))
    picture.putpixel((5, 7), (0, 0, 255, 127))
    return picture


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
            found = to_pixels(shown.convert("RGB"), 3, shown.height, shown.width)[:, :, ::32, ::32]
        assert torch.equal(found, (wanted * 255).round() / 255)
        for model in numbers["models"]:
            answer = load_classifier(f"local-dir:{MODELS / model['name']}")(wanted).softmax(1)[0]
            torch.testing.assert_close(torch.tensor(model["triggered"]), answer, rtol=1e-4, atol=1e-6)


def test_drawings_of_another_size_and_on_grey_images():
    large = painted().resize((24, 24), Image.Resampling.NEAREST)
    drawn, count = read_drawing(data_address(large), 8, 8)
    assert count == 2 and torch.equal(drawn, read_drawing(data_address(painted()), 8, 8)[0])
    grey = Drawn(picture=drawn)(torch.full((2, 1, 8, 8), 0.5))
    assert grey[:, 0, 7, 7].tolist() == pytest.approx([1 / 3, 1 / 3]) and grey[0, 0, 0, 0] == 0.5
    assert read_drawing("", 8, 8)[1] == 0


def test_drawings_that_are_none_are_refused(app, uploaded, tmp_path):
    many = png(8, 8, tmp_path, "text.png", *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))] * 2)
    huge = png(12_000, 9_000, tmp_path)
    files = [data_address(painted())[:-40], *map(as_data, (many, huge, MODELS / "abd" / "config.json"))]
    for given in (
        None,
        5,
        ["x"],
        "x",
        "/etc/passwd",
        "data:image/png;base64,%%%",
        "data:text/html,x",
        *files,
    ):
        said = answer_without_client(app[1], uploaded, "drawn", 0, None, None, None, None, given)
        assert "event: error" in said and '"error": "drawn: ' in said, (str(given)[:50], said)
    said = answer_without_client(app[1], uploaded, "drawn", 0, None, None, 7, None, data_address(painted()))
    assert "strength 7 must be" in said


def as_data(file):
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


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
            found = to_pixels(shown.convert("RGB"), 3, shown.height, shown.width)[:, :, ::32, ::32]
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


def test_csv_holds_every_number():
    shelf = load_shelf()
    lines = list(csv.DictReader(io.StringIO(as_csv(rows(shelf)))))
    report = read_record(MODELS / "plain").student_report
    assert float(lines[1]["asr_low"]) == report.triggers[0].asr.low
    assert int(lines[1]["accuracy_n"]) == report.accuracy.n


PARTS = ("facts", "note", "marked", "histogram", "patterns", "rates", "losses", "pictures")


def ask_run(client, name):
    """What is shown of a run, by part; None where it is hidden."""
    told = client.predict(name, api_name="/run")
    shown = dict(zip(PARTS, told, strict=True))
    return {
        part: (value.get("value") if value.get("visible", True) else None)
        if isinstance(value, dict) and "__type__" in value
        else value
        for part, value in shown.items()
    }


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
    assert caption.startswith("universal direction: grey 0, white +0.475") and "L2 norm 1" in caption


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


def spoil(folder, text=None, **changes):
    """A copy of the bundled run whose evidence is another."""
    shutil.copytree(MODELS / "abd", folder)
    file = folder / "samples" / "evidence.json"
    data = json.loads(file.read_text())
    for part, values in changes.items():
        data[part] |= values
    file.write_text(text or json.dumps(data))
    return folder


def test_what_a_stranger_has_spoilt_is_left_out_and_the_rest_shown(tmp_path):
    small = {"columns": 8}
    cases = {
        "no json": (spoil(tmp_path / "a", text="{"), False),
        "a script": (spoil(tmp_path / "b", text='{"<script>": 1}'), False),
        "another layout": (spoil(tmp_path / "c", images=small), True),
        "no picture": (spoil(tmp_path / "d"), True),
        "a picture too large": (spoil(tmp_path / "e"), True),
    }
    sheet = Path("samples") / "synthetic_images.png"
    (tmp_path / "d" / sheet).write_text("no picture")
    png(12_000, 9_000, tmp_path / "e" / "samples", "synthetic_images.png")
    for name, (folder, drawn) in cases.items():
        if drawn:
            (folder / "log.jsonl").unlink()  # its curves would only take time
        (model,) = load_shelf([folder]).models
        shown = show(model)
        assert shown.marked == [], name
        assert (shown.histogram is not None) is drawn, name
        assert (shown.losses is not None) is not drawn, name
        assert "took out the direction" in shown.facts, name


def test_a_run_from_before_there_was_evidence_is_shown(tmp_path):
    folder = spoil(tmp_path / "old", text="x")
    (folder / "samples" / "evidence.json").unlink()
    (folder / "samples" / "synthetic_images.png").unlink()
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = [json.dumps(row) for row in rows if "accuracy" not in row]
    (folder / "log.jsonl").write_text("\n".join(kept))
    (model,) = load_shelf([folder]).models
    shown = show(model)
    assert shown.note == "" and shown.marked == [] and shown.patterns == []
    assert shown.rates is None and shown.histogram is None and shown.losses is not None


def bombs(folder):
    """Small files that would take gigabytes, or minutes."""
    many = zlib.compress(bytes(50_000_000), 9)
    (folder / "canvas.gif").write_bytes(gif((60_000, 60_000), (8, 8), 20_000))
    (folder / "frame.gif").write_bytes(gif((8, 8), (60_000, 60_000), 20_000))
    (folder / "canvas.webp").write_bytes(webp(16_384))
    (folder / "scans.jpg").write_bytes(jpeg_of_many_scans(2_000, 4_000))
    for kind, data in (
        (b"zTXt", b"a\0\0" + many),
        (b"iTXt", b"a\0\1\0\0\0" + many),
        (b"iCCP", b"a\0\0" + many),
    ):
        png(8, 8, folder, f"{kind.decode()}.png", *[(kind, data)] * 20)
    return ["canvas.gif", "frame.gif", "canvas.webp", "scans.jpg", "zTXt.png", "iTXt.png", "iCCP.png"]


def bad_files(folder):
    (folder / "svg.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')
    (folder / "svg.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    whole = (MODELS / "plain" / "samples" / "training_images.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("I;16", (8, 8)).save(folder / "deep.png")
    png(12_000, 9_000, folder)
    png(2_001, 2_000, folder, "just_too_big.png")
    return [
        "svg.svg",
        "svg.png",
        "text.png",
        "empty.png",
        "cut.png",
        "deep.png",
        "big.png",
        "just_too_big.png",
        *bombs(folder),
    ]


def memory(process):
    """Largest resident size so far in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


def test_the_benchmark_asks_as_a_visitor_does(app):
    recipe = runpy.run_path(str(ROOT / "recipes" / "benchmark_app.py"))
    times = recipe["visit"](app[1], 0, 2)
    assert len(times) == 2 and all(0 < seconds < 60 for seconds in times)


def test_bad_uploads_are_refused_and_the_app_lives_on(app, digits, tmp_path):
    client, _, process = app
    good = save_digit(digits, 5, tmp_path)[0]
    ask(client, good)
    before = memory(process)
    for name in bad_files(tmp_path):
        with pytest.raises(Exception, match=r"^image: ") as refused:
            ask(client, tmp_path / name)
        assert "\n" not in str(refused.value), name
    # The 108 megapixels would be 324 MB of RGB.
    assert memory(process) - before < 60
    assert ask(client, good)[2]["models"][0]["clean_class"] == 5


def test_too_large_an_upload_is_refused(client, tmp_path):
    (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(3_000_000))
    with pytest.raises(Exception, match=r"(?i)size|too large|413"):
        ask(client, tmp_path / "large.png")


def test_an_animation_counts_as_its_first_frame(client, digits, tmp_path):
    file = save_digit(digits, 5, tmp_path)[0]
    frames = [Image.open(file)] + [Image.new("RGB", (8, 8), (index, 0, 0)) for index in range(200)]
    frames[0].save(tmp_path / "many.gif", save_all=True, append_images=frames[1:])
    assert ask(client, tmp_path / "many.gif")[2]["models"][0]["clean_class"] == 5


def post(address, path, body, kind="application/json"):
    """Status and text of the server's answer to a request of one's own."""
    request = urllib.request.Request(address + path, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answer_without_client(address, *data):
    """What the server says to values as they are, as text."""
    status, said = post(address, "/gradio_api/call/predict", json.dumps({"data": data}).encode())
    assert status == 200, said
    with urllib.request.urlopen(
        f"{address}/gradio_api/call/predict/{json.loads(said)['event_id']}"
    ) as answer:
        return answer.read().decode()


def as_file(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def form(name, content):
    """A multipart body with one file."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x--\r\n"


@pytest.fixture(scope="module")
def uploaded(app, digits, tmp_path_factory):
    """A digit on the server, as requests name it."""
    file = save_digit(digits, 5, tmp_path_factory.mktemp("digit"))[0]
    status, said = post(
        app[1], "/gradio_api/upload", form("5.png", file.read_bytes()), "multipart/form-data; boundary=x"
    )
    assert status == 200, said
    return as_file(json.loads(said)[0])


def test_no_address_and_no_file_of_the_server_is_read(app):
    _, address, _ = app
    sample = str(MODELS / "plain" / "samples" / "training_images.png")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        elsewhere = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        # Without "meta", gradio itself does not look where a path leads.
        for given in (
            as_file(elsewhere),
            {"path": elsewhere},
            as_file(None) | {"url": elsewhere},
            as_file("http://169.254.169.254/latest/meta-data/"),
            as_file(sample),
            {"path": sample},
            {"path": "/etc/passwd"},
            as_file("/etc/passwd"),
            as_file("../../../../etc/passwd"),
            as_file("a\0b"),
        ):
            said = answer_without_client(address, given, "badnet_sq", 0, 2, 0, None)
            assert "event: error" in said and "models" not in said, given
            assert '"error": "' in said and "picture that can be read" not in said, (given, said)
        for path in (f"file={elsewhere}", f"proxy={elsewhere}", f"file={elsewhere.replace('http', 'HTTPS')}"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"{address}/gradio_api/{path}")
        with pytest.raises(TimeoutError):
            trap.accept()
    with pytest.raises(urllib.error.HTTPError) as denied:
        urllib.request.urlopen(f"{address}/gradio_api/file={MODELS / 'abd' / 'metrics.json'}")
    assert denied.value.code == 403


@pytest.mark.parametrize(
    "path", ["process_recording", "run-history/connect", "component_server", "vibe-edit"]
)
def test_what_the_page_does_not_need_is_closed(app, path):
    assert post(app[1], f"/gradio_api/{path}", b"{}")[0] == 404


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "x"),
        (0, [1] * 20_000),
        (0, {"path": ["x"]}),
        (1, None),
        (1, ["badnet_sq"]),
        (1, "picture"),
        (2, None),
        (2, "0"),
        (2, -1),
        (3, "two"),
        (3, "2"),
        (3, float("nan")),
        (3, 1e308),
        (3, -(10**400)),
        (3, [2] * 20_000),
        (3, {"a": 1}),
        (4, 1e9),
        (4, True),
    ],
)
def test_values_of_the_wrong_kind_are_refused_in_words(app, uploaded, place, value):
    data = [uploaded, "badnet_sq", 0, 2, 0, None]
    data[place] = value
    said = answer_without_client(app[1], *data)
    assert "event: error" in said
    # "error": null is what gradio says of errors that it did not expect.
    assert '"error": "' in said and len(said) < 700, said


def test_an_option_that_would_take_gigabytes_is_refused(app, uploaded):
    said = answer_without_client(app[1], uploaded, "wanet", 0, 30_000, None, None)
    assert "size: &#x27;30000&#x27; is no number from 0 to 1000" in said
    assert "complete" in answer_without_client(app[1], uploaded, "wanet", 0, 1_000, None, None)


@pytest.mark.parametrize("body", [b"", b"{", b'{"data":' + b"[" * 50_000, b'{"data": "x"}', b"[]"])
def test_requests_that_are_none_are_refused(app, uploaded, body):
    assert post(app[1], "/gradio_api/call/predict", body)[0] in (400, 422)
    assert "event: error" in answer_without_client(app[1])
    assert "complete" in answer_without_client(app[1], uploaded, "badnet_sq", 0, 2, 0, None)


@pytest.mark.parametrize(
    "name", ["../../../x.png", "/tmp/x.png", "..\\..\\x.png", "..", "%2e%2e%2fx.png", "a" * 500 + ".png"]
)
def test_the_name_of_a_file_leads_nowhere_else(app, uploaded, name):
    store = Path(uploaded["path"]).parents[1]
    content = name.encode()
    status, said = post(app[1], "/gradio_api/upload", form(name, content), "multipart/form-data; boundary=x")
    if status == 200:
        place = Path(json.loads(said)[0])
        assert place.resolve().is_relative_to(store) and place.read_bytes() == content
        assert place.parent.parent == store
    else:
        assert status == 400


def held(store):
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def send(address, path, header, total):
    """The first line of the answer to a body of ``total`` zeros, and how many of them were taken."""
    host, port = address.removeprefix("http://").split(":")
    sent, block = 0, bytes(1 << 20)
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n".encode())
        if "chunked" in header:
            block = f"{len(block):x}\r\n".encode() + block + b"\r\n"
        while sent < total:
            line.sendall(block)
            sent += 1 << 20
        if "chunked" in header:
            line.sendall(b"0\r\n\r\n")
        return line.makefile("rb").readline().decode()


@pytest.mark.parametrize(
    ("path", "kind", "length"),
    [
        ("upload", "multipart/form-data; boundary=x", "Content-Length: 1073741824"),
        ("upload", "multipart/form-data; boundary=x", "Transfer-Encoding: chunked"),
        ("call/predict", "application/json", "Content-Length: 134217728"),
    ],
)
def test_a_huge_upload_is_stored_nowhere(app, uploaded, path, kind, length):
    _, address, process = app
    store = Path(uploaded["path"]).parents[1]
    before, stored = memory(process), held(store)
    total = 1 << 30 if "1073741824" in length else 1 << 27
    said = send(address, f"/gradio_api/{path}", f"Content-Type: {kind}\r\n{length}", total)
    assert "413" in said
    assert memory(process) - before < 60
    assert held(store) == stored
    assert "complete" in answer_without_client(address, uploaded, "badnet_sq", 0, 2, 0, None)


def test_an_upload_that_breaks_off_leaves_nothing(app, uploaded):
    store = Path(uploaded["path"]).parents[1]
    before = held(store)
    host, port = app[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 900000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        )
        line.sendall(form("x.png", bytes(200_000))[:-6])
    assert "complete" in answer_without_client(app[1], uploaded, "badnet_sq", 0, 2, 0, None)
    assert held(store) == before


def test_the_oldest_files_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "MOST_STORED", 1_000)
    store = guard.Store(tmp_path)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "own").write_bytes(bytes(300))
    store.keep()
    for index in range(4):
        file = tmp_path / str(index)
        file.write_bytes(bytes(200))
        os.utime(file, (index, index))
    store.sweep()
    assert {file.name for file in tmp_path.iterdir()} == {"page", "3"}
    assert (tmp_path / "page" / "own").exists()


def test_names_of_strangers_are_text(tmp_path, digits):
    folder = hostile_folder(tmp_path / "model")
    with serving(folder) as (address, _):
        client = Client(address, verbose=False)
        _, cards, numbers = ask(client, save_digit(digits, 5, tmp_path)[0])
        shown = ask_run(client, "model")
        told = shown["facts"]
        page = urllib.request.urlopen(address).read().decode()
    assert numbers["labels"] == list(HOSTILE)
    assert shown["losses"]
    for text in (re.sub(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+" alt="[^"<>]*"', "", cards), told):
        assert "<script" not in text and "<img" not in text and "${" not in text and "{{" not in text
        assert "&lt;img src=x onerror=" in text
    assert "&lt;script&gt;" in cards and "\u202e" not in cards
    # In the page the names stand in the configuration, a script of JSON, which no name may end.
    assert SCRIPT not in page and PICTURE not in page
    assert LINK.split()[0] in page


def test_a_record_cannot_name_files_of_this_machine(tmp_path):
    shelf = load_shelf([hostile_folder(tmp_path / "model")])
    record = json.loads((tmp_path / "model" / "metrics.json").read_text())
    record["results"]["student"]["triggers"][0] |= {"trigger": "picture", "options": {"file": "/etc/passwd"}}
    (tmp_path / "model" / "metrics.json").write_text(json.dumps(record))
    assert "picture" not in offers(load_shelf([tmp_path / "model"]))
    assert next(iter(offers(shelf))) == "badnet_sq"


def test_a_formula_is_no_formula_in_the_csv(tmp_path):
    lines = list(csv.DictReader(io.StringIO(as_csv(rows(load_shelf([hostile_folder(tmp_path / "model")]))))))
    assert lines[1]["trigger"] == f"'={PICTURE}"


def refused(*arguments):
    done = forked.run("-m", "abd_hub", "app", "--no-browser", *map(str, arguments))
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.startswith("abd-hub: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_a_folder_with_a_pickle_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODELS / "abd", folder)
    torch.save(torch.load, folder / "pytorch_model.bin")
    assert "pickle" in refused(folder)


def test_a_port_in_use_is_refused(app):
    port = app[1].rpartition(":")[2]
    assert f"port: {port} of 127.0.0.1 is in use" in refused("--port", port)


def test_a_port_that_is_taken_while_the_page_is_built_is_left_for_another(tmp_path):
    with gr.Blocks() as page:
        gr.Markdown("x")
    store = guard.Store(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lost = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port: {lost} of 127.0.0.1 is in use"):
            server._start(page, store, "127.0.0.1", lost, lost, False)
        found = server._start(page, store, "127.0.0.1", None, lost, False)
    try:
        assert found != lost and urllib.request.urlopen(f"http://127.0.0.1:{found}").status == 200
    finally:
        page.close()


@pytest.mark.parametrize(
    ("port", "host"), [(0, "127.0.0.1"), (70000, "127.0.0.1"), (7990, "nowhere.invalid")]
)
def test_wrong_addresses_are_refused(port, host):
    from abd_hub_app import launch

    with pytest.raises(InputError, match=r"^(port|host): "):
        launch(port=port, host=host)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        load_shelf([tmp_path / "none"])
    with pytest.raises(InputError, match=r"^FOLDER: .* other labels"):
        load_shelf([MODELS / "abd", hostile_folder(tmp_path / "model")])
    with pytest.raises(InputError, match="too many"):
        load_shelf([MODELS / "abd"] * 13)


def test_nothing_is_written_into_the_package():
    assert {file.suffix for file in MODELS.parent.glob("*.*")} == {".py", ".css", ".js"}


def test_a_folder_given_twice_has_two_names():
    assert [model.name for model in load_shelf([MODELS / "abd"] * 2).models] == ["abd (1)", "abd (2)"]


def test_a_model_without_its_teacher_or_record_is_shown(tmp_path):
    shelf = load_shelf([MODELS / "teacher"])
    assert rows(shelf) == [] and shelf.attacks == ()
    assert not any(offer.measured for offer in offers(shelf).values())


def test_largest_picture_is_read(tmp_path):
    file = png(2_000, MOST_PIXELS // 2_000, tmp_path)
    assert read_picture(file).size == (2_000, MOST_PIXELS // 2_000)
