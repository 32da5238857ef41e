"""Short runs of every method give the bits that they gave before the modules moved.

The file goes when the moves are done. Float32 sums differ between machines. So the hashes hold on the machine
that wrote them, which ``golden_hashes.json`` names; elsewhere the tests are skipped. This writes them:

ABD_HUB_WRITE_GOLDEN=1 python -m pytest -n 0 tests/test_golden.py
"""

import hashlib
import json
import os
import platform
from pathlib import Path

import nets
import plugin_rows
import pytest
import torch

from abd_hub import FastTeacherRecipe, TeacherTrainer, build_trigger

FILE = Path(__file__).with_name("golden_hashes.json")
PAPER = ["shuffling_vaccine", "self_retrospection"]
ROWS = [
    "+".join([method, *defenses])
    for method in plugin_rows.names("synthesizers")
    for defenses in (
        [],
        PAPER[:1],
        PAPER[1:],
        PAPER,
        ["universal_direction"],
        sorted(plugin_rows.names("defenses")),
    )
]


def machine():
    model = next(line for line in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in line)
    return [platform.python_version(), torch.__version__, torch.backends.cpu.get_cpu_capability(), model]


def digest(state):
    return hashlib.sha256(
        b"".join(t.detach().contiguous().numpy().tobytes() for t in state.values())
    ).hexdigest()


def run(row):
    method, *defenses = row.split("+")
    trainer = plugin_rows.make(method, defenses)
    trainer.fit()
    return digest(trainer.student.state_dict())


def teacher():
    network = nets.wrn(seed=1, base_width=4)
    images = (nets.pixels(20) * 255).to(torch.uint8)
    images[:5, :, -2:, -2:] = 255
    recipe = FastTeacherRecipe(epochs=2, batch_size=8)
    return digest(
        TeacherTrainer(network, images, torch.arange(20) % 5, recipe, plugin_rows.QUIET).fit().state_dict()
    )


def triggered():
    pixels = nets.pixels(6, dtype=torch.float32).repeat(1, 1, 4, 4)
    return digest(
        {name: build_trigger(name)(pixels) for name in ("badnet_sq", "wanet", "bpp", "blend", "sig")}
    )


MADE = {"poisoned teacher": teacher, "triggers": triggered}


@pytest.fixture(scope="module")
def golden():
    if os.environ.get("ABD_HUB_WRITE_GOLDEN"):
        found = {row: run(row) for row in ROWS} | {name: make() for name, make in MADE.items()}
        FILE.write_text(json.dumps({"machine": machine(), "hashes": found}, indent=1) + "\n")
    found = json.loads(FILE.read_text())
    if found["machine"] != machine():
        pytest.skip("hashes of float32 sums come from another machine")
    return found["hashes"]


@pytest.mark.parametrize("row", ROWS)
def test_a_short_run_gives_the_same_bits(golden, row):
    assert run(row) == golden[row]


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_has_the_same_bits(golden, name):
    assert MADE[name]() == golden[name]
