"""The app over its API, in a process of its own, as a visitor's program meets it."""

import csv
import io
import json
import shutil
import socket
import struct
import subprocess
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from abd_hub_app import load_shelf
from abd_hub_app.compare import as_csv, rows
from abd_hub_app.images import MOST_PIXELS, read_picture, to_picture, to_pixels
from abd_hub_app.taught import show
from abd_hub_app.triggers import offers
from app_server import COMMAND, ENVIRONMENT, HOSTILE, LINK, MODELS, PICTURE, SCRIPT, hostile_folder, serving
from gradio_client import Client, handle_file
from PIL import Image

from abd_hub import InputError, build_trigger, load_classifier, load_images, read_evidence, read_record

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


def png(width, height, folder, name="big.png"):
    """A valid PNG of one colour, written without decoding it anywhere."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"\0" * (height * (width // 8 + 1)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    file = folder / name
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return file


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
            found = to_pixels(picture.convert("RGB"), 3, picture.height, picture.width)
        assert factor >= 16
        assert torch.equal(found[:, :, ::factor, ::factor], (wanted * 255).round() / 255)
        assert torch.equal(
            found, found[:, :, ::factor, ::factor].repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        )


def test_an_option_is_turned(client, digits, tmp_path):
    file, pixels = save_digit(digits, 3, tmp_path)
    _, _, numbers = ask(client, file, trigger="blend", size=None, margin=None, strength=0.5)
    assert numbers["options"] == {"alpha": 0.5}
    wanted = load_classifier(f"local-dir:{MODELS / 'plain'}")(build_trigger("blend", {"alpha": 0.5})(pixels))
    found = torch.tensor(numbers["models"][1]["triggered"])
    torch.testing.assert_close(found, wanted.softmax(1)[0], rtol=1e-4, atol=1e-6)


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
    ]


def memory(process):
    """Largest resident size so far in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


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


def answer_without_client(address, picture):
    """What the server says to a request of one's own, as text."""
    data = {"data": [picture, "badnet_sq", 0, 2, 0, None]}
    request = urllib.request.Request(
        f"{address}/gradio_api/call/predict", json.dumps(data).encode(), {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/predict/{event}") as answer:
        return answer.read().decode()


def test_no_address_and_no_file_of_the_server_is_read(app):
    _, address, _ = app
    sample = str(MODELS / "plain" / "samples" / "training_images.png")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        elsewhere = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        for given in ({"path": elsewhere}, {"path": None, "url": elsewhere}, {"path": sample}):
            said = answer_without_client(address, {**given, "meta": {"_type": "gradio.FileData"}})
            assert "event: error" in said and "probabilities" not in said and "models" not in said
        with pytest.raises(TimeoutError):
            trap.accept()
    assert "addresses are not fetched" in answer_without_client(
        address, {"path": elsewhere, "meta": {"_type": "gradio.FileData"}}
    )
    with pytest.raises(urllib.error.HTTPError) as denied:
        urllib.request.urlopen(f"{address}/gradio_api/file={MODELS / 'abd' / 'metrics.json'}")
    assert denied.value.code == 403


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
    for text in (cards, told):
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
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
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
    assert {file.suffix for file in MODELS.parent.glob("*.*")} == {".py", ".css"}


def test_a_folder_given_twice_has_two_names():
    assert [model.name for model in load_shelf([MODELS / "abd"] * 2).models] == ["abd (1)", "abd (2)"]


def test_a_model_without_its_teacher_or_record_is_shown(tmp_path):
    shelf = load_shelf([MODELS / "teacher"])
    assert rows(shelf) == [] and shelf.attacks == ()
    assert not any(offer.measured for offer in offers(shelf).values())


def test_largest_picture_is_read(tmp_path):
    file = png(2_000, MOST_PIXELS // 2_000, tmp_path)
    assert read_picture(file).size == (2_000, MOST_PIXELS // 2_000)
