"""The guide of strangers' files states the bounds of the code, and a test stands behind each promise."""

from __future__ import annotations

import re

import pytest
from abd_hub_app import images, shelf, taught
from documents import ROOT

from abd_hub.core import errors, files, pickles, picture_file, yaml_text
from abd_hub.data import boundary, columns
from abd_hub.data.images import MAX_SIZE_GB, MOST_ROWS
from abd_hub.hub import listing, pull
from abd_hub.models import bounds, pickled, preprocessing, weights
from abd_hub.report import evidence
from abd_hub.sweep.config import MOST_RUNS

GUIDE = (ROOT / "recipes" / "guides" / "strangers.md").read_text(encoding="utf-8")
BOUNDS = (
    f"20 MB; {listing.MOST_CLASSES:,} classes; whole numbers up to {bounds.MOST_WHOLE:,}",
    f"{preprocessing.MOST_SIDE:,} pixels a side; {preprocessing.MOST_CHANNELS} channels",
    f"{weights.MOST_WRAPPERS} dictionaries around",
    f"the tensors take at most {pickled.MOST_GROWTH} times the memory",
    f"in `model_args` up to {bounds.MOST_NUMBER:,}; {bounds.MOST_BLOCKS:,} blocks",
    f"a list of tensors of {bounds.MOST_HEADER // 1_000_000} MB",
    f"{bounds.TIMES} times the numbers and tensors",
    f"and {bounds.SPARE_NUMBERS:,} and {bounds.SPARE_TENSORS:,} more",
    f"may have {pull.MAX_SIZE_GB:g} GB",
    f"{boundary.MOST_CARD_BYTES // 1_000_000} MB; no link",
    f"{MAX_SIZE_GB:g} GB on the Hub (`max_size_gb`); {MOST_ROWS:,} rows",
    f"{MAX_SIZE_GB:g} GB decoded",
    f"{columns.MAX_LABEL:,} classes; names of {columns.LONGEST_NAME:,} characters",
    f"{picture_file.MOST_BYTES >> 20} MiB; {picture_file.MOST_PIXELS:,} pixels",
    f"a JPEG of {picture_file.MOST_SCANS} scans",
    f"{3 * picture_file.MOST_PIXELS:,} numbers from 0 to 1",
    f"GIF of {images.LARGEST_FILE // 1_000_000} MB; {images.MOST_PIXELS:,} pixels",
    f"a JPEG of {images.MOST_JPEG_PIXELS:,} |",
    f"{files.MOST_JSON_BYTES // 1_000_000} MB; on the page {shelf._LARGEST_RECORD // 1_000_000} MB",
    f"numbers for a plot | {evidence._LARGEST_FILE // 1_000_000} MB",
    f"wrong lines are left out | {taught._LARGEST_LOG // 1_000_000} MB",
    f"{yaml_text.MOST_CHARACTERS:,} characters; {yaml_text.MOST_VALUES:,} values",
    f"a sweep of {MOST_RUNS:,} runs",
    f"at most {errors.LONGEST_MESSAGE:,} of them",
)
NAMES = {
    "pickles": pickles.PICKLE_SUFFIXES,
    "configurations": pull.CONFIGS,
    "cards": (boundary.CARD, boundary.OTHER_CARD),
    "readers": boundary.READERS,
}
PROMISES = {
    "No code of a checkpoint or a data set runs": (
        "models/test_classifier.py::test_code_next_to_a_known_model_is_not_run",
        "models/test_classifier.py::test_code_that_a_model_needs_is_refused",
        "models/test_classifier.py::test_a_kernel_from_the_hub_is_refused",
        "hub/test_pull_hostile.py::test_a_hostile_repository_is_refused_in_one_line",
        "data/test_boundary.py::test_readers_of_pickles_are_not_used",
    ),
    "No pickle is read without permission": (
        "core/test_pickles.py::test_no_pickle_is_read_without_permission",
        "models/test_bad_checkpoints.py::test_a_pickle_that_would_run_code",
        "models/test_hostile_checkpoints.py::test_tensors_of_another_form",
    ),
    "No cell, card, index or archive leads": (
        "data/test_boundary.py::test_a_cell_cannot_name_a_file",
        "data/test_boundary.py::test_a_card_cannot_name_a_file",
        "data/test_boundary.py::test_links_lead_nowhere",
        "data/test_boundary.py::test_metadata_cannot_name_a_file",
        "hub/test_pull_hostile.py::test_an_index_in_a_local_folder_stays_inside",
    ),
    "No address in a configuration or on the page": (
        "app/test_app_strangers.py::test_no_address_and_no_file_of_the_server_is_read",
        "recipes/test_fuzz.py::test_inputs_are_used_or_refused_in_one_line",
    ),
    "No program is started for a file": (
        "core/test_picture_file.py::test_no_program_is_started_for_a_picture",
        "recipes/test_fuzz.py::test_inputs_are_used_or_refused_in_one_line",
    ),
    "No tag of YAML makes an object": ("core/test_yaml_text.py::test_refused_wherever_it_is_read",),
    "No stranger's text moves the cursor": (
        "core/test_errors.py::test_an_error_is_one_visible_line",
        "app/test_app_strangers.py::test_names_of_strangers_are_text",
    ),
    "No memory is taken for numbers": (
        "models/test_hostile_checkpoints.py::test_networks_of_timm_that_no_file_holds",
        "models/test_hostile_checkpoints.py::test_one_number_for_a_billion",
        "models/test_hostile_checkpoints.py::test_an_archive_that_is_far_larger_in_memory",
        "data/test_boundary.py::test_pixels_in_all_are_bounded",
    ),
}


@pytest.mark.parametrize("words", BOUNDS)
def test_a_bound_is_that_of_the_code(words):
    assert words in " ".join(GUIDE.split())


def test_no_other_bound_is_stated():
    """A bound that this file does not compare would grow old."""
    tables = " ".join(line for line in GUIDE.splitlines() if line.startswith("|"))
    for words in BOUNDS:
        tables = tables.replace(words, "")
    rest = re.sub(r"of 16 bits or more|8 bits a channel, or 16 in color|20 MB; ?\||\| 20 MB;", "", tables)
    assert not re.findall(r"\d[\d,]*", rest), rest


@pytest.mark.parametrize("kind", NAMES)
def test_every_file_and_reader_is_listed(kind):
    assert not [name for name in NAMES[kind] if f"`{name}`" not in GUIDE]


def test_every_format_of_pictures_is_listed():
    for formats in (picture_file.FORMATS, images.FORMATS):
        assert f"{', '.join(formats[:-1])} or {formats[-1]}" in " ".join(GUIDE.split())


def test_a_test_stands_behind_each_promise():
    listed = re.search(r"## What is never done\n\n(.*?)\n\n##", GUIDE, re.DOTALL)[1]
    bullets = [line.removeprefix("- ") for line in listed.splitlines()]
    assert len(bullets) == len(PROMISES)
    for bullet, (words, tests) in zip(bullets, PROMISES.items(), strict=True):
        assert bullet.startswith(words)
        for place in tests:
            file, _, name = place.partition("::")
            assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), place
