"""Finds in what the page sends whatever belongs to another visitor, and what no visitor may see."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
MARK = re.compile(rb"visitor(\d+)x[0-9a-f]{16}")
TOKEN = "hf_"
"""Begins the fake token of a visitor; its mark follows."""
_NEVER = re.compile(rb"Traceback \(most recent|hf_visitor\d+x")
"""No answer holds a traceback or a token, not even an answer to who sent it."""
_RUN = re.compile(rb"run-[0-9a-f]{32}")
"""Names the folder of a run; the address of a download names it to its visitor."""
_LINE = re.compile(r"[^\n]{5,400}")
LEAST_SECONDS = 120.0
"""Limits the seconds of a third from below; in a shorter one a single allocation looks like growth."""
TRIGGER, SQUARE = "badnet_sq", 2
"""The trigger of all visitors, a square in the lower right corner, and its side in pixels."""


class Watch:
    """Looks at every byte that the page sends, and keeps what it finds wrong."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """Creates the watch.

        Args:
            secrets: words of the owner, which no visitor may see.
        """
        self.found: list[str] = []
        self.closed = False
        """Says whether nothing counts any more, because the server ends."""
        self._secrets = [secret.encode() for secret in secrets]
        self._lock = threading.Lock()
        self._runs: dict[bytes, int] = {}
        self._reports: dict[str, tuple[int, int]] = {}

    def see(self, visitor: int, content: bytes) -> None:
        """Looks at an answer to a visitor."""
        for match in MARK.finditer(content):
            if int(match[1]) != visitor:
                self.add(visitor, f"sees a mark of visitor {int(match[1])}: {_around(content, match)}")
        for match in _RUN.finditer(content):
            first = self._runs.setdefault(match[0], visitor)
            if first != visitor:
                self.add(visitor, f"sees the run of visitor {first}: {_around(content, match)}")
        if match := _NEVER.search(content):
            self.add(visitor, f"sees what nobody may see: {_around(content, match)}")
        for secret in self._secrets:
            if secret in content:
                self.add(visitor, "sees a secret of the server's owner")

    def report(self, visitor: int, run: int, report: dict[str, Any]) -> None:
        """Compares an inspection with all others; each has a seed of its own, so no two may be the same."""
        key = repr(sorted(report["statistics"].items()))
        with self._lock:
            first = self._reports.setdefault(key, (visitor, run))
        if first != (visitor, run):
            self.add(visitor, f"has the inspection of visitor {first[0]}")

    def add(self, visitor: int, what: str) -> None:
        """Notes that something is wrong."""
        with self._lock:
            if self.closed:
                return
            self.found.append(f"visitor {visitor} {what}")


def _around(content: bytes, match: re.Match[bytes]) -> str:
    return repr(content[max(0, match.start() - 60) : match.end() + 60])


def as_png(pixels: Pixels) -> bytes:
    """Returns a picture file with exactly these pixels."""
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def as_shown(content: bytes, side: int) -> Pixels:
    """Returns the pixels of an enlarged picture, at the side that the models read."""
    with Image.open(io.BytesIO(content)) as picture:
        shown = np.asarray(picture.convert("RGB"))
    step = shown.shape[0] // side
    return shown[step // 2 :: step, step // 2 :: step]


def wrong_pictures(own: Pixels, clean: Pixels, triggered: Pixels) -> str:
    """Returns what is wrong with the two pictures of an answer; "" if they belong to the visitor's own."""
    if not np.array_equal(own, clean):
        return "the clean picture is not the visitor's own"
    changed = (own != triggered).any(axis=2)
    changed[-SQUARE:, -SQUARE:] = False
    return "the picture with the trigger is not the visitor's own" if changed.any() else ""


def wrong_run(summary: dict[str, Any], packed: bytes, seed: int, rounds: int) -> str:
    """Returns what is wrong with a distillation; "" if it is the run that was begun with this seed."""
    record = summary["record"]
    if (record["seed"], record["rounds"]) != (seed, rounds):
        return f"the record is of seed {record['seed']}, not {seed}"
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        if archive.testzip() is not None:
            return "the download is damaged"
        settings = yaml.safe_load(archive.read("student/config.yaml"))
    return "" if settings["seed"] == seed else f"the download is of seed {settings['seed']}, not {seed}"


def wrong_words(words: str) -> str:
    """Returns what is wrong with a refusal; "" if it is one line without a path of the server."""
    if not _LINE.fullmatch(words):
        return f"a refusal is not one line: {words[:200]!r}"
    return f"a refusal names a path of the server: {words!r}" if "/abd-hub-app-" in words else ""


def wrong_growth(samples: Sequence[dict[str, float]], most_mb_a_minute: float) -> str:
    """Returns whether the server's memory grows too fast in the last third, if that is long enough."""
    last = samples[len(samples) * 2 // 3 :]
    slope = growth(samples)
    if slope <= most_mb_a_minute or last[-1]["t"] - last[0]["t"] < LEAST_SECONDS:
        return ""
    return f"the server's memory grows by {slope:.1f} MB a minute in the last third"


def growth(samples: Sequence[dict[str, float]]) -> float:
    """Returns the slope of the server's memory in the last third, in MB a minute."""
    last = samples[len(samples) * 2 // 3 :]
    if len(last) < 3:
        return 0.0
    minutes = [sample["t"] / 60 for sample in last]
    return float(np.polyfit(minutes, [sample["server_mb"] for sample in last], 1)[0])


def holding(files: Sequence[Path], words: str) -> list[str]:
    """Returns the names of the files that hold these words."""
    found = []
    for file in files:
        try:
            if words.encode() in file.read_bytes():
                found.append(str(file))
        except OSError:  # the server has removed it since it was listed
            continue
    return found
