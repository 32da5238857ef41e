"""Kills the runs of the page, and the page itself, at random moments; then a run of a visitor ends well."""

import os
import random
import shutil
import signal
import time

from distil_server import SHORT, App, wait
from fault_outcome import Outcome
from gradio_client import Client

FAULTS = ("kill", "kill of the page")
ASKED = {
    **{"teacher": "shelf:teacher", "rounds": 30, "defenses": ["universal_direction"], "method": "zskt"},
    **{"hub_id": None, "files": None, "folder": None, **SHORT},
}


class Page:
    """Has a page that serves, and what an unbroken run on it gives."""

    def __init__(self, bench):
        self.bench, self.app = bench, None
        self.seconds, self.weights = 0.0, ""

    def open(self):
        """Starts the page where it does not serve."""
        if self.app is not None:
            return
        place = self.bench.out / "page"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.app = App(place, self.bench.hub)
        wait(self.app.serves)
        self.client = Client(self.app.address, verbose=False)
        if not self.weights:
            began = time.monotonic()
            self.weights = self.run()
            self.seconds = time.monotonic() - began

    def close(self, how=signal.SIGINT):
        """Ends the page."""
        if self.app is not None:
            self.app.stop(how)
            self.app = None

    def run(self):
        """The hash of the student of an unbroken run."""
        job = self.client.submit(**ASKED, api_name="/distil")
        job.result()
        last = job.outputs()[-1][4]
        return last["record"]["student"]["sha256"] if last["state"] == "done" else str(last)

    def trial(self, fault, number):
        """Carries out one trial, whose moment follows from the seed."""
        chance = random.Random(f"{self.bench.seed} page {fault} {number}")
        began = time.monotonic()
        self.open()
        share = chance.random()
        job = self.client.submit(**ASKED, api_name="/distil")
        process = wait(self.app.runs)[0]
        time.sleep(share * self.seconds)
        why = self.kill_run(job, process) if fault == "kill" else self.kill_page(process)
        self.open()
        left = len(self.app.folders()) - 1
        weights = self.run()
        if weights != self.weights:
            why.append(f"a run after it gives {weights[:200]}")
        seconds = round(time.monotonic() - began, 1)
        return Outcome("page", fault, number, f"after {share:.0%} of its time", "; ".join(why), left, seconds)

    def kill_run(self, job, process):
        """Kills a run; its visitor reads why, and nothing of it is left."""
        over = process not in self.app.runs()
        if not over:
            os.kill(process, signal.SIGKILL)
        try:
            job.result(timeout=120)
        except Exception as error:
            said = str(error)
            return (
                []
                if "\n" not in said and "killed by SIGKILL" in said
                else [f"the visitor reads {said[:200]!r}"]
            )
        ended = job.outputs()[-1][4]
        if over and ended["state"] == "done":
            return []
        return [] if ended["state"] in ("failed", "done") else [f"the run is {ended['state']}"]

    def kill_page(self, process):
        """Kills the page; its run ends, too."""
        app, self.app = self.app, None
        app.process.kill()
        app.process.wait()
        try:
            wait(lambda: not app.runs(), 60)
        except AssertionError:
            return [f"the run {process} outlives the page"]
        return []
