"""A run of a sweep that costs nothing: counts rounds, keeps a checkpoint, writes a record at the end.

It claims its folder, goes on where it was and stops on SIGINT as the real command does, but imports no torch:
a sweep of many runs that are killed all the time would take a quarter of an hour otherwise.
"""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import yaml

from abd_hub.core import files
from abd_hub.core.errors import InputError
from abd_hub.core.folder import OutputFolder
from abd_hub.core.processes import follow_supervisor
from abd_hub.core.record_file import record_to_json
from abd_hub.core.records import EvalReport, ModelRef, Rate, RunRecord, TriggerReport

A_ROUND = 0.1
A_CHECKPOINT = 1.0


def main():
    follow_supervisor(grace=30)
    _, _, config, _, folder, _, resume = sys.argv[1:]
    text = Path(config).read_text()
    settings = yaml.safe_load(text)
    assert resume == "true"
    with OutputFolder.open(folder, resume=True, config_yaml=text):
        try:
            rounds(Path(folder), settings)
        except KeyboardInterrupt:
            time.sleep(A_CHECKPOINT)
            raise


@contextmanager
def stop_later():
    """As in the real loop, a request to stop waits until log and checkpoint agree.

    A mask of this thread is not enough: the thread that watches the supervisor takes the signal then.
    """
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    yield
    signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def rounds(folder, settings):
    checkpoint = folder / "checkpoint.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"round": 0, "sum": 0}
    while state["round"] < settings["zskt"]["rounds"]:
        time.sleep(A_ROUND)
        state = {"round": state["round"] + 1, "sum": state["sum"] + settings["seed"] * state["round"]}
        row = json.dumps({"round": state["round"], "threads": os.environ["OMP_NUM_THREADS"]})
        with stop_later():
            with (folder / "log.jsonl").open("a") as log:
                log.write(row + "\n")
            files.write_json(checkpoint, state)
    rate = Rate(value=state["sum"] / 1000, count=state["sum"], n=1000, low=0.0, high=1.0)
    report = EvalReport(rate, (TriggerReport("badnet_sq", 0, {}, rate, rate),))
    record = RunRecord(
        **{"method": "zskt", "teacher": ModelRef("t", "a"), "student": ModelRef("s", "a"), "data": None},
        **{"teacher_report": report, "student_report": report, "defenses": (), "seed": settings["seed"]},
        **{"rounds": state["round"], "versions": {}, "durations": {}, "device": "cpu", "processes": 1},
        config={},
    )
    files.write_json(folder / "metrics.json", record_to_json(record))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except InputError:
        sys.exit(2)
