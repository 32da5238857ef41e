"""Inspections on the page over its API, what goes on from them, and what a stranger sends to do harm."""

import html
import json
import math
import re
import shutil
import urllib.request

import pytest
import torch
import yaml
from abd_hub_app import inspect_shown, load_shelf, sources
from abd_hub_app.bench import Bench, Beside, Inspected, read_beforehand
from abd_hub_app.bench_shown import side_by_side
from abd_hub_app.inspect_case import (
    ANSWERS,
    Case,
    choose_images,
    read_answers,
    read_case,
    write_answers,
    write_case,
)
from abd_hub_app.inspect_request import InspectRequest
from abd_hub_app.run_queue import RunQueue
from app_server import HOSTILE, MODELS
from app_visits import post
from distil_server import wait
from gradio_client import Client, handle_file
from safetensors.torch import load_file, save_file

from abd_hub import (
    DataSpec,
    FoundTrigger,
    InputError,
    InspectionReport,
    TriggerInversion,
    create_student,
    inspect_model,
    load_classifier,
    save_timm_folder,
)

TEACHER = MODELS / "teacher"
STEPS = 60
"""The fewest, which do not find the backdoor of this teacher."""


@pytest.fixture(scope="module")
def app(runs_app):
    return runs_app


@pytest.fixture(scope="module")
def visitor(app):
    return Client(app.address, verbose=False, download_files=True)


def begin(client, teacher="shelf:teacher", steps=STEPS, **more):
    asked = {"hub_id": None, "files": None, "folder": None, "seed": 0, "minutes": 5, **more}
    return client.submit(teacher=teacher, steps=steps, **asked, api_name="/inspect")


def refused(job):
    with pytest.raises(Exception, match=r"^\w+: ") as error:
        job.result()
    assert "\n" not in str(error.value)
    return html.unescape(str(error.value))


def uploads(folder):
    return [handle_file(str(folder / name)) for name in sources.FILES]


@pytest.fixture(scope="module")
def inspected(app):
    """A visitor who has inspected an upload, and all that the page has shown."""
    client = Client(app.address, verbose=False, download_files=True)
    job = begin(client, "files", files=uploads(TEACHER))
    job.result()
    yield client, job.outputs()
    client.close()
    wait(lambda: not app.folders())


def test_an_inspection_is_followed_to_the_librarys_report(inspected):
    _, outputs = inspected
    states = [output[-1]["state"] for output in outputs]
    assert states[0] in ("waiting", "running") and states[-1] == "done"
    assert outputs[-1][0].count('role="progressbar"') == 1 and "Done" in outputs[-1][0]

    told = outputs[-1][-1]["report"]
    settings = TriggerInversion(steps=STEPS)
    report = inspect_model(load_classifier(f"local-dir:{TEACHER}"), inspection=settings, seed=0)
    assert told | {"seconds": 0} == report.to_json() | {"seconds": 0}
    shown = html.unescape(outputs[-1][1])
    assert report.detail[1:] in shown and shown.count('class="abd-size"') == 10 * len(report.statistics)
    assert shown.count('src="data:image/png;base64,') >= 2 * 1 + 2 * 3
    assert "beforehand" not in shown


def test_a_copy_and_a_student_follow_and_stand_side_by_side(app, inspected):
    client, _ = inspected
    none = client.submit(False, api_name="/purify").result()
    assert "No copy was made" in none[1] and "no class stands out" in none[1]

    copy = client.submit(True, api_name="/purify").result()
    assert "Purified copy" in copy[1] and "This does not show that the copy is clean." in copy[1]
    assert copy[2]["value"].endswith("purified.zip")
    student = client.submit(2, api_name="/distil_plain").result()
    assert student[2]["value"].endswith("student.zip")
    names = re.findall(r'<th scope="row"><b>(\w+)</b>', student[1])
    assert names == ["original", "purified", "plain"]
    assert student[1].count(" of 1") >= 3 and "Image 1, in full" in student[1]
    assert not list(app.place.rglob("case")) and len(app.folders()) == 3


def test_a_protected_student_learns_from_a_copy_of_the_very_upload(app, inspected):
    client, _ = inspected
    job = client.submit(2000, api_name="/distil_protected")
    file = wait(
        lambda: [one for one in app.folders() if (one / "case").is_dir() and (one / "request.yaml").is_file()]
    )
    settings = yaml.safe_load((file[0] / "request.yaml").read_text("utf-8"))
    assert settings["purification"] == "auto" and settings["teacher"]["id"] == f"local-dir:{file[0]}/uploaded"
    assert (file[0] / "uploaded" / "model.safetensors").read_bytes() == (
        TEACHER / "model.safetensors"
    ).read_bytes()
    assert "under way" in refused(client.submit(True, api_name="/purify"))
    assert client.predict(api_name="/cancel") is True
    assert job.result()[-1]["state"] == "cancelled" and app.runs() == []


# ------------------------------------------------------------------------------------------- strangers


def small_model(folder, labels, change):
    model = create_student(
        "wrn_10_1", DataSpec(3, 8, 8, labels), [0.5] * 3, [0.5] * 3, seed=0, model_args={"base_width": 4}
    )
    save_timm_folder(model.eval(), folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


def nan(weights):
    next(value for value in weights.values() if value.is_floating_point()).fill_(math.nan)


def constant(weights):
    next(value for name, value in weights.items() if value.ndim == 2).zero_()


@pytest.mark.parametrize(
    ("labels", "change", "said"),
    [
        (("a", "b"), nan, "holds NaN or infinity"),
        (("a", "b"), constant, "gives the same logits to every image"),
        (("only",), dict.items, "has one output"),
    ],
)
def test_models_that_cannot_be_inspected(app, visitor, tmp_path, labels, change, said):
    folder = small_model(tmp_path / "model", labels, change)
    before = app.folders()
    told = refused(begin(visitor, "files", files=uploads(folder)))
    assert said in told and str(app.place) not in told and len(told) < 400
    assert app.folders() == before and app.runs() == []


def test_uploads_that_are_no_model(app, visitor, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    shutil.copy(TEACHER / "config.json", tmp_path / "config.json")
    before = app.folders()
    given = [handle_file(str(tmp_path / name)) for name in ("config.json", "pytorch_model.bin")]
    assert "is a pickle, which can run code" in refused(begin(visitor, "files", files=given))
    with (tmp_path / "model.safetensors").open("wb") as large:
        large.truncate(sources.LARGEST_MODEL + 5_000_000)
    with pytest.raises(Exception, match=r"(?i)size|too large|413"):
        begin(visitor, "files", files=uploads(tmp_path)).result()
    assert app.folders() == before


def test_no_path_of_the_owner_is_read(app, visitor):
    for meta in ({}, {"meta": {"_type": "gradio.FileData"}}):
        given = [{"path": str(TEACHER / name), **meta} for name in sources.FILES]
        asked = {"data": ["files", None, given, None, STEPS, 0, 5]}
        _, event = post(app.address, "/gradio_api/call/inspect", json.dumps(asked).encode())
        place = f"{app.address}/gradio_api/call/inspect/{json.loads(event)['event_id']}"
        said = urllib.request.urlopen(place).read().decode()
        assert said.startswith("event: error") and '"error": "request: ' in said, said
    assert "there is no folder" in refused(begin(visitor, "folder", folder="/nowhere/model"))
    assert "is not in the list of choices" in refused(begin(visitor, "shelf:../teacher"))
    assert app.runs() == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"steps": 0}, "steps: 0 is not possible; use a whole number from 60 to 300"),
        ({"seed": -1}, "seed: -1 is not possible"),
        ({"minutes": 99}, "minutes: 99 is not possible; use up to 15"),
        ({"teacher": "hub", "hub_id": "../../etc"}, "is no Hub id"),
    ],
)
def test_wrong_wishes_are_told(visitor, asked, said):
    assert said in refused(begin(visitor, **asked))


# --------------------------------------------------------------------------------------- without a page


def test_nothing_goes_on_from_nothing(tmp_path):
    with RunQueue(tmp_path) as queue:
        bench = Bench(load_shelf([TEACHER]), queue, ())
        for start in (lambda: bench.purify("a", force=True), lambda: bench.distil("a", "plain", 3)):
            with pytest.raises(InputError, match=r"^model: there is no inspection of yours"):
                start()
        assert bench.beside("a") == [] and list(tmp_path.iterdir()) == []


def test_the_inspection_that_comes_with_the_page_is_of_its_model(tmp_path):
    found = read_beforehand(load_shelf())
    assert found is not None, "run python -m abd_hub_app.inspect_beforehand"
    assert "was made beforehand and comes with the page" in inspect_shown.result(found)
    folder = small_model(tmp_path / "other", ("a", "b"), dict.items)
    assert read_beforehand(load_shelf([folder])) is None


def test_nobody_goes_on_from_another_model_than_the_own_one(tmp_path):
    with RunQueue(tmp_path) as queue:
        bench = Bench(load_shelf(), queue, ())
        bench.beforehand = read_beforehand(bench.shelf)
        assert bench.inspected("a") is bench.beforehand
        asked = InspectRequest(steps=STEPS, seed=0, minutes=1)
        bench.inspect("a", asked, lambda place: sources.from_shelf(bench.shelf, "teacher"))
        queue.leave("a")
        assert bench.inspected("a") is None and bench.inspected("b") is bench.beforehand
        bench.leave("a")
        assert bench.inspected("a") is bench.beforehand


def hostile_case(folder, classes=60):
    """An inspection of a stranger's model of many classes, of which most were not reached."""
    labels = (*HOSTILE, *(f"class {number}" for number in range(len(HOSTILE), classes)))
    model = create_student("wrn_10_1", DataSpec(3, 8, 8, labels), [0.5] * 3, [0.5] * 3, seed=0).freeze()
    sizes = (1.0, 4.0, *[math.inf] * (classes - 2))
    mask = torch.zeros(1, 8, 8)
    mask[0, 0, 0] = 1
    report = InspectionReport(
        name="trigger_inversion",
        flagged=True,
        suspects=(0,),
        statistics={"mask": sizes},
        scores={"mask": 0.25},
        threshold={"mask": 0.5},
        detail=f"class 0 ({labels[0]}) can be reached: suspicious",
        seconds=1.0,
        triggers=(FoundTrigger(0, "mask", 1.0, 4.0, 0.9, mask=mask, pattern=torch.ones(3, 8, 8)),),
        labels=labels,
    )
    images = (torch.arange(6 * 3 * 64).view(6, 3, 8, 8) % 256) / 255
    case = Case(report=report, images=images, chosen=choose_images(model, images, 0))
    folder.mkdir()
    write_answers(model, case, folder / ANSWERS)
    facts = {
        "model": {
            "id": HOSTILE[1],
            "architecture": HOSTILE[0],
            "sha256": None,
            "revision": None,
            "size": [3, 8, 8],
        },
        "images_of": "photographs",
        "settings": {"seed": 0, "steps": 20},
    }
    write_case(case, facts, folder)
    return case


def test_a_case_is_read_as_it_was_written(tmp_path):
    case = hostile_case(tmp_path / "case")
    again = read_case(tmp_path / "case")
    assert again.report.to_json() == case.report.to_json() and again.chosen == case.chosen
    torch.testing.assert_close(again.images, case.images)
    torch.testing.assert_close(again.trigger(again.images), case.trigger(case.images))
    rows, _, others = read_answers(tmp_path / "case" / ANSWERS)
    assert len(rows) == min(3, others) == len(case.chosen)


def test_names_of_strangers_are_text(tmp_path):
    hostile_case(tmp_path / "case")
    found = Inspected(folder=tmp_path / "case", source=sources.Source(id="x", labels=None))
    rows, moved, others = read_answers(tmp_path / "case" / ANSWERS)
    models = [Beside(name=HOSTILE[1], kind=HOSTILE[0], rows=rows, moved=moved, others=others)] * 2
    shown = inspect_shown.result(found)
    for text in (shown, side_by_side(found, models)):
        plain = re.sub(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+" alt="[^"<>]*"', "", text)
        assert "<script" not in plain and "<img" not in plain and "${" not in plain and "{{" not in plain
        assert "&lt;" in plain and "\u202e" not in plain
    assert shown.count('class="abd-size"') == inspect_shown.MOST_BARS and "not reached" in shown
    assert "10 further classes have larger triggers" in shown
    # The next class has the largest size that is finite, and a bar of 0.85; the limit is half of it.
    assert "--abd-limit:0.4250" in shown and 'style="width:21.2%"' in shown


def test_json_of_a_case_is_strict(tmp_path):
    hostile_case(tmp_path / "case")
    for file in (tmp_path / "case").glob("*.json"):
        json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)
