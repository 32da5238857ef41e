"""Hostile inputs of every kind are used or refused in one line, and the judge finds each kind of fault."""

import dataclasses
import json
import mmap
import os
import re
import runpy
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import fuzz_oracle
import fuzz_processes
import numpy as np
import pytest
from folders import snapshot
from fuzz_kinds import KINDS, Kind, make_examples, preload

from abd_hub import InputError

ROOT = Path(__file__).parents[2]
SHARE = 2
"""Thousandths of a campaign of 20,000 inputs that run here, with at least two of each kind."""


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    place = tmp_path_factory.mktemp("examples")
    fuzz_oracle.forked(make_examples, place)
    preload(place.resolve())
    return place


@pytest.mark.parametrize("name", KINDS)
def test_inputs_are_used_or_refused_in_one_line(name, examples, tmp_path):
    jobs = [(name, number) for number in range(max(2, KINDS[name].share * 20 * SHARE // 100))]
    found = list(fuzz_oracle.read_inputs(jobs, 7, examples, tmp_path / "work"))
    assert [outcome.number for outcome in found] == [number for _, number in jobs]
    assert not [f"{name}:{one.number} {one.why}" for one in found if one.outcome == "wrong"]


@pytest.mark.parametrize(("name", "number"), [("pickles", 3), ("pickles", 5), ("parquet", 1), ("picture", 2)])
def test_a_seed_gives_the_same_bytes(name, number, examples, tmp_path):
    def content(seed):
        fuzz_oracle.write_input(KINDS[name], number, seed, examples, tmp_path / "work")
        return snapshot(tmp_path / "work")

    first = content(0)
    assert first != content(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "localtime", lambda *_: time.gmtime(10**9))  # archives may hold the time
        assert first == content(0)


def raises_another_error(_examples, _folder):
    raise KeyError("seed")


def refuses_in_two_lines(_examples, _folder):
    raise TwoLines("seed: 1\nuse 2")


class TwoLines(InputError):
    """As it would be without the words of ``InputError``."""

    def __str__(self):
        return self.args[0]


def refuses_with_color(_examples, _folder):
    raise TwoLines("seed: \x1b[31m")


def says_nothing(_examples, _folder):
    raise InputError("")


def opens_a_file_elsewhere(examples, _folder):
    (examples / "outside" / "secret.png").read_bytes()


def follows_a_link(examples, folder):
    (folder / "link").symlink_to(examples / "outside")
    (folder / "link" / "secret.png").read_bytes()


def starts_a_program(_examples, _folder):
    subprocess.run(["true"], check=True)


def reaches_for_the_network(_examples, _folder):
    try:
        urllib.request.urlopen("http://127.0.0.1:9/x")
    except OSError as error:
        raise InputError("seed: the network is away") from error


def takes_much_memory(_examples, _folder):
    np.frombuffer(mmap.mmap(-1, 1_200_000_000), np.uint8)[:] = 1


def takes_long(_examples, _folder):
    time.sleep(60)


def ends_the_process(_examples, _folder):
    os._exit(6)


def runs_code(_examples, folder):
    (folder / "ran").touch()


FAULTS = {
    raises_another_error: "raises KeyError: 'seed' at",
    refuses_in_two_lines: "in several lines",
    refuses_with_color: "hidden characters",
    says_nothing: "without a word",
    opens_a_file_elsewhere: "open of '.*outside/secret.png'",
    follows_a_link: "open of '.*outside/secret.png'",
    starts_a_program: "starts a program",
    reaches_for_the_network: "reaches for the network",
    takes_much_memory: r"takes \d\.\d GiB of memory",
    takes_long: "more than 1 seconds",
    ends_the_process: "ends the process with 6",
    runs_code: "has run code",
}


@pytest.mark.parametrize("read", FAULTS, ids=lambda read: read.__name__)
def test_the_judge_finds(read, examples, tmp_path, monkeypatch):
    def write(_examples, folder, chance):
        (folder / "number").write_text(str(chance.random()))

    monkeypatch.setitem(KINDS, "planted", Kind("planted", 1, write, read))
    monkeypatch.setitem(KINDS, "harmless", Kind("harmless", 1, write, lambda *_: None))
    if read is takes_much_memory:
        monkeypatch.setattr(fuzz_oracle, "MOST_BYTES", fuzz_oracle._now() + 200_000_000)
    jobs = [("harmless", 0), ("planted", 1), ("harmless", 2)]
    limit = 1 if read is takes_long else 60
    found = list(fuzz_oracle.read_inputs(jobs, 0, examples, tmp_path / "work", most_seconds=limit))
    assert [(one.number, one.outcome) for one in found] == [(0, "works"), (1, "wrong"), (2, "works")]
    assert re.search(FAULTS[read], found[1].why), found[1].why


@pytest.fixture
def recipe(examples, tmp_path, monkeypatch, capfd):
    """Runs the recipe with further words: its exit code and its output."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    (tmp_path / "examples").symlink_to(examples)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["recipes/fuzz.py", "--out", str(tmp_path), *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "recipes" / "fuzz.py"), run_name="__main__")
        return ended.value.code, capfd.readouterr().out

    return run


def test_the_recipe_continues_and_sums_up(recipe, tmp_path):
    kinds = ["--kinds", "picture", "page_drawing"]
    code, first = recipe("--inputs", "6", *kinds)
    assert code == 0 and "6 of 6 inputs, 0 wrong" in first and "| all | 6 |" in first
    code, again = recipe("--inputs", "9", *kinds)
    assert code == 0 and "3 of 3 inputs" in again and "| all | 9 |" in again
    facts = json.loads((tmp_path / "fuzz.json").read_text())
    assert facts["inputs"] == 9 and [row["wrong"] for row in facts["kinds"]] == [0, 0]
    code, one = recipe("--only", "picture:2")
    assert code == 0 and '"number": 2' in one and (tmp_path / "work" / "picture").exists()


def test_the_recipe_keeps_what_is_wrong_and_repeats_it(recipe, tmp_path, monkeypatch):
    whole = KINDS["page_drawing"]
    monkeypatch.setitem(KINDS, "page_drawing", dataclasses.replace(whole, read=raises_another_error))
    code, shown = recipe("--inputs", "2", "--kinds", "page_drawing")
    assert code == 1 and "page_drawing:1 raises KeyError" in shown and "| all | 2 | 0 | 0 | 2 |" in shown
    kept = json.loads((tmp_path / "wrong" / "page_drawing-1" / "why.json").read_text())
    assert kept["number"] == 1 and (tmp_path / "wrong" / "page_drawing-1" / "drawing.json").exists()
    monkeypatch.setitem(KINDS, "page_drawing", whole)
    code, shown = recipe("--inputs", "2", "--kinds", "page_drawing")
    assert code == 0 and "2 of 2 inputs, 0 wrong" in shown and "| all | 2 |" in shown


CALLS = """12 execve("/venv/bin/python", ["python"], 0x7f /* 9 vars */) = 0
12 openat(AT_FDCWD, "/proc/self/maps", O_RDONLY) = 3
12 openat(AT_FDCWD, "{folder}/model/config.json", O_RDONLY) = 3
12 openat(AT_FDCWD, "model/config.json", O_RDONLY) = 3
13 execve("/sbin/ldconfig", ["/sbin/ldconfig", "-p"], 0x7f /* 9 vars */) = 0
12 openat(AT_FDCWD, "/root/.cache/x", O_RDONLY) = -1 ENOENT (No such file or directory)
"""
FURTHER = {
    "": [],
    '12 openat(AT_FDCWD, "/home/me/x\\n", O_RDONLY) = 3': ["opens '/home/me/x\\\\n'"],
    '12 openat(AT_FDCWD, "../x", O_RDONLY|O_CLOEXEC, 0666) = 9': ["opens '../x'"],
    '14 execve("/bin/sh", ["sh", "-c", "x"], 0x7f /* 9 vars */) = 0': ["starts a program: execve"],
    "14 connect(3, {sa_family=AF_INET, sin_port=htons(80)}, 16) = -1 ENETUNREACH": [
        "reaches for the network"
    ],
}


@pytest.mark.parametrize("line", FURTHER)
def test_a_trace_of_system_calls_is_judged(line, tmp_path):
    found = fuzz_processes._faults(CALLS.format(folder=tmp_path) + line, (tmp_path,))
    assert len(found) == len(FURTHER[line])
    assert all(one.startswith(words) for one, words in zip(found, FURTHER[line], strict=True)), found
