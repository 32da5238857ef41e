"""Distillations on the page over its API: a real server, real processes, a Hub of the tests' own."""

import html
import json
import os
import shutil
import signal
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from abd_hub_app import distil_request, load_shelf, run_child, sources
from abd_hub_app.images import to_picture
from abd_hub_app.run_job import CONFIG
from abd_hub_app.run_queue import RunQueue
from app_server import MODELS, SMALL, hostile_folder
from distil_server import SHORT, distilling, environment_of, nice_of, wait
from gradio_client import Client, handle_file
from hub_server import READ, WRITE

from abd_hub import InputError, distill, load_images, parse_distill, read_record
from abd_hub.core import registry

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from visitor import Town, Visitor
from visitor_checks import Watch, as_png
from visitor_page import Refused, functions

TEACHER = MODELS / "teacher"
LONG = 2_000
"""Rounds that nobody waits for. The first line of the log, which a test waits for, is that of round 20."""


@pytest.fixture(scope="module")
def app(runs_app):
    return runs_app


@pytest.fixture(scope="module")
def visitor(app):
    return Client(app.address, verbose=False, download_files=True)


def begin(client, teacher="shelf:teacher", rounds=3, defenses=(), **more):
    asked = {"hub_id": None, "files": None, "folder": None, "method": "zskt", **SHORT, **more}
    return client.submit(teacher=teacher, rounds=rounds, defenses=list(defenses), **asked, api_name="/distil")


def refused(client, *args, **more):
    with pytest.raises(Exception, match=r"^\w+: ") as error:
        begin(client, *args, **more).result()
    assert "\n" not in str(error.value)
    return html.unescape(str(error.value))


def state(job):
    """The last summary."""
    found = job.outputs()
    return found[-1][4] if found else {"state": "", "round": 0}


def learn(job, rounds=1):
    wait(lambda: state(job)["round"] >= rounds or job.done())
    assert not job.done(), job.outputs()[-1:]


@pytest.fixture(scope="module")
def finished(app):
    """A visitor with a finished run, all that the page has shown of it, and its process's environment."""
    client = Client(app.address, verbose=False, download_files=True)
    uploaded = [handle_file(str(TEACHER / name)) for name in sources.FILES]
    job = begin(client, "files", files=uploaded, rounds=4, defenses=["universal_direction"])
    process = wait(app.runs)[0]
    wait(lambda: nice_of(process) >= run_child.NICE)
    seen = environment_of(process)
    job.result()
    yield client, job.outputs(), seen
    client.close()
    wait(lambda: not app.folders())


def test_of_a_run_only_its_zip_is_served(app, finished):
    (run,) = app.folders()
    base = f"{app.address}/gradio_api/file={run}"
    assert (run / CONFIG).is_file() and urllib.request.urlopen(f"{base}/student.zip").status == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/{CONFIG}")


def archive(outputs):
    return zipfile.ZipFile(outputs[-1][3]["value"])


def test_the_run_is_followed(finished):
    _, outputs, _ = finished
    shown = [(output[4]["state"], output[4]["round"]) for output in outputs]
    assert shown[0][0] in ("waiting", "running") and shown[-1] == ("done", 4)
    assert [rounds for _, rounds in shown] == sorted(rounds for _, rounds in shown)
    assert any('aria-valuenow="4"' in output[0] for output in outputs)
    assert "<polyline" in outputs[-1][0] and len(outputs[-1][4]["log"]) == 4


def test_the_record_is_the_librarys(finished, tmp_path):
    _, outputs, _ = finished
    with archive(outputs) as packed:
        packed.extractall(tmp_path)
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob(".lock"))
    record = read_record(tmp_path / "student")
    settings = yaml.safe_load((tmp_path / "student" / "config.yaml").read_text())
    assert settings["teacher"]["id"] == f"local-dir:{sources.UPLOADED}"
    settings["teacher"]["id"] = f"local-dir:{TEACHER}"
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(settings))
    again = distill(
        parse_distill(["--config", str(tmp_path / "again.yaml"), "--output_dir", str(tmp_path / "again")])
    )
    assert again.student.sha256 == record.student.sha256
    assert (again.teacher_report, again.student_report) == (record.teacher_report, record.student_report)
    told = outputs[-1][4]["record"]
    assert told["student"]["sha256"] == record.student.sha256 and told["rounds"] == 4
    assert told["teacher"]["sha256"] == load_shelf([TEACHER]).models[0].sha256
    assert told["student_report"]["accuracy"]["value"] == record.student_report.accuracy.value
    asr = record.student_report.triggers[0].asr
    assert f"{asr.value:.3f} [{asr.low:.3f}, {asr.high:.3f}] of {asr.n}" in outputs[-1][1]


def test_a_run_inherits_nothing_of_the_owner(finished):
    environment = finished[2]
    assert READ not in environment and "secret-of-the-owner" not in environment
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN=1" in environment and "OMP_NUM_THREADS=1" in environment


def test_a_push_and_its_token_that_is_nowhere(app, finished):
    client, outputs, _ = finished
    app.hub.clear()
    token, said = client.predict("acme/mine", True, f" {WRITE} ", api_name="/push")
    repo = app.hub.repos["model", "acme/mine"]
    assert token == "" and repo.private and app.hub.url in said
    with archive(outputs) as packed:
        assert repo.files["model.safetensors"] == packed.read("student/model.safetensors")
    assert not any(name.startswith("checkpoints") for name in repo.files)
    assert READ not in {request.token for request in app.hub.requests}
    again = client.predict("acme/mine", True, "", api_name="/push")[1]
    refusal = client.predict("acme/other", True, READ, api_name="/push")[1]
    assert "token: is empty" in again and "may only read" in refusal
    pages = [urllib.request.urlopen(f"{app.address}/{page}").read().decode() for page in ("", "config")]
    assert not any(WRITE in page for page in pages)
    # gradio writes what it keeps of a session into a file for anybody who knows its name.
    session = f"{app.address}/gradio_api/deep_link?session_hash={client.session_hash}"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(session)
    assert app.holding(WRITE) == [] and WRITE not in said + refusal


def test_no_push_without_a_run_of_ones_own(app, finished, visitor):
    assert "no finished run of yours" in visitor.predict("acme/mine", True, WRITE, api_name="/push")[1]


def test_two_visitors_and_a_cancel(app, finished, visitor, tmp_path):
    app.hub.repo("acme/closed", private=True).upload_folder(TEACHER)
    app.hub.clear()
    long = begin(visitor, rounds=LONG)
    learn(long)
    other = Client(app.address, verbose=False, download_files=True)
    short = begin(other, "hub", hub_id="acme/closed")
    wait(lambda: state(short)["state"] == "waiting")
    assert state(short)["before"] == 1 and "1 run of other visitors" in short.outputs()[-1][0]
    # Both wait for nobody's predictions, nor the predictions for them.
    digit = tmp_path / "digit.png"
    to_picture(load_images("digits", "test", limit=1).images[0] / 255).save(digit)
    answers = other.predict(handle_file(str(digit)), "badnet_sq", 0, 2, 0, None, api_name="/predict")
    assert len(answers[4]["models"]) == 3
    assert "under way" in refused(visitor)
    (process,) = app.runs()
    assert visitor.predict(api_name="/cancel") is True
    long.result()
    assert state(long)["state"] == "cancelled" and process not in app.runs()
    # The owner of the server could read it.
    with pytest.raises(Exception, match="not on the Hub, or is private"):
        short.result()
    assert {request.token for request in app.hub.requests} == {None}
    assert visitor.predict(api_name="/cancel") is False
    other.close()
    wait(lambda: len(app.folders()) == 1)  # that of the finished run


def test_who_leaves_takes_the_run_along(app, finished):
    client = Client(app.address, verbose=False)
    begin(client, rounds=LONG)
    wait(app.runs)
    client.close()
    wait(lambda: not app.runs() and len(app.folders()) == 1)


@pytest.fixture
def files(tmp_path):
    """Copies of the teacher's two files."""
    return [shutil.copy(TEACHER / name, tmp_path / name) for name in sources.FILES]


def uploads(tmp_path, files):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "pytorch_model.bin", tmp_path / "other" / "model.safetensors")
    (tmp_path / "notes.txt").write_text("mine")
    config, weights = files
    return {
        "is a pickle, which can run code": [config, tmp_path / "pytorch_model.bin"],
        "is no safetensors file": [config, tmp_path / "other" / "model.safetensors"],
        "model.safetensors is missing": [config],
        "'notes.txt' is not taken": [config, weights, tmp_path / "notes.txt"],
    }


def test_other_uploads_are_refused(app, visitor, files, tmp_path):
    before = app.folders()
    for said, given in uploads(tmp_path, files).items():
        assert said in refused(visitor, "files", files=[handle_file(str(file)) for file in given])
    with (tmp_path / "model.safetensors").open("wb") as large:
        large.truncate(sources.LARGEST_MODEL + 5_000_000)
    with pytest.raises(Exception, match=r"(?i)size|too large|413"):
        begin(visitor, "files", files=[handle_file(str(tmp_path / "model.safetensors"))]).result()
    assert app.folders() == before


def test_an_address_is_not_fetched(app, visitor):
    app.hub.clear()
    given = {"path": f"{app.hub.url}/x/config.json", "meta": {"_type": "gradio.FileData"}}
    assert "addresses are not fetched" in refused(visitor, "files", files=[given])
    assert app.hub.requests == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"teacher": "hub", "hub_id": "no id"}, "hub_id: 'no id' is no Hub id"),
        ({"teacher": "hub", "hub_id": "../../etc"}, "is no Hub id"),
        ({"teacher": "folder", "folder": "/nowhere/model"}, "there is no folder"),
        ({"rounds": 0}, "rounds: 0 is not possible; use a whole number from 1 to 5000"),
        ({"seed": -1}, "seed: -1 is not possible"),
        ({"minutes": 1000}, "minutes: 1000 is not possible; use up to 15"),
    ],
)
def test_wrong_wishes_are_told(app, visitor, asked, said):
    assert said in refused(visitor, **asked)


def test_folders_are_read_for_this_machine_alone(tmp_path):
    from abd_hub_app.distil import Distil

    with RunQueue(tmp_path) as queue:
        for local in (True, False):
            tab = Distil(load_shelf(SMALL), queue, local=local)
            offered = [value for _, value in tab.form.teacher.offered()]
            assert ("folder" in offered) is local
        with pytest.raises(InputError, match=r"^folder: this server is open to others"):
            tab.form.teacher.source("folder", "", [], str(TEACHER), tmp_path)


def test_a_folder_is_looked_at_first(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TEACHER, folder)
    assert sources.from_folder(str(folder)).labels == load_shelf(SMALL).labels
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.truncate(int(sources.LARGEST_LOADED_GB * 1e9) + 1)
    with pytest.raises(InputError, match=r"^folder: 'model' holds 0.5 GB of weights"):
        sources.from_folder(str(folder))
    (folder / "extra.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"^folder: 'extra.pkl' is a pickle"):
        sources.from_folder(str(folder))


def test_a_record_of_strangers_names_no_data_to_download(tmp_path):
    folder = hostile_folder(tmp_path / "model")
    shelf = load_shelf([folder])
    assert {attack["name"] for attack in distil_request.measurement(shelf)["triggers"]} == {"badnet_sq"}
    record = json.loads((folder / "metrics.json").read_text())
    record["data"]["id"] = "org/huge"
    (folder / "metrics.json").write_text(json.dumps(record))
    assert distil_request.measurement(load_shelf([folder])) is None


def test_what_the_page_offers_stands_on_the_plug_ins(monkeypatch):
    assert {"zskt", "dfq", "ood"} <= set(distil_request.methods())
    ours = {"self_retrospection", "shuffling_vaccine", "universal_direction"}
    assert ours <= set(distil_request.defenses())

    class Slow:
        quick = classmethod(lambda cls, rounds: None)

    class Theirs:
        quick = classmethod(lambda cls, rounds: {"last": rounds // 2})

    for name, plugin in {"bare": object, "slow": Slow, "theirs": Theirs}.items():
        monkeypatch.setitem(registry._registered["defenses"], name, plugin)
        monkeypatch.setitem(registry._registered["synthesizers"], name, plugin)
    assert distil_request.methods() == ("zskt", "dfq", "ood", "theirs")
    assert set(distil_request.defenses()) >= {"bare", "theirs"} and "slow" not in distil_request.defenses()
    defenses = ("shuffling_vaccine", "self_retrospection", "universal_direction", "bare", "theirs")
    asked = distil_request.DistilRequest(method="zskt", defenses=defenses, rounds=100, **SHORT)
    found = distil_request.configuration(asked, sources.Source(id="x", labels=None), load_shelf(SMALL), "out")
    assert found["zskt"] == {"rounds": 100, "batch_size": 64, "attention_weight": 0, "generator_channels": 64}
    assert found["shuffling_vaccine"] == {"layers": 2, "check": False}
    assert found["self_retrospection"] == {"last_rounds": 2}
    assert found["theirs"] == {"last": 50}
    assert not {"universal_direction", "bare"} & set(found)


@pytest.fixture
def two(app):
    """Two visitors of the recipe with a page each, who see nothing of each other."""
    watch, known = Watch([READ, WRITE]), functions(app.address)
    town = Town(app.address, known, 8, 0, 0, watch, lambda act: None, 0.0, 0.0)
    town.places = lambda: list(map(str, app.folders()))
    both = [Visitor(number, town) for number in (1, 2)]
    assert [one.do("open").outcome for one in both] == ["well", "well"]
    yield both
    for one in both:
        one.page.leave()
    assert watch.found == []


def test_a_killed_run_is_told_and_the_next_one_goes_on(app, finished, two):
    killed = two[0].page.begin("distil", *two[0].distillation(0))
    run = wait(app.runs)[0]  # before the second asks, so that it is the first one's
    waiting = two[1].page.begin("distil", *two[1].distillation(1))
    os.kill(run, signal.SIGKILL)
    with pytest.raises(Refused, match="the run was killed by SIGKILL unexpectedly; use smaller"):
        list(two[0].page.follow(killed))
    for act in ("try", "push", "pry", "pry", "compare"):
        assert [one.do(act).outcome for one in two] == ["well", "well"]
    *_, last = two[1].page.follow(waiting)
    assert last[4]["record"]["seed"] == 1


def test_a_cancel_works_while_the_line_is_full(app, finished, visitor, two):
    long = begin(visitor, rounds=LONG)
    wait(app.runs)
    file = two[0].page.upload("black.png", as_png(np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(Refused, match="Queue is full"):
        while True:
            two[0].page.begin("predict", file, "badnet_sq", 0, 2, 0, None, None, None)
    assert visitor.predict(api_name="/cancel") is True
    long.result()
    assert state(long)["state"] == "cancelled"


def test_a_kill_of_the_server_leaves_nothing(tmp_path):
    with distilling(tmp_path) as app:
        client = Client(app.address, verbose=False)
        begin(client, rounds=LONG)
        wait(app.runs)
        app.stop(signal.SIGTERM)
        wait(lambda: not app.runs())
        assert list(app.place.glob("abd-hub-app-*")) == []
