"""The app as its users start it: a process of its own on a free port, with a page of its own."""

import json
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import forked

from abd_hub import DataSpec, create_student, save_timm_folder

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "digits"
"""Holds models of ``abd-hub demo`` with seed 0, which answer faster than those that come with the page."""
NAMES = ("teacher", "plain", "abd")
SMALL = tuple(MODELS / name for name in NAMES)
SCRIPT = "<script>window.hacked = 1</script>"
PICTURE = '<img src=x onerror="window.hacked = 2">'
LINK = "[click](javascript:window.hacked=3) **bold**"
TEMPLATE = "${window.hacked = 4} {{constructor}} `x`"
HOSTILE = (SCRIPT, PICTURE, LINK, TEMPLATE, "=1+1", "a\u202eb")
_GIVEN = os.environ.get("PYTHONPATH")
_PATH = os.pathsep.join([str(ROOT), str(ROOT / "app"), *([_GIVEN] if _GIVEN else [])])
ENVIRONMENT = {**os.environ, "PYTHONPATH": _PATH, "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "abd_hub", "app", "--no-browser"]


@contextmanager
def serving(*folders):
    """The address of an app that runs with these folders, or the bundled models, and its process."""
    with tempfile.TemporaryDirectory() as place:
        output = {name: Path(place, name) for name in ("stdout", "stderr")}
        process = forked.start(*COMMAND[1:], *map(str, folders), **output)
        try:
            yield _address(process, **output), process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait_or_kill(300)  # whatever becomes of the test, no server is left behind


def _address(process, stdout, stderr):
    while process.poll() is None:
        said = stdout.read_text("utf-8") if stdout.exists() else ""
        if found := re.search(r"(http://127\.0\.0\.1:\d+) ", said):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(stdout.read_text("utf-8") + stderr.read_text("utf-8"))


def hostile_folder(folder: Path) -> Path:
    """A student whose labels, record and log come from somebody who means harm."""
    save_timm_folder(
        create_student("wrn_10_1", DataSpec(3, 8, 8, HOSTILE), [0.5] * 3, [0.5] * 3, seed=0), folder
    )
    record = json.loads((MODELS / "abd" / "metrics.json").read_text(encoding="utf-8"))
    record["method"] = PICTURE
    record["defenses"][0] |= {
        "name": SCRIPT,
        "detail": PICTURE,
        "facts": {LINK: [PICTURE], "x": {PICTURE: 1}},
    }
    report = record["results"]["student"]["triggers"]
    report.append({**report[0], "trigger": f"={PICTURE}", "options": {"file": "/etc/passwd"}, "target": 1})
    (folder / "metrics.json").write_text(json.dumps(record), encoding="utf-8")
    rows = [
        {"round": 1, "student_loss": 1.0, PICTURE: 2.0, "$\\frac$": 1.0},
        {"round": 2, "student_loss": 0.5},
    ]
    log = "\n".join([*map(json.dumps, rows), '{"round": NaN}', "[", "3"])
    (folder / "log.jsonl").write_text(log, encoding="utf-8")
    (folder / "samples").mkdir()
    (folder / "samples" / "<b>bad<b>.png").write_bytes(b"no picture")
    good = (MODELS / "plain" / "samples" / "training_images.png").read_bytes()
    (folder / "samples" / "<img src=x onerror=window.hacked=5>.png").write_bytes(good)
    return folder
