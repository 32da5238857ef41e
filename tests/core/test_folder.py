"""The output folder: claims, atomic writing, and the record's way to JSON and back."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.core.folder import OutputFolder, check_file, check_folder, fcntl
from abd_hub.core.record_file import read_record, record_from_json, record_to_json
from abd_hub.core.records import (
    AttackedClass,
    ClassReport,
    DataRef,
    DefenseReport,
    EvalReport,
    ModelRef,
    Rate,
    RunRecord,
    SplitReport,
    TriggerReport,
)

CONFIG = "seed: 0\nteacher:\n  id: a/b\nresume: false\n"
HOLDER = """
import sys, time
from abd_hub.core.folder import OutputFolder
with OutputFolder.open(sys.argv[1], resume=False, config_yaml=sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


def make_record(evaluated=True):
    attack = TriggerReport(
        "square",
        3,
        {"size": 2, "color": [1.0, 0.5]},
        Rate(0.1, 1, 10, 0.02, 0.4),
        Rate(1 / 3, 1, 3, 0.06, 0.8),
    )
    report = EvalReport(Rate(0.9, 9, 10, 0.6, 0.98), (attack, dataclasses.replace(attack, target=1)))
    return RunRecord(
        method="zskt",
        teacher=ModelRef("org/teacher", "resnet18", "c" * 40, "a" * 64),
        student=ModelRef("student", "wrn_16_1"),
        data=DataRef("org/data", "test", "f00d", None, 10) if evaluated else None,
        teacher_report=report if evaluated else None,
        student_report=dataclasses.replace(report, triggers=()) if evaluated else None,
        defenses=(
            DefenseReport("shuffling_vaccine", True, "Found.", {"tries": 2, "deep": {"x": [1, None]}}),
        ),
        seed=0,
        rounds=600,
        versions={"python": "3.12"},
        durations={"distillation": 12.0},
        device="cpu",
        processes=1,
        config={"seed": 0, "defenses": []},
    )


def begin(path, resume=False, config=CONFIG):
    return OutputFolder.open(path, resume=resume, config_yaml=config)


def tree(path):
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_begins(tmp_path, resume, exists):
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    with begin(path, resume) as folder:
        assert folder.begun_here
        assert (path / "config.yaml").read_text() == "# abd-hub run\n" + CONFIG
    assert tree(path) == ["config.yaml"]


def test_an_unfinished_run_goes_on_only_when_asked(tmp_path):
    path = tmp_path / "run"
    begin(path).close()
    with pytest.raises(InputError, match="--resume true"):
        begin(path)
    (path / "samples").mkdir()
    (path / "samples" / f".abd-tmp-{'0' * 16}-x.png").write_bytes(b"half")
    (path / "log.jsonl").write_text("{}\n")
    with begin(path, resume=True) as folder:
        assert not folder.begun_here
    assert tree(path) == ["config.yaml", "log.jsonl", "samples"]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (CONFIG.replace("a/b", "a/c"), r"teacher\.id: is 'a/c' now and was 'a/b'"),
        (CONFIG + "extra: 1\n", "extra"),
        (CONFIG.replace("seed: 0\n", ""), "seed"),
    ],
)
def test_resuming_something_else_is_refused(tmp_path, config, field):
    path = tmp_path / "run"
    begin(path).close()
    with pytest.raises(InputError, match=field):
        begin(path, resume=True, config=config)
    assert tree(path) == ["config.yaml"]
    assert "a/b" in (path / "config.yaml").read_text()


@pytest.mark.parametrize(("value", "goes_on"), [("null", True), ("false", True), ("[]", True), ("0", False)])
def test_a_run_from_before_an_option_goes_on_while_it_is_off(tmp_path, value, goes_on):
    begin(tmp_path / "run").close()
    config = CONFIG.replace("id: a/b", f"id: a/b\n  new: {value}")
    if goes_on:
        begin(tmp_path / "run", resume=True, config=config).close()
        return
    with pytest.raises(InputError, match=r"teacher\.new: is 0 now"):
        begin(tmp_path / "run", resume=True, config=config)


@pytest.mark.parametrize(("every", "goes_on"), [(0, True), (5, False)])
def test_a_run_from_before_it_could_be_watched_goes_on_unwatched(tmp_path, every, goes_on):
    before = f"{CONFIG}evaluation:\n  dataset: digits\n"
    begin(tmp_path / "run", config=before).close()
    config = f"{before}  every: {every}\n  every_images: 1000\n"
    if goes_on:
        begin(tmp_path / "run", resume=True, config=config).close()
        return
    with pytest.raises(InputError, match=r"evaluation\.every: is 5 now"):
        begin(tmp_path / "run", resume=True, config=config)


def test_resume_itself_may_differ(tmp_path):
    begin(tmp_path / "run").close()
    begin(tmp_path / "run", resume=True, config=CONFIG.replace("false", "true")).close()


def make_file(path):
    path.write_text("mine")


def make_foreign(path):
    path.mkdir()
    (path / "photo.jpg").write_bytes(b"x")


def make_foreign_config(path):
    path.mkdir()
    (path / "config.yaml").write_text("model: mine\n")


def make_finished(path):
    begin(path).close()
    files.write_json(path / "metrics.json", {})


def make_dangling(path):
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_file, "is a file"),
        (make_foreign, "did not write"),
        (make_foreign_config, "did not write"),
        (make_finished, "finished"),
        (make_dangling, "link to nowhere"),
    ],
)
def test_what_may_not_be_used_stays_as_it_is(tmp_path, resume, make, message):
    path = tmp_path / "run"
    make(path)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        begin(path, resume)
    assert "\n" not in str(error.value)
    assert "--output_dir" in str(error.value)
    assert tree(tmp_path) == before


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        begin(tmp_path / "file" / "run")


def test_a_parent_without_write_permission_is_refused(tmp_path, monkeypatch):
    # The superuser may write everywhere, so the answer of the operating system is played.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="not writable"):
        begin(tmp_path / "run")
    assert tree(tmp_path) == []


def make_empty(path):
    path.mkdir()


def make_leftover(path):
    path.mkdir()
    (path / ".lock").touch()


ABSENT, EMPTY, OWN = {"none", "empty", "own"}, {"empty", "own"}, {"own"}


@pytest.mark.parametrize(
    ("make", "allowed", "message"),
    [
        (lambda path: None, ABSENT, ""),
        (make_empty, EMPTY, "exists already"),
        (make_leftover, EMPTY, "exists already"),
        (make_finished, OWN, "exists already|is not an empty folder"),
        (make_foreign, set(), "exists already|is not an empty folder|holds files that abd-hub did not write"),
        (make_file, set(), "is a file"),
        (make_dangling, set(), "is a link to nowhere"),
    ],
)
@pytest.mark.parametrize("existing", ["none", "empty", "own"])
def test_which_folders_may_be_used(tmp_path, make, allowed, message, existing):
    path = tmp_path / "run"
    make(path)
    before = tree(tmp_path)
    if existing in allowed:
        check_folder(path, "folder", existing=existing)
    else:
        with pytest.raises(InputError, match=rf"^folder: {path} ({message}); name a new one$"):
            check_folder(path, "folder", existing=existing, remedy="name a new one")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("new.png", None),
        ("old.PNG", None),
        ("new.jpg", "{path} must end in .png; only PNG is written"),
        ("folder.png", "{path} is a folder; move it away or name another file"),
        ("no/new.png", "there is no folder {path.parent}; make it or name another file"),
        ("old.PNG/new.png", "there is no folder {path.parent}; make it or name another file"),
        ("x" * 300 + ".png", "{path} cannot be used (File name too long); name another file"),
    ],
)
def test_which_files_may_be_written(tmp_path, name, message):
    (tmp_path / "old.PNG").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    before = tree(tmp_path)
    path = tmp_path / name
    if message is None:
        check_file(path, "picture", suffix=".png")
    else:
        with pytest.raises(InputError) as error:
            check_file(path, "picture", suffix=".png")
        assert str(error.value) == f"picture: {message.format(path=path)}"
    assert tree(tmp_path) == before


def test_a_file_in_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=f"^picture: {tmp_path} is not writable; name another file$"):
        check_file(tmp_path / "new.png", "picture")


@pytest.mark.parametrize("place", ["/proc/run", "x" * 300 + "/run"])
def test_what_the_system_refuses_is_one_line(place):
    with pytest.raises(InputError, match="output_dir"):
        begin(Path(place))


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("abd_hub.core.folder.write_text", full)
    with pytest.raises(InputError, match="No space left"):
        begin(tmp_path / "deep" / "run")
    assert tree(tmp_path) == []


def test_a_run_that_fails_at_once_takes_its_folder_back(tmp_path):
    with pytest.raises(RuntimeError), begin(tmp_path / "deep" / "run"):
        raise RuntimeError
    assert tree(tmp_path) == []


def test_a_run_that_fails_later_keeps_what_it_wrote(tmp_path):
    with pytest.raises(RuntimeError), begin(tmp_path / "run") as folder:
        files.write_text(folder.path / "log.jsonl", "{}\n")
        raise RuntimeError
    assert tree(tmp_path / "run") == ["config.yaml", "log.jsonl"]


def hold(path):
    command = [sys.executable, "-c", HOLDER, str(path), CONFIG]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_at_a_time_and_sigkill_frees_the_folder(tmp_path):
    path = tmp_path / "run"
    process = hold(path)
    try:
        before = tree(path)
        for resume in (False, True):
            with pytest.raises(InputError, match="in use by another process"):
                begin(path, resume)
        assert tree(path) == before
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    begin(path, resume=True).close()
    assert tree(path) == ["config.yaml"]


def test_of_many_that_come_at_once_one_gets_in(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "deep" / "run"), CONFIG]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    try:
        # The losers end by themselves; the winner would hold on for a minute.
        losers = 0
        while losers < 5:
            for process in [p for p in processes if p.returncode is None]:
                losers += process.poll() is not None
        running = [process for process in processes if process.returncode is None]
        assert [process.stdout.readline() for process in running] == ["held\n"]
        errors = [process.stderr.read() for process in processes if process.returncode is not None]
        assert all("InputError" in error for error in errors)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("again", [False, True])
def test_a_lock_on_a_removed_file_does_not_count(tmp_path, monkeypatch, again):
    begin(tmp_path / "run").close()
    lock, real = tmp_path / "run" / ".lock", fcntl.flock

    def late(*arguments):
        # The former holder leaves, and perhaps another comes, between opening and locking.
        lock.unlink()
        if again:
            lock.write_text("")
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="in use"):
        begin(tmp_path / "run", resume=True)


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file.txt"
    files.write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), files.atomic_path(target) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert tree(tmp_path) == ["file.txt"]


def test_atomic_path_takes_folders_too(tmp_path):
    with files.atomic_path(tmp_path / "deep" / "state") as temporary:
        temporary.mkdir()
        (temporary / "a.bin").write_bytes(b"1")
    assert tree(tmp_path) == ["deep", "deep/state", "deep/state/a.bin"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    target = tmp_path / "file.bin"
    writer = (
        "import sys\nfrom abd_hub.core.files import write_bytes\n"
        "while True:\n    [write_bytes(sys.argv[1], bytes([i]) * 100_000) for i in range(9)]\n"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(target)])
    try:
        while not target.exists():
            assert process.poll() is None
        for _ in range(200):
            data = target.read_bytes()
            assert len(data) == 100_000
            assert len(set(data)) == 1
    finally:
        process.kill()
        process.wait()
    files.clean_temporaries(tmp_path)
    assert tree(tmp_path) == ["file.bin"]


def test_cleaning_takes_only_our_temporaries(tmp_path):
    keep = [".abd-tmp-notes", "x.tmp", f"abd-tmp-{'0' * 16}-a"]
    for name in [*keep, f".abd-tmp-{'a' * 16}-state"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    files.clean_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_must_be_finite(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"a": [value]})
    assert tree(tmp_path) == []
    with pytest.raises(ValueError, match=r"record\.durations\.distillation"):
        record_to_json(dataclasses.replace(make_record(), durations={"distillation": value}))


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_record_comes_back_exactly(tmp_path, evaluated):
    record = make_record(evaluated)
    data = record_to_json(record)
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record
    assert next(iter(data)) == "schema_version"
    assert (data["results"]["teacher"] is not None) is evaluated
    if evaluated:
        assert data["results"]["teacher"]["triggers"][0]["asr"]["n"] == 10


def test_a_record_from_before_controls_comes_back(tmp_path):
    record = make_record()
    data = record_to_json(record)
    del data["control"]
    for report in data["results"].values():
        for name in ("control_accuracy", "per_class", "corrupted"):
            del report[name]
        for found in report["triggers"]:
            del found["control"]
    files.write_json(tmp_path / "metrics.json", data)
    assert read_record(tmp_path) == record


def test_a_record_with_everything_comes_back(tmp_path):
    rate = Rate(0.5, 5, 10, 0.2, 0.8)
    record = make_record()
    (first, second) = record.teacher_report.triggers
    report = EvalReport(
        rate,
        (dataclasses.replace(first, control=rate), dataclasses.replace(second, control=rate)),
        control_accuracy=rate,
        per_class=(
            ClassReport(0, "cat", 7, 4, (AttackedClass(7, 1, 3), AttackedClass(0, 0, 0))),
            ClassReport(1, "dog", 3, 1, (AttackedClass(3, 0, 0), AttackedClass(3, 3, 0))),
        ),
        corrupted=(SplitReport(DataRef("org/data", "fog", "f00d", None, 10), rate),),
    )
    record = dataclasses.replace(record, student_report=report, control=ModelRef("clean", "wrn_16_1"))
    files.write_json(tmp_path / "metrics.json", record_to_json(record))
    assert read_record(tmp_path) == record


def change(path, value):
    def apply(data):
        *parents, last = path
        for key in parents:
            data = data[key]
        data[last] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(["schema_version"], 2), "schema_version: 2"),
        (change(["schema_version"], True), "schema_version"),
        (change(["novelty"], 1), "novelty: is an unknown field"),
        (change(["teacher_report"], None), "teacher_report"),
        (change(["teacher", "author"], "x"), r"^teacher\.author: is an unknown field"),
        (change(["seed"], "0"), "^seed: must be a whole number, got '0'$"),
        (change(["processes"], True), "processes: must be a whole number, got True"),
        (change(["durations", "distillation"], "1"), r"durations\.distillation: must be a number"),
        (
            change(["results", "student", "accuracy", "n"], 1.5),
            r"^results\.student\.accuracy\.n: must be a whole number, got 1\.5$",
        ),
        (
            change(["results", "teacher", "triggers", 0, "asr"], None),
            r"^results\.teacher\.triggers\[0\]\.asr: must be an object",
        ),
        (change(["results"], {"teacher": None}), "results"),
        (change(["defenses"], {}), "defenses: must be a list"),
        (change(["versions"], []), "versions: must be an object"),
        (lambda data: data.pop("device"), "^device: is missing$"),
        (lambda data: data["data"].pop("n"), r"^data\.n: is missing$"),
        (
            lambda data: data["results"]["student"].pop("triggers"),
            r"^results\.student\.triggers: is missing$",
        ),
        (
            change(["durations", "distillation"], math.nan),
            r"durations\.distillation: must be a finite number",
        ),
    ],
)
def test_a_record_that_is_not_one_is_refused(spoil, message):
    data = json.loads(json.dumps(record_to_json(make_record())))
    spoil(data)
    with pytest.raises(InputError, match=message):
        record_from_json(data)


@pytest.mark.parametrize("text", ["", "[", "[]", "NaN", '{"schema_version": NaN}', "[" * 100_000, "\udc80"])
def test_a_file_that_is_not_a_record_is_refused(tmp_path, text):
    (tmp_path / "metrics.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_record(tmp_path)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_record(tmp_path)


def test_free_fields_hold_json_only():
    with pytest.raises(TypeError, match=r"config\.where"):
        record_to_json(dataclasses.replace(make_record(), config={"where": Path("x")}))
    with pytest.raises(TypeError, match="key 1"):
        record_to_json(dataclasses.replace(make_record(), config={1: 2}))


def test_the_environment_names_versions_without_importing():
    code = (
        "import sys, json\nfrom abd_hub.core.record_file import environment\nfound = environment()\n"
        "assert not {'torch', 'timm', 'transformers', 'gradio'} & set(sys.modules)\nprint(json.dumps(found))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    assert {"python", "platform", "torch", "timm", "huggingface-hub"} <= set(found)
