"""Does on the page what a person does there: tries pictures, begins runs, cancels, leaves, and pries."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from visitor_checks import (
    SQUARE,
    TOKEN,
    TRIGGER,
    Pixels,
    Watch,
    as_png,
    as_shown,
    wrong_pictures,
    wrong_run,
    wrong_words,
)
from visitor_page import API, Broken, Page, Refused

WEIGHTS = {
    "try": 40,
    "hurry": 4,
    "compare": 8,
    "distill": 14,
    "inspect": 8,
    "push": 8,
    "pry": 12,
    "leave": 10,
}
"""Says how often a visitor does what."""
BURST = 12
"""Counts the pictures that an impatient visitor sends at once; the server's line holds eight."""
FATES = {"stay": 49, "cancel": 17, "leave": 17, "again": 17}
"""Says what becomes of a run."""
ROUNDS = 20
STEPS = 60
LONGEST_RUN = 900.0
TEACHER = "shelf:teacher"
_SOURCE = (TEACHER, "", [], "")
_INSIDE = ("request.yaml", "output", "student/log.jsonl", "student/config.yaml", "student/model.safetensors")
"""Names files of a run, of which only the zip is served."""
_KILLED = "was killed by SIGKILL unexpectedly"


@dataclass
class Act:
    """Is one thing that a visitor has done, and how it went."""

    visitor: int
    action: str
    began: float
    seconds: float = 0.0
    outcome: str = "well"
    """Is well, cancelled, left, killed, refused, full or wrong."""
    words: str = ""
    run: int = -1
    """Holds the seed of a run, by which it is known."""


@dataclass
class Town:
    """Holds what all visitors share."""

    address: str
    known: dict[str, int]
    side: int
    """Holds the side of the models' images in pixels."""
    seed: int
    pause: float
    """Sets the mean seconds between two acts of a visitor."""
    watch: Watch
    note: Callable[[Act], None]
    began: float
    until: float
    places: Callable[[], list[str]] = list
    """Returns the names of the folders of all runs, which the owner of the server knows."""
    compared: list[Any] = field(default_factory=list)
    """Holds the first answer of the comparison, which is the same for all."""


class Visitor(threading.Thread):
    """Opens the page and does random things there until the time is over."""

    def __init__(self, number: int, town: Town) -> None:
        super().__init__(daemon=True)
        self.number, self.town = number, town
        self.chance = random.Random(f"{town.seed} visitor {number}")
        self.runs = 0
        self.running = False
        self.asked = b""
        """Holds the name of another's run, while this visitor asks for it."""
        self.finished = False
        """Says whether this page has a finished distillation."""
        self.page = self._new_page()

    def run(self) -> None:
        """Acts until the time is over, then leaves."""
        self.do("open")
        while time.monotonic() < self.town.until and not self.town.watch.closed:
            time.sleep(self.chance.uniform(0, 2 * self.town.pause))
            self.do(self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0])
        self.page.leave()

    def do(self, action: str) -> Act:
        """Does one thing, and notes how it went."""
        act = Act(self.number, action, time.monotonic() - self.town.began)
        with self._judged(act):
            getattr(self, f"_{action}")(act)
        self.town.note(act)
        return act

    @contextmanager
    def _judged(self, act: Act) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except Refused as refusal:
            act.words = str(refusal)
            act.outcome = _kind_of(act.words)
            self._must(act, wrong_words(act.words))
        except Broken as error:
            act.outcome = "left"
            self._must(act, "" if self.page.left else str(error))
        except Exception as error:
            self._must(act, f"{type(error).__name__}: {error}")
        act.seconds = round(time.monotonic() - began, 4)

    def _must(self, act: Act, wrong: str) -> None:
        if wrong:
            act.outcome, act.words = "wrong", wrong
            self.town.watch.add(self.number, f"{act.action}: {wrong}")

    def mark(self) -> str:
        """Returns a new word that can be no other visitor's."""
        return f"visitor{self.number}x{self.chance.getrandbits(64):016x}"

    def _new_page(self) -> Page:
        def see(content: bytes) -> None:
            # A refusal may repeat what this visitor has asked for.
            self.town.watch.see(self.number, content.replace(self.asked, b""))

        self.finished = False
        return Page(self.town.address, self.town.known, self.mark(), see)

    # --------------------------------------------------------------------------------------- small acts

    def _open(self, act: Act) -> None:
        page = self.page.open()
        self._must(act, "" if b"See a backdoor" in page else "the page is another")

    def _leave(self, act: Act) -> None:
        self.page.leave()
        self.page = self._new_page()
        self._open(act)

    def _try(self, act: Act) -> None:
        self._must(act, self._answered(self._send_picture()))

    def _hurry(self, act: Act) -> None:
        """Sends many pictures at once, more than the server's line holds; each that is taken is answered."""
        sent, refused = [], []
        for _ in range(BURST):
            try:
                sent.append(self._send_picture())
            except Refused as refusal:
                refused.append(refusal)
        for one in sent:
            self._must(act, self._answered(one))
        if refused and act.outcome == "well":
            raise refused[0]

    def _compare(self, act: Act) -> None:
        found = self.page.direct("compare")
        shared = self.town.compared
        shared.append(found)
        self._must(act, "" if found == shared[0] else "the comparison is another")
        del shared[1:]

    def _push(self, act: Act) -> None:
        token, outcome = self.page.call("push", f"acme/{self.mark()}", True, TOKEN + self.mark())
        # The page keeps the last eight results of all visitors.
        known = "no finished run of yours" in outcome or (self.finished and "token" in outcome)
        said = "Not pushed" in outcome and known
        self._must(act, "" if said and token == "" else f"a push with a wrong token: {outcome[:300]}")

    def _send_picture(self) -> tuple[str, Pixels]:
        values = self.chance.randbytes(3 * self.town.side**2)
        own = np.frombuffer(values, np.uint8).reshape(self.town.side, self.town.side, 3)
        file = self.page.upload(f"{self.mark()}.png", as_png(own))
        asked = (file, TRIGGER, 0, SQUARE, 0, None, None, None)
        return self.page.begin("predict", *asked), own

    def _answered(self, sent: tuple[str, Pixels]) -> str:
        event, own = sent
        *_, (clean, triggered, _pair, _cards, numbers) = self.page.follow(event)
        if numbers["trigger"] != TRIGGER or not numbers["models"]:
            return "the answer is for another trigger"
        shown = [as_shown(self.page.file(picture), self.town.side) for picture in (clean, triggered)]
        return wrong_pictures(own, *shown)

    # ------------------------------------------------------------------------------------------- prying

    def _pry(self, act: Act) -> None:
        """Asks for what is another's; a refusal is what it must get."""
        places = self.town.places()
        path = self.chance.choice(places) if places else "/tmp/run-" + "0" * 32
        name = path.rsplit("/", 1)[-1]
        tries = [
            lambda: self.page.call("run", name),
            lambda: self.page.call("distil", f"shelf:{name}", *self.distillation(0)[1:]),
            lambda: self.page.call("inspect", f"shelf:../{name}/student", *self.inspection(0)[1:]),
            lambda: self.page.get(f"{API}/file=/etc/passwd"),
            lambda: self.page.get(f"{API}/deep_link?session_hash={self.page.session}"),
            lambda: self.page.get(f"{API}/run-history"),
            lambda: self.page.get(f"{API}/file={path}/{self.chance.choice(_INSIDE)}"),
        ]
        self.asked = name.encode()
        try:
            self.chance.choice(tries)()
        except Refused as refusal:
            act.words = str(refusal)
            # A line without a place says nothing about the refusal of another's things.
            act.outcome = "full" if _kind_of(act.words) == "full" else "well"
            self._must(act, wrong_words(act.words))
        else:
            self._must(act, f"another's run was not refused: {name}")
        finally:
            self.asked = b""

    # --------------------------------------------------------------------------------------------- runs

    def distillation(self, seed: int) -> tuple[Any, ...]:
        """Returns what a visitor asks for in a distillation."""
        return (*_SOURCE, "zskt", [], ROUNDS, 10, seed, "wrn_10_1", False, 2)

    def inspection(self, seed: int) -> tuple[Any, ...]:
        return (*_SOURCE, STEPS, seed, 10)

    def _distill(self, act: Act) -> None:
        seed, before = self._next_run(act), self.finished
        self.finished = False
        try:
            last = self._follow_run(act, "distil", self.distillation(seed))
        except Refused as refusal:
            # A run that does not begin replaces no earlier result.
            self.finished = before and _kind_of(str(refusal)) != "killed"
            raise
        if last is not None:
            summary = last[4]
            packed = self.page.file(last[3]["value"])
            self._must(act, wrong_run(summary, packed, seed, ROUNDS))
            self.finished = True

    def _inspect(self, act: Act) -> None:
        seed = self._next_run(act)
        last = self._follow_run(act, "inspect", self.inspection(seed))
        if last is not None:
            self.town.watch.report(self.number, seed, last[4]["report"])

    def _next_run(self, act: Act) -> int:
        self.runs += 1
        act.run = 10_000 * (self.number + 1) + self.runs
        return act.run

    def _follow_run(self, act: Act, name: str, asked: tuple[Any, ...]) -> list[Any] | None:
        """Follows a run to its end; returns its last state, or None where it ended without a result."""
        fate = self.chance.choices(list(FATES), list(FATES.values()))[0]
        event = self.page.begin(name, *asked)
        timer = threading.Timer(self.chance.uniform(0, 20), self._meet, (act, fate))
        self.running = True
        timer.start()
        try:
            *_, values = self.page.follow(event, LONGEST_RUN)
        except Broken:
            if act.outcome != "left":
                raise
        finally:
            self.running = False
            timer.cancel()
            timer.join()
        if self.page.left:
            self.page = self._new_page()
            self.page.open()
            return None
        state = values[4]["state"]
        if state == "done":  # a cancel may have come too late
            return values
        act.outcome = state
        self._must(act, "" if (state, fate) == ("cancelled", "cancel") else f"the run has ended: {state}")
        return None

    def _meet(self, act: Act, fate: str) -> None:
        """Does during the run what its fate says."""
        try:
            if fate == "leave":
                act.outcome = "left"
                self.page.leave()
            elif fate == "cancel":
                self.page.direct("cancel")
            elif fate == "again":
                self._begin_again()
        except Refused as refusal:
            wrong = wrong_words(str(refusal))
            if wrong or fate == "cancel":
                self.town.watch.add(self.number, f"{fate}: {wrong or refusal}")
        except Broken as error:
            self.town.watch.add(self.number, f"{fate}: {error}")

    def _begin_again(self) -> None:
        """Begins a second run, which the page refuses unless the first one has just ended."""
        for _ in self.page.follow(self.page.begin("distil", *self.distillation(0))):
            time.sleep(3)
            if self.running:
                self.town.watch.add(self.number, "has two runs at once")
            self.page.direct("cancel")


def _kind_of(words: str) -> str:
    """Names a refusal: the line is full, the run was killed, or another."""
    if _KILLED in words:
        return "killed"
    return "full" if words.startswith("Queue is full") or "are in line already" in words else "refused"
