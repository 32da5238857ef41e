"""Addresses of files on the Hub: one spelling, the old one with a warning, and a commit for every file."""

import logging

import numpy as np
import pytest
from PIL import Image

from abd_hub import InputError, build_trigger
from abd_hub.hub import addresses
from abd_hub.hub.addresses import Address, fetch_file, is_address, parse_address
from abd_hub.synthesis import photographs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the Hub's client with one picture in a model and in a data set, and no network."""
    for folder in ("models--acme--marks", "datasets--acme--marks"):
        file = tmp_path / folder / "snapshots" / COMMIT / "a" / "b.png"
        file.parent.mkdir(parents=True)
        level = 10 if folder.startswith("models") else 200
        Image.fromarray(np.full((80, 80, 3), level, np.uint8)).save(file)
        (tmp_path / folder / "refs").mkdir()
        for name in ("main", "v1.0"):
            (tmp_path / folder / "refs" / name).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    addresses._warn_once.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("hf://acme/marks/b.png", Address("model", "acme/marks", None, "b.png")),
        ("hf://acme/marks@v1.0/a/b.png", Address("model", "acme/marks", "v1.0", "a/b.png")),
        ("hf://datasets/acme/marks@v1/b.png", Address("dataset", "acme/marks", "v1", "b.png")),
        ("hf-hub:acme/marks/a/b.png", Address("model", "acme/marks", None, "a/b.png")),
        ("hf-hub:acme/marks@v1.0/b.png", Address("model", "acme/marks", "v1.0", "b.png")),
    ],
)
def test_addresses_are_taken_apart(name, wanted):
    assert is_address(name) and parse_address(name, "x") == wanted


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://acme", "hf://acme/marks", "hf-hub:acme", "hf-hub:acme/marks", "hf://buckets/a/b/c"],
)
def test_an_address_without_a_file_is_refused(name):
    with pytest.raises(InputError, match=r"^x: 'it' names no file.* use the form hf://\[datasets/\]org"):
        parse_address(name, "x: 'it'")


@pytest.mark.parametrize(
    "name", ["picture.png", "datasets/acme/marks/b.png", "sklearn:china.jpg", "./hf://x"]
)
def test_other_names_are_no_addresses(name):
    assert not is_address(name)


@pytest.mark.parametrize("name", ["hf://datasets/acme/marks/a/b.png", f"hf://acme/marks@{COMMIT}/a/b.png"])
def test_a_file_has_its_commit(name, cache):
    path, commit = fetch_file(name, "x")
    assert commit == COMMIT and path.is_relative_to(cache) and path.name == "b.png"


def test_a_file_that_is_not_there_is_one_line(cache):
    with pytest.raises(InputError, match=r"^x: file cannot be fetched: the Hub cannot be reached") as refusal:
        fetch_file("hf://acme/marks/none.png", "x: file")
    assert "\n" not in str(refusal.value)


def test_triggers_and_photographs_take_the_same_spellings(cache):
    for place, level in (
        ("hf://acme/marks@v1.0/a/b.png", 10),
        ("hf-hub:acme/marks/a/b.png", 10),
        ("hf://datasets/acme/marks/a/b.png", 200),
    ):
        trigger = build_trigger("picture", {"file": place, "mode": "replace"})
        photograph = photographs.load("ood.pictures", place)
        assert trigger._picture.unique().tolist() == photograph.pixels.unique().tolist() == [level]
        assert photograph.revision == COMMIT and photograph.name == place


def test_the_old_spelling_is_warned_of_once(cache, caplog):
    with caplog.at_level(logging.WARNING, "abd_hub"):
        for _ in range(3):
            build_trigger("picture", {"file": "hf-hub:acme/marks/a/b.png"})
        build_trigger("picture", {"file": "hf://acme/marks/a/b.png"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "hf-hub:acme/marks/a/b.png: this spelling is old; write hf://acme/marks/a/b.png"
