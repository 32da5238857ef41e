"""What recipes/ and the documents show works as shown."""

import json
from pathlib import Path

import forked
import nets
import numpy as np
import pytest
import torch
from missing import PUBLISHED, published
from PIL import Image

from abd_hub.models.saving import save_timm_folder

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return forked.run(*arguments, cwd=ROOT)


def test_tables_of_the_documents_are_those_of_the_results():
    done = run("recipes/tables.py", "--check")
    assert done.returncode == 0, f"{done.stderr}; run python recipes/tables.py"


def test_plug_ins_take_ten_lines_in_a_loop_of_ones_own(tmp_path):
    text = (ROOT / "recipes" / "own_loop.py").read_text()
    assert sum("  # plug-in" in line for line in text.splitlines()) == 8
    ours = ("abd_hub", "vaccine", "retrospection", "plugin")
    body = text.split('"""', 2)[2]
    unmarked = [line for line in body.splitlines() if any(word in line for word in ours)]
    assert not [line for line in unmarked if "# plug-in" not in line and "load_classifier" not in line]
    save_timm_folder(nets.wrn(base_width=4).freeze(), tmp_path / "teacher")
    done = run("recipes/own_loop.py", f"local-dir:{tmp_path}/teacher", "6")
    assert done.returncode == 0, done.stderr
    assert "shuffling_vaccine: " in done.stdout
    assert "self_retrospection: active; added its gradient to 2 student steps" in done.stdout


@pytest.mark.parametrize(
    "typed",
    [["own_loop.py"], ["own_loop.py", "x", "few"], ["own_loop.py", "x", "1", "y"], ["ten_lines.py", "x"]],
)
def test_a_wrong_call_ends_in_one_line(typed):
    done = run(f"recipes/{typed[0]}", *typed[1:])
    assert done.returncode == 1
    assert (
        done.stderr.startswith(f"usage: python recipes/{typed[0]} TEACHER") and done.stderr.count("\n") == 1
    )


def test_a_network_that_only_a_script_defines(tmp_path):
    teacher = published("teachers/badnets_8_02_ckpt.pth")
    done = run(
        *(
            "recipes/ibau_teacher.py",
            str(teacher),
            str(PUBLISHED / "cifar10"),
            "--output-dir",
            str(tmp_path / "run"),
        ),
        *("--abd", "--rounds", "2", "--retrospection-rounds", "1", "--limit", "100", "--batch-size", "8"),
    )
    assert done.returncode == 0, done.stderr
    assert "teacher: accuracy 0." in done.stdout


PICTURES = "recipes/published_pictures.py"


@pytest.fixture
def white_square(tmp_path):
    """BadNets' trigger as a picture and a mask."""
    Image.new("RGB", (32, 32), (255, 255, 255)).save(tmp_path / "white.png")
    mask = np.zeros((32, 32))
    mask[27:31, 27:31] = 1
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "nowhere.npy", np.zeros((32, 32)))
    return tmp_path


@pytest.fixture
def untrained(white_square):
    """A checkpoint of the recipe's network, and thirty noisy images in ten folders."""
    draw = "import torch; from ibau_teacher import IbauNet; torch.manual_seed(0)"
    save = f"torch.save({{'net': IbauNet(10).state_dict()}}, {str(white_square / 'net.pth')!r})"
    done = run("-c", f"import sys; sys.path.insert(0, 'recipes'); {draw}; {save}")
    assert done.returncode == 0, done.stderr
    noise = torch.randint(0, 256, (30, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    for index, levels in enumerate(noise.to(torch.uint8).numpy()):
        folder = white_square / "images" / "test" / f"label{index // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(levels).save(folder / f"{index}.png")
    return [PICTURES, str(white_square / "images"), str(white_square / "net.pth")]


def test_pictures_as_triggers_of_a_published_teacher(untrained, white_square):
    file, mask, nowhere = (str(white_square / name) for name in ("white.png", "mask.npy", "nowhere.npy"))
    pictures = ["--picture", file, "replace", mask, "--picture", file, "add", nowhere, "--picture", file]
    done = run(*untrained, "--target", "3", "--json", *pictures)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout).values()
    assert report["accuracy"]["n"] == 30
    square, nothing, blend = report["triggers"]
    assert (square["trigger"], square["target"], square["asr"]["n"]) == ("white", 3, 27)
    assert square["options"] == {"file": "white.png", "mode": "replace", "mask": "mask.npy", "alpha": 0.2}
    assert blend["options"] == {"file": "white.png", "alpha": 0.2}
    # Where the mask lets nothing through, the images of other labels are read as they are.
    right = report["accuracy"]["count"]
    assert right - 3 <= nothing["robust_accuracy"]["count"] <= right
    table = run(*untrained, "--target", "3", "--picture", file)
    assert table.returncode == 0 and "net.pth" in table.stdout and "white" in table.stdout


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--target", "3", "4", "--picture", "white.png"], "one for each of the 1 checkpoints"),
        (["--target", "30", "--picture", "white.png"], "0..9"),
        (["--target", "3", "--picture", "no.png"], "'no.png' cannot be read"),
        (["--target", "3", "--picture", "white.png", "multiply"], "mode 'multiply'"),
        (["--target", "3", "--picture", "white.png", "add", "mask.npy", "x"], "repeat --picture"),
    ],
)
def test_pictures_that_cannot_be_measured(untrained, white_square, extra, words):
    places = {name: str(white_square / name) for name in ("white.png", "mask.npy")}
    done = run(*untrained, *(places.get(word, word) for word in extra))
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("checkpoint", "target", "picture"),
    [
        ("badnets_8_02_ckpt.pth", 8, ["white.png", "replace", "mask.npy"]),
        ("trojan_wm_2_02_ckpt.pth", 2, ["trojan_wm.png", "add"]),
    ],
)
def test_published_teachers_follow_their_published_pictures(white_square, checkpoint, target, picture):
    teacher = published(f"teachers/{checkpoint}")
    places = [white_square / name for name in ("white.png", "mask.npy")]
    places = {place.name: str(place) for place in [*places, PUBLISHED / "triggers" / "trojan_wm.png"]}
    done = run(
        *(
            PICTURES,
            str(PUBLISHED / "cifar10"),
            str(teacher),
            "--target",
            str(target),
        ),
        *("--limit", "400", "--json", "--picture", *(places.get(word, word) for word in picture)),
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout).values()
    # On 4,000 images: 78 % accuracy, and an ASR of 98 and 100 %.
    assert 0.7 < report["accuracy"]["value"] < 0.86
    assert report["triggers"][0]["asr"]["value"] > 0.95


ZOO = """
all: {network: {architecture: wrn_10_1, model_args: {base_width: 4}}, recipe: fast}
datasets:
  small:
    data: {dataset: digits}
    poison: {target: 1}
    fast: {epochs: 1, batch_size: 64, crop_padding: 0, flip: false}
    trainer: {progress: false}
attacks:
  square: {poison: {trigger: badnet_sq, options: {size: 2, margin: 0}}}
  too_large: {poison: {trigger: trojan_8x8}}
"""


def test_a_zoo_goes_on_after_a_failure_and_skips_what_exists(tmp_path):
    (tmp_path / "zoo.yaml").write_text(ZOO)
    build = ("recipes/zoo/build.py", str(tmp_path / "zoo.yaml"), "--output-dir", str(tmp_path / "zoo"))
    done = run(*build, "--results", str(tmp_path / "results"))
    assert done.returncode == 1
    assert "failed: small/too_large" in done.stderr
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "small_clean.json",
        "small_square.json",
    ]
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").iterdir()}
    assert records["small_clean"]["poison"] is None
    assert records["small_square"]["poison"]["target"] == 1
    assert records["small_clean"]["control"] is None
    assert records["small_square"]["control"]["sha256"] == records["small_clean"]["model"]["sha256"]
    attack = records["small_square"]["report"]["triggers"][0]
    assert attack["control"]["n"] == attack["asr"]["n"]
    before = (tmp_path / "zoo" / "small" / "square" / "metrics.json").stat().st_mtime_ns
    assert "--only: no teacher is called sqare" in run(*build, "--only", "sqare").stderr
    again = run(*build, "--only", "square")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": exists") == 2
    assert (tmp_path / "zoo" / "small" / "square" / "metrics.json").stat().st_mtime_ns == before
    assert "small/square" in again.stdout.split("exists")[-1]


def test_the_benchmark_of_teacher_training_reports_every_loop(tmp_path):
    rows = torch.Generator().manual_seed(0)
    for index in range(16):
        folder = tmp_path / "data" / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = torch.randint(0, 256, (32, 32, 3), generator=rows, dtype=torch.uint8).numpy()
        for copy in range(8):
            Image.fromarray(picture).save(folder / f"{index}_{copy}.png")
    done = run(
        *("recipes/benchmark_teacher.py", str(tmp_path / "data"), "--network", "wrn_10_1", "--steps", "1"),
        *("--turns", "1", "--workers", "0", "--output", str(tmp_path / "speed.json")),
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "speed.json").read_text())
    assert [row["name"] for row in facts["results"]] == ["torchvision + DataLoader", "ours"]
    assert all(row["images_per_second"] > 0 for row in facts["results"])
