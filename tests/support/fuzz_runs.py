"""What lies in the folder of a run as inputs, and the files of settings."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import abd_hub_app
from abd_hub_app.taught import show
from bad_inputs import basic
from fuzz_checkpoints import rewritten
from fuzz_mutations import RAW_JSON, RAW_YAML, json_bytes, mutated, mutated_bytes, yaml_bytes
from fuzz_pictures import hostile_picture
from fuzz_registry import kind

from abd_hub import InputError
from abd_hub.cli import main
from abd_hub.core.record_file import read_any_record, read_purified_record
from abd_hub.data.boundary import check_card
from abd_hub.publish import front_matter
from abd_hub.report.evidence import read_evidence


def command(*words: str) -> None:
    """Runs a command in this process; its refusal becomes an error whose text is what it has shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as shown:
        code = main(words)
    lines = [line for line in shown.getvalue().splitlines() if line.strip()]
    assert code in (0, 2), f"exit code {code}: {lines}"
    if code == 2:
        raise InputError("\n".join(line.removeprefix("abd-hub: ") for line in lines))


def record_of(_examples: Path, folder: Path) -> None:
    """What reads the folder of a finished run."""
    place = folder / "run"
    if (place / "metrics.json").exists():
        read_any_record(place)
    else:
        read_purified_record(place)


@kind(70, record_of)
def record(examples: Path, folder: Path, chance: random.Random) -> None:
    name, file = chance.choice(
        (("student", "metrics.json"), ("teacher", "metrics.json"), ("purified", "purification.json"))
    )
    (folder / "run").mkdir()
    shutil.copy(examples / name / file, folder / "run")
    if chance.random() < 0.01:
        (folder / "run" / file).unlink()
        os.mkfifo(folder / "run" / file)
    else:
        rewritten(folder / "run" / file, chance)


def shown(_examples: Path, folder: Path) -> None:
    """The page shows a stranger's run without the parts that cannot be read."""
    shelf = abd_hub_app.load_shelf([folder / "run"])
    show(shelf.models[0])
    with contextlib.suppress(InputError):
        read_evidence(folder / "run")


@kind(20, shown)
def page_folder(examples: Path, folder: Path, chance: random.Random) -> None:
    shutil.copytree(examples / "shown", folder / "run")
    change = chance.randrange(4)
    match change:
        case 0:
            rewritten(folder / "run" / "samples" / "evidence.json", chance)
        case 1:
            rewritten(folder / "run" / "metrics.json", chance)
        case 2:
            lines = (folder / "run" / "log.jsonl").read_text().splitlines()[:6]
            rows = [json_bytes(mutated(json.loads(line), chance, RAW_JSON), chance) for line in lines]
            (folder / "run" / "log.jsonl").write_bytes(b"\n".join(rows))
        case _:
            files = sorted((folder / "run" / "samples").glob("*.png"))
            chance.choice(files).write_bytes(hostile_picture(chance))
    if change != 2:
        (folder / "run" / "log.jsonl").unlink()  # its curves would only take time


def card_of(_examples: Path, folder: Path) -> None:
    command("card", str(folder / "run"), "--force")


@kind(15, card_of)
def card(examples: Path, folder: Path, chance: random.Random) -> None:
    shutil.copytree(examples / chance.choice(("student", "teacher", "purified")), folder / "run")
    for name in ("metrics.json", "purification.json"):
        if (folder / "run" / name).exists() and chance.random() < 0.5:
            rewritten(folder / "run" / name, chance)
    (folder / "run" / "README.md").write_bytes(_card_text(chance))


def metadata_of(_examples: Path, folder: Path) -> None:
    text = (folder / "README.md").read_bytes().decode("utf-8", "replace")
    front_matter.front_matter(text)
    front_matter.license_of(text)
    front_matter.tags(text)
    check_card("pets", text)


@kind(30, metadata_of)
def card_metadata(_examples: Path, folder: Path, chance: random.Random) -> None:
    (folder / "README.md").write_bytes(_card_text(chance))


def _card_text(chance: random.Random) -> bytes:
    facts = {
        "license": "mit",
        "tags": ["abd-hub", "x"],
        "base_model": "org/x",
        "model-index": [{"name": "x", "results": []}],
    }
    facts["configs"] = [{"config_name": "default", "data_files": "data/*"}]
    text = b"---\n" + yaml_bytes(mutated(facts, chance, RAW_YAML), chance) + b"---\n# x\n"
    return mutated_bytes(text, chance) if chance.random() < 0.1 else text


def settings_of(_examples: Path, folder: Path) -> None:
    tree = folder / "run.yaml"
    command("poison" if (folder / "poison").exists() else "distill", f"--config={tree}", "--print_config")


@kind(12, settings_of)
def settings(_examples: Path, folder: Path, chance: random.Random) -> None:
    tree = basic("/nowhere")
    if chance.random() < 0.3:
        (folder / "poison").touch()
        tree = {
            "output_dir": "x",
            "data": {"dataset": "digits"},
            "poison": {"trigger": "badnet_sq", "options": {"size": 2}},
        }
    (folder / "run.yaml").write_bytes(yaml_bytes(mutated(tree, chance, RAW_YAML), chance))


def sweep_of(_examples: Path, folder: Path) -> None:
    command("sweep", str(folder / "sweep.yaml"), "--dry-run")


@kind(8, sweep_of)
def sweep(_examples: Path, folder: Path, chance: random.Random) -> None:
    base = {name: value for name, value in basic("/nowhere").items() if name != "output_dir"}
    tree = {
        "output_dir": "x",
        "config": base,
        "grid": {"seed": [0, 1]},
        "runs": [{"zskt.rounds": 2}, {"zskt.rounds": 3}],
    }
    tree |= {"resources": {"cpus": 1}, "retries": 1}
    if chance.random() < 0.1:
        tree["grid"] = {
            f"zskt.{name}": list(range(1, 40)) for name in ("rounds", "batch_size", "z_dim", "seed")
        }
    if chance.random() < 0.1:
        tree["config"] = chance.choice(("/dev/zero", "/etc/passwd", "sweep.yaml", ".", "x\0y"))
    if chance.random() < 0.2:
        (folder / "base.yaml").write_bytes(yaml_bytes(mutated(base, chance, RAW_YAML), chance))
        tree["config"] = "base.yaml"
    (folder / "sweep.yaml").write_bytes(yaml_bytes(mutated(tree, chance, RAW_YAML), chance))
