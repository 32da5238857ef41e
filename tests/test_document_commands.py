"""Every command and program of the documents is run; a command without a way to run it fails its test."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import accelerator_state
import datasets
import numpy as np
import pytest
import torch
from app_server import serving
from document_handlers import BUDGETS, HANDLERS, IDS, RUNS, Running, local, tiny
from documents import COMMANDS, PROGRAMS, ROOT, SETTINGS
from hub_server import WRITE, HubServer
from hub_worker import Worker
from PIL import Image

import abd_hub
from abd_hub.cli import main

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module", autouse=True)
def few_agreements():
    """A student and its teacher are compared on fewer images; 1,256 for a ResNet-18 take ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abd_hub.runs.agreement.PATCHES", 60)
        patch.setattr("abd_hub.training.agreement.UNSEEN", 60)
        yield


@pytest.fixture(scope="module")
def parts(few_agreements, tmp_path_factory):
    """What stands for the models, data and pictures that the documents name."""
    folder = tmp_path_factory.mktemp("parts")
    labels = abd_hub.DataSpec(3, 8, 8, DIGITS)
    small = {"seed": 3, "model_args": {"base_width": 4}}
    made = abd_hub.create_student("wrn_10_1", labels, (0.3,) * 3, (0.4,) * 3, **small)
    abd_hub.save_timm_folder(made.eval(), folder / "teacher")
    bare = abd_hub.create_student(
        "resnet18_cifar", abd_hub.DataSpec(3, 32, 32, DIGITS), (0.5,) * 3, (0.2,) * 3, seed=0
    )
    torch.save({"net": bare.model.state_dict()}, folder / "weights.pth")
    Image.new("RGB", (32, 32)).save(folder / "photograph.png")
    for split in ("clean", "fog_5", "snow_5"):
        noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
        rows = {
            "image": [Image.fromarray(one) for one in noise],
            "label": [index % 10 for index in range(20)],
        }
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(DIGITS))}
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
        (folder / "corrupted" / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(folder / "corrupted" / "data" / f"{split}-00000-of-00001.parquet")
    for name, settings in (("student", "ood-cpu"), ("fast", "fast-cpu")):
        finished = folder / "finished" / name
        config = str(ROOT / "recipes" / "cifar10" / f"{settings}.yaml")
        start = ["distill", "--config", config, f"--teacher.id=local-dir:{folder}/teacher"]
        assert main([*start, f"--output_dir={finished}", *tiny(settings)]) == 0
        accelerator_state.forget()
    return folder


@pytest.fixture
def place(parts, tmp_path, monkeypatch):
    """A clone's folder in which runs have been finished, with nothing else in it."""
    for name in ("teacher", "corrupted", "weights.pth", "photograph.png"):
        (tmp_path / name).symlink_to(parts / name)
    for name in ("recipes", "app"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


@pytest.fixture
def running(parts, place, request, monkeypatch, capsys):
    return Running(parts, request, monkeypatch, capsys)


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def worker(hub, tmp_path_factory):
    started = Worker(hub.environment(tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_PROGRESS_BARS="1"))
    yield started
    started.close()


@pytest.fixture
def on_the_hub(hub, worker, place):
    """Runs a command whose ``org`` is an account of the tests' own Hub; what it shows."""

    def ask(words: list[str]) -> str:
        hub.forget()
        absolute = [word.replace("local-dir:", f"local-dir:{place}/") for word in words]
        absolute = [
            str(place / word) if word.startswith(("runs/", "recipes/")) else word for word in absolute
        ]
        done = worker.ask(WRITE, command=[word.replace("org/", "acme/") for word in absolute])
        assert done["code"] == 0, done
        return done["shown"]

    return ask


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_runs(command, running):
    handler = HANDLERS.get(command.program)
    assert handler is not None, f"{command}: this test cannot run {command.program}; give it a handler"
    handler(running, command)


@pytest.fixture(scope="module")
def page(parts):
    """The address of ``abd-hub app`` with the finished runs."""
    models = [str(parts / "finished" / name) for name in ("student", "fast")]
    with serving(*models) as (address, _):
        yield address


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_program_runs(block, running):
    text = block.text
    if "gradio_client" in text:
        text = text.replace("http://127.0.0.1:7860", running.request.getfixturevalue("page"))
    local(running.parts, tuple(RUNS.findall(text)) if "output_dir" not in text else ())
    for found, used in IDS.items():
        text = text.replace(f'"{found}"', f'"{used}"')
    cut = ", ".join(field for field in BUDGETS["zskt"] if not field.startswith("attention"))
    text = text.replace("Zskt(", f"Zskt({cut}, ").replace(
        "SelfRetrospection(", "SelfRetrospection(last_rounds=1"
    )
    text = text.replace("steps=100", "steps=2")
    text = text.replace("DistillConfig(", "DistillConfig(purification='none', ")
    text = text.replace("ShufflingVaccine(", "ShufflingVaccine(check=False")
    if "push_to_hub" in text:
        push_program(running, text)
        return
    names: dict[str, object] = {}
    exec(compile(text, str(block), "exec"), names)
    if "gradio_client" in text:
        names["page"].close()  # or the server waits for it
    assert running.capsys.readouterr().out.strip()


def push_program(running: Running, text: str) -> None:
    """In the process whose Hub is the tests' own: a program of one call, which is given there."""
    hub, worker = (running.request.getfixturevalue(name) for name in ("hub", "worker"))
    hub.forget()
    (call,) = [part.value for part in ast.parse(text).body if isinstance(part, ast.Expr)]
    assert ast.unparse(call.func) == "abd_hub.push_to_hub" and not call.keywords
    folder, name = map(ast.literal_eval, call.args)
    name = name.replace("org/", "acme/")
    assert "commit" in worker.ask(WRITE, push=[str(Path(folder).resolve()), name, WRITE])
    assert "model.safetensors" in hub.repo(name).files


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_are_a_sweep(block, place, capsys):
    shutil.copytree(ROOT / "recipes" / "cifar10", place / "cifar10")
    (place / "shown.yaml").write_text(block.text)
    for name in re.findall(r"local-dir:([\w/]+)", block.text):
        (place / name).mkdir(parents=True, exist_ok=True)
    assert main(["sweep", "shown.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("waiting") >= 18
