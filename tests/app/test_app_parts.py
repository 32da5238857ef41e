"""Parts of the app that need no server: files and records of strangers, drawings, tables."""

import csv
import dataclasses
import html
import io
import json
import os
import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import gradio as gr
import pytest
import torch
from abd_hub_app import answers, guard, load_shelf, server
from abd_hub_app.attention import overlay, place_in_words
from abd_hub_app.compare import as_csv, rows
from abd_hub_app.distil_shown import result
from abd_hub_app.drawing import Drawn, read_drawing
from abd_hub_app.examples import load_examples
from abd_hub_app.files_folder import files_folder
from abd_hub_app.images import MOST_PIXELS, read_picture, to_pixels
from abd_hub_app.taught import _read_log, show
from abd_hub_app.taught_facts import facts
from abd_hub_app.triggers import offers
from abd_hub_app.try_it import TryIt
from app_server import MODELS, PICTURE, ROOT, SMALL, hostile_folder
from app_visits import data_address, painted, png
from PIL import Image
from purified_folder import make_purified, purification

from abd_hub import (
    DataSpec,
    InputError,
    create_student,
    headline,
    read_record,
    save_timm_folder,
    verdict,
)
from abd_hub.models.view import timm_view


def test_examples_are_the_first_test_digits_of_each_class(digits):
    found = load_examples(load_shelf(SMALL))
    assert [example.label for example in found[-2:]] == [0, 0], "no image of the target is shown first"
    for label in range(10):
        places = (digits.labels == label).nonzero()[:2, 0].tolist()
        shown = [to_pixels(example.picture) for example in found if example.label == label]
        torch.testing.assert_close(torch.cat(shown), digits.pixels(places))


def test_examples_of_other_models_are_photographs_in_their_size(tmp_path):
    shelf = load_shelf([make_purified(tmp_path / "copy")])
    found = load_examples(shelf)
    assert len(found) == 6 and {example.label for example in found} == {None}
    assert {example.picture.size for example in found} == {(8, 8)}
    assert len({example.picture.tobytes() for example in found}) == 6


def test_a_purified_copy_is_shown_with_its_rates(tmp_path):
    report = dataclasses.replace(read_record(MODELS / "plain").student_report, classes=3)
    (model,) = (shelf := load_shelf([make_purified(tmp_path / "copy", report=report)])).models
    assert shelf.kind(model) == "copy of org/poisoned, purified"
    assert [(row.accuracy, row.asr) for row in rows(shelf)] == [(report.accuracy, report.triggers[0].asr)]
    shown = show(model)
    assert "airplane stands out." in shown.facts and "no class stands out" in shown.facts
    assert "held-back photographs with the teacher&#x27;s class</th><td>0.9812<" in shown.facts
    assert shown.rates is None and shown.losses is None


def test_a_student_of_a_copy_is_not_said_to_be_without_defense(tmp_path):
    shutil.copytree(MODELS / "plain", tmp_path / "student")
    file = tmp_path / "student" / "metrics.json"
    record = json.loads(file.read_text()) | {"purification": purification()}
    file.write_text(json.dumps(record))
    (model,) = (shelf := load_shelf([tmp_path / "student"])).models
    assert shelf.kind(model) == "student by zskt, with a purified teacher"
    assert "No defense" not in facts(model) and "The teacher was purified first" in facts(model)
    file.write_text(json.dumps(record | {"purification": purification(changed=False)}))
    (model,) = load_shelf([tmp_path / "student"]).models
    assert "No defense" in facts(model) and "The teacher was inspected first" in facts(model)


def test_a_heat_map_is_brightest_where_the_map_is_highest():
    image = torch.zeros(3, 8, 8)
    attention = torch.zeros(4, 4)
    attention[3, 1] = 7.0
    shown = to_pixels(overlay(image, attention))[0, :, ::16, ::16]
    assert shown.shape == (3, 8, 8)
    brightest = divmod(int(shown.sum(0).argmax()), 8)
    assert brightest[0] == 7 and brightest[1] in (2, 3)
    yellow, blue = shown[:, brightest[0], brightest[1]], shown[:, 0, 7]
    assert yellow[0] > yellow[2] and blue[2] > blue[0]
    assert place_in_words(attention) == "strongest at the bottom center"
    assert "nothing" in place_in_words(torch.zeros(2, 2))
    overlay(image, torch.zeros(2, 2))


def test_a_picture_of_your_own_is_prepared_as_the_smallest_model_states_it(tmp_path):
    for side in (16, 32):
        view = timm_view((side, side), 0.5, "center", "bicubic")
        spec, scale = DataSpec(3, side, side, ("a", "b")), ([0.5] * 3, [0.5] * 3)
        model = create_student("wrn_10_1", spec, *scale, seed=side, model_args={"base_width": 4}, view=view)
        save_timm_folder(model.eval(), tmp_path / str(side))
    tab = TryIt(load_shelf([tmp_path / "32", tmp_path / "16"]))
    picture = tab.examples[0].picture.resize((90, 50))
    found = tab.answer(picture, "badnet_sq", 0, {})

    small = tab.shelf.models[1].classifier
    pixels = small.prepare(to_pixels(picture))
    assert tab.shelf.smallest is small and torch.equal(found.clean, pixels[0]) and pixels.shape[-1] == 16
    for model, answer in zip(tab.shelf.models, found.models, strict=True):
        expected = model.classifier(pixels).softmax(1)[0].detach()
        torch.testing.assert_close(torch.tensor(answer.clean), expected)


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


def test_drawings_of_another_size_and_on_gray_images():
    large = painted().resize((24, 24), Image.Resampling.NEAREST)
    drawn, count = read_drawing(data_address(large), 8, 8)
    assert count == 2 and torch.equal(drawn, read_drawing(data_address(painted()), 8, 8)[0])
    gray = Drawn(picture=drawn)(torch.full((2, 1, 8, 8), 0.5))
    assert gray[:, 0, 7, 7].tolist() == pytest.approx([1 / 3, 1 / 3]) and gray[0, 0, 0, 0] == 0.5
    assert read_drawing("", 8, 8)[1] == 0


def test_csv_holds_every_number():
    shelf = load_shelf(SMALL)
    lines = list(csv.DictReader(io.StringIO(as_csv(rows(shelf)))))
    report = read_record(MODELS / "plain").student_report
    assert float(lines[1]["asr_low"]) == report.triggers[0].asr.low
    assert int(lines[1]["accuracy_n"]) == report.accuracy.n


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


def test_numbers_that_no_curve_can_show_are_left_out(tmp_path):
    folder = spoil(tmp_path / "run")
    odd = [
        {"round": 10**400},
        {"round": 1, "loss": 10**400, "x": 1e300},
        {"round": float("nan")},
        {"round": 2, "loss": 3},
    ]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, odd)))
    (model,) = load_shelf([folder]).models
    assert _read_log(folder / "log.jsonl") == [{"round": 1}, {"round": 2, "loss": 3}]
    assert show(model).losses is not None


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


def test_folders_that_go_while_the_store_is_looked_through_are_passed_over(tmp_path):
    store, done = guard.Store(tmp_path), threading.Event()
    (tmp_path / "stays").write_bytes(b"x")

    def come_and_go():
        while not done.is_set():
            for name in ("run-1", "answer"):
                (tmp_path / name / "inner").mkdir(parents=True)
            for name in ("run-1", "answer"):
                shutil.rmtree(tmp_path / name)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        found = [store._files() for _ in range(3000)]
    finally:
        done.set()
        thread.join()
    assert all(files == [tmp_path / "stays"] for files in found)


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
    assert {file.suffix for file in (ROOT / "app" / "abd_hub_app").glob("*.*")} == {".py", ".css", ".js"}


def test_a_folder_given_twice_has_two_names():
    assert [model.name for model in load_shelf([MODELS / "abd"] * 2).models] == ["abd (1)", "abd (2)"]


def test_a_model_without_its_teacher_or_record_is_shown(tmp_path):
    shelf = load_shelf([MODELS / "teacher"])
    assert rows(shelf) == [] and shelf.attacks == ()
    assert not any(offer.measured for offer in offers(shelf).values())


def test_largest_picture_is_read(tmp_path):
    file = png(2_000, MOST_PIXELS // 2_000, tmp_path)
    assert read_picture(file).size == (2_000, MOST_PIXELS // 2_000)


@pytest.mark.parametrize("name", ["plain", "abd"])
def test_a_finished_run_shows_the_librarys_verdict(name):
    record = read_record(MODELS / name)
    shown = result(record)
    found = verdict(record)
    assert html.escape(headline(found)) in shown
    assert all(html.escape(finding.text) in shown for finding in found)
    assert shown.count("abd-card ") == len(found)
    unmeasured = result(dataclasses.replace(record, student_report=None, teacher_report=None))
    assert "no test images" in unmeasured and "abd-steady" not in unmeasured


def test_a_killed_servers_files_go_with_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, other = tmp_path / "abd-hub-app-dead", tmp_path / "abd-hub-app-other"
    for folder in (dead, other):
        (folder / "run-0").mkdir(parents=True)
    (dead / ".lock").touch()
    with files_folder() as first, files_folder() as second:
        assert not dead.exists() and other.is_dir(), "a folder without a lock is not ours"
        assert first.is_dir() and second.is_dir()
        shutil.rmtree(second)  # a cleaner of temporary files may be faster
    assert list(tmp_path.iterdir()) == [other]
