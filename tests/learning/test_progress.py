"""Progress: a bar on a terminal, lines in a file."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time

import quick_python
from tqdm import tqdm

from abd_hub.learning import progress as shown
from abd_hub.learning.progress import Clock, Lines, over, progress, progress_listener


def test_a_line_tells_what_is_done_and_what_is_left():
    bar = Lines(136, 12, "round", None)
    assert bar.line(5) == "12 of 136 rounds after 0:05"
    bar.clock.stepped(32, 64.0)
    bar.done += 32
    bar.set_postfix_str("agrees on 43%")
    assert bar.n == 44
    # 32 rounds in 64 s, and 92 are left.
    assert bar.line(64) == "44 of 136 rounds after 1:04, about 3:04 left; agrees on 43%"
    assert "about 2:44 left" in bar.line(84), "it runs down within a round"
    bar.total = 44
    bar.refresh()
    assert bar.line(4000).startswith("44 of 44 rounds after 1:06:40, about 0:00 left")
    assert Lines(2000, 0, "step", "purify").line(0) == "purify: 0 of 2,000 steps after 0:00"
    bar.update()
    assert bar.n == 45
    assert Lines(40, 0, "batch", "evaluate").line(0) == "evaluate: 0 of 40 batches after 0:00"


def test_what_follows_a_loop_counts():
    assert Clock(left=lambda: 10.0, after=65.0).text(3, 0.0) == "1:15"
    assert Clock(left=lambda: None, after=65.0).text(3, 0.0) == "?"
    clock = Clock(after=60.0)
    clock.stepped(0, 5.0)
    assert clock.text(3, 5.0) == "?"
    clock.stepped(2, 20.0)
    assert clock.text(3, 20.0) == "1:30"
    with shown.followed_by(100), shown.followed_by(20), shown.lasting(3600), progress(4, unit="round") as bar:
        assert "about 1:02:00 left" in bar.line(1)
    with shown.followed_by(100), shown.lasting(0), progress(4, unit="round") as bar:
        assert "left" not in bar.line(1)


def test_a_run_that_shows_nothing_hides_its_parts_too(monkeypatch, capsys):
    monkeypatch.setattr(shown, "EVERY", 0.001)
    with shown.shown(False), shown.shown(True):
        for _ in over(range(3), 3, unit="step", name="inspect"):
            time.sleep(0.01)
    assert capsys.readouterr().err == ""
    for _ in over(range(3), 3, unit="step", name="inspect"):
        time.sleep(0.05)
    assert "inspect: " in capsys.readouterr().err


def test_a_file_gets_lines_also_within_a_long_step(monkeypatch, capsys):
    monkeypatch.setattr(shown, "EVERY", 0.02)
    with progress(4, unit="round", name="distilling") as bar:
        assert isinstance(bar, Lines)
        until = time.monotonic() + 20
        said = ""
        while said.count("\n") < 2 and time.monotonic() < until:
            time.sleep(0.02)
            said += capsys.readouterr().err
        bar.update()
    assert said.splitlines()[0].startswith("distilling: 0 of 4 rounds after 0:00")
    time.sleep(0.1)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == "", "the end is the end"


def test_a_short_loop_writes_nothing(capsys):
    assert list(over(range(3), 3, unit="step", name="purify")) == [0, 1, 2]
    assert next(iter(over(range(3), 3, unit="step", name="purify"))) == 0
    with progress(3, unit="round", show=False) as bar:
        bar.update()
    assert isinstance(bar, tqdm) and bar.disable
    assert capsys.readouterr().err == ""


def test_a_listener_hears_of_each_step():
    heard = []
    with progress_listener(lambda *told: heard.append(told)):
        assert list(over(range(5), 2, unit="step", name="purify"))[-1] == 4
        for _ in over(range(3), 3, unit="step", name="inspect"):
            break
    list(over(range(2), 2, unit="step", name="purify"))
    steps = [("purify", done, 2) for done in range(5)]
    assert heard == [*steps, ("purify", 2, 2), ("inspect", 0, 3)]


PROGRAM = """
import logging, time
from abd_hub import cli
cli._set_up_logging()
from abd_hub.learning import progress as shown
from abd_hub.learning.progress import progress
shown.REDRAWN = 0.05
with progress(50, unit="round") as bar:
    bar.set_postfix_str("agrees on 43%, loss 0.312")
    for _ in range(50):
        bar.update()
    logging.getLogger("abd_hub").warning("a defense says a word")
with shown.followed_by(119), progress(3, unit="step", left=lambda: 1.0) as bar:
    time.sleep(0.4)
"""


def test_a_terminal_gets_a_bar_that_fits():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    python = quick_python.executable()
    done = subprocess.Popen([python, "-c", PROGRAM], stderr=theirs, env=environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        text += part
    os.close(ours)
    assert done.wait() == 0
    assert text.count(b"<02:00") >= 3 or text.count(b"<2:00") >= 3, "it is drawn again within a step"
    assert "a defense says a word" in text.decode().replace("\r", "\n").splitlines(), "a line of its own"
    rows = [row for row in text.decode().replace("\r", "\n").splitlines() if "round" in row]
    assert rows and all(len(row.strip()) <= shown.COLUMNS for row in rows)
    assert "agrees on 43%, loss 0.312" in rows[-1] and "50/50" in rows[-1] and "█" in rows[-1]
