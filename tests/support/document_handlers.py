"""How each command of a document is tried, with tiny parts in the place of large ones.

An id of the Hub becomes a small local classifier or scikit-learn's digits, and a budget becomes a few rounds.
What cannot run here, such as an installation or a launch on two machines, goes through its real parser.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from documents import ROOT, Command
from missing import NO_RAY

import abd_hub
from abd_hub.cli import main
from abd_hub.core import registry

IDS = {
    "hf-hub:org/name@main": "local-dir:teacher",
    "hf-hub:org/name": "local-dir:teacher",
    "uoft-cs/cifar10": "digits",
    "org/cifar10-c": "corrupted",
}
RUNS = re.compile(r"(?:local-dir:)?((?:runs|abd-demo|teachers|zoo)/[\w/]+)")
WRITES = ("--output_dir", "--output-dir")
"""Options whose folder a command makes; any other folder of a run is there before."""


def local(parts: Path, words: tuple[str, ...]) -> list[str]:
    """The words with local ids, after the folders that they read from have been made."""
    for option, word in zip(("", *words), words, strict=False):
        found = RUNS.fullmatch(word)
        if found and option not in WRITES and not Path(found[1]).exists():
            shutil.copytree(
                parts / "finished" / ("fast" if found[1].endswith("fast") else "student"), found[1]
            )
    return [IDS.get(word, word) for word in words]


BUDGETS = {
    "zskt": [
        "rounds=2",
        "batch_size=4",
        "student_steps=1",
        "z_dim=4",
        "generator_channels=8",
        "attention_weight=0",
    ],
    "ood": ["rounds=2", "batch_size=4", "student_steps=1", "patches=16"],
    "fast": ["rounds=3", "warmup_rounds=1", "batch_size=4", "synthesis_batch_size=4", "student_steps=1"],
}
BUDGETS["fast"] += ["z_dim=4", "generator_channels=8", "generator_steps=1", "bank_size=16"]
CPU = {"fast-cpu": ["--shuffling_vaccine.check_batches=1", "--shuffling_vaccine.check_ignored=0"]}
CPU["digits_paper"] = CPU["zskt-cpu"] = CPU["ood-cpu"] = ["--shuffling_vaccine.check=false"]


def tiny(settings: str) -> list[str]:
    """Options that cut the budget of these settings down; ``ood`` is what is chosen where there are none."""
    method = "zskt" if settings == "digits_paper" else settings.partition("-")[0] or "ood"
    budget = [f"--{method}.{field}" for field in BUDGETS[method]]
    student = ["--student.architecture=wrn_10_1", '--student.model_args={"base_width": 4}']
    measured = ["--evaluation.dataset=digits", "--evaluation.limit=20"]
    loop = ["--trainer.progress=false", "--trainer.mixed_precision=no", "--purification=none"]
    late = ["--self_retrospection.last_rounds=1", "--self_retrospection.perturbation_steps=1"]
    return [*budget, *student, *measured, *loop, *(late if settings else []), *CPU.get(settings, [])]


Handler = Callable[["Running", Command], None]
HANDLERS: dict[str, Handler] = {}


def runs(*programs: str) -> Callable[[Handler], Handler]:
    """Marks how commands of these programs are tried."""

    def mark(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(programs, handler))
        return handler

    return mark


@dataclass
class Running:
    """What a command needs in order to run."""

    parts: Path
    request: pytest.FixtureRequest
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def abd_hub(self, words: list[str], code: int = 0) -> tuple[str, str]:
        """Runs ``abd-hub``; what it writes to both streams."""
        self.capsys.readouterr()
        found = main(words)
        shown = self.capsys.readouterr()
        assert found == code, shown.err
        return shown.out, shown.err

    def parse(self, run: Callable[[], object], program: str) -> argparse.Namespace:
        """What argparse reads for this program; what follows the reading is not run."""

        class Parsed(Exception):
            """The words were understood."""

        whole = argparse.ArgumentParser.parse_args

        def stop(parser, *given, **named):
            options = whole(parser, *given, **named)
            if program in parser.prog:
                raise Parsed(options)
            return options

        with self.monkeypatch.context() as patch, pytest.raises(Parsed) as found:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            run()
        return found.value.args[0]

    def script(self, words: list[str]) -> None:
        """Runs a script of the recipes in this process."""
        self.monkeypatch.syspath_prepend(str(ROOT / "recipes"))
        self.monkeypatch.setattr(sys, "argv", words)
        with contextlib.suppress(SystemExit) if words[0].endswith("tables.py") else contextlib.nullcontext():
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def settings_of(words: list[str]) -> str:
    """The settings' name; "" for a command that leaves the method open."""
    named = [
        Path(words[words.index(option) + 1]).stem for option in ("--config", "--preset") if option in words
    ]
    return named[0] if named else ""


@runs("abd-hub distill")
def distill(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    elif "--push_to_hub=true" in words:
        finished = running.request.getfixturevalue("on_the_hub")([*words, *tiny(settings_of(words))])
        assert "https" in finished or "http" in finished
    else:
        running.abd_hub([*words, *tiny(settings_of(words))])
        assert abd_hub.read_record(words[words.index("--output_dir") + 1]).student_report


@runs("abd-hub evaluate", "abd-hub compare")
def measure(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    shown, _ = running.abd_hub([*words, "--limit", "20"])
    if command.output:
        assert shown.splitlines()[0].split() == command.output.splitlines()[0].split()


@runs("abd-hub list", "abd-hub card", "abd-hub export", "abd-hub export-bank")
def as_it_stands(running: Running, command: Command) -> None:
    running.abd_hub(local(running.parts, command.words)[1:])


@runs("abd-hub inspect")
def inspect(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    plain = "mm_bd" not in words
    fast = ["trigger_inversion.steps=2"] if plain else ["mm_bd.steps=2", "mm_bd.starts=2"]
    shown, _ = running.abd_hub([*words, *[f"--{option}" for option in fast]])
    assert "stands out" in shown or "suspicious" in shown


@runs("abd-hub purify")
def purify(running: Running, command: Command) -> None:
    """With a short inspection, which flags a class of the small model."""
    words = local(running.parts, command.words)[1:]
    quick = functools.partial(abd_hub.TriggerInversion, steps=3)
    fast = [] if "--purification" in words else ["--trigger_unlearning.steps=2"]
    fast += ["--channel_lipschitz_pruning.deviations=1"] if "channel_lipschitz_pruning" in words else []
    with running.monkeypatch.context() as patch:
        patch.setitem(registry._registered["inspections"], "trigger_inversion", quick)
        running.abd_hub([*words, *fast])
    folder = words[words.index("--output_dir") + 1]
    assert (Path(folder) / "purification.json").is_file() and abd_hub.load_classifier(folder)


TINY_TEACHER = ["--data.limit=200", "--fast.epochs=1", "--fast.batch_size=64", "--fast.crop_padding=0"]
TINY_TEACHER += ["--network.architecture=wrn_10_1", '--network.model_args={"base_width": 4}']
TINY_TEACHER += ["--trainer.progress=false", "--evaluation.limit=20"]


@runs("abd-hub poison")
def poison(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    running.abd_hub([*words, *TINY_TEACHER])
    assert abd_hub.read_teacher_record(words[words.index("--output_dir") + 1]).report


@runs("abd-hub sweep")
def sweep(running: Running, command: Command) -> None:
    """With two runs in the place of 198, which are listed."""
    config = "config: {synthesizer: zskt, teacher: {id: 'local-dir:teacher'}}"
    Path("two.yaml").write_text(f"output_dir: out\n{config}\ngrid: {{seed: [0, 1]}}\n")
    assert (ROOT / command.words[2]).is_file()
    shown, _ = running.abd_hub(["sweep", "two.yaml", *command.words[3:], "--dry-run"])
    assert shown.count("waiting") >= 2


@runs("abd-hub demo")
def demo(running: Running, command: Command) -> None:
    """Read only: the demo has tests of its own, which take minutes."""
    running.parse(lambda: main(list(command.words[1:])), "abd-hub demo")


@runs("abd-hub app")
def app(running: Running, command: Command) -> None:
    """Read only, with folders that the page can show; ``page`` below serves them."""
    words = local(running.parts, command.words)[1:]
    options = running.parse(lambda: main(words), "abd-hub app")
    assert all((Path(folder) / "metrics.json").is_file() for folder in options.folders)


@runs("abd-hub push")
def push(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    assert "student" in running.request.getfixturevalue("on_the_hub")(words)


@runs("recipes/own_loop.py")
def own_loop(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    running.script([*words[:-1], "6"])
    assert "shuffling_vaccine: " in running.capsys.readouterr().out


@runs(
    "recipes/benchmark.py",
    "recipes/benchmark_app.py",
    "recipes/benchmark_teacher.py",
    "recipes/compare_methods.py",
    "recipes/fuzz.py",
    "recipes/ibau_teacher.py",
    "recipes/purify_teachers.py",
    "recipes/published_pictures.py",
)
def read_only(running: Running, command: Command) -> None:
    """These recipes have tests of their own, in which they run."""
    words = list(command.words[1:])
    running.parse(lambda: running.script(words), Path(words[0]).name)


@runs("recipes/zoo/build.py")
def zoo(running: Running, command: Command) -> None:
    """Read only, and so is what follows ``--``, which goes to every ``abd-hub poison``."""
    words = list(command.words[1:])
    running.parse(lambda: running.script(words), "build.py")
    extra = words[words.index("--") + 1 :] if "--" in words else []
    printed = io_of_parser(["poison", "--output_dir=x", "--data.dataset=digits", *extra], running)
    assert "output_dir: x" in printed


def io_of_parser(words: list[str], running: Running) -> str:
    """What ``--print_config`` prints."""
    running.capsys.readouterr()
    assert main([*words, "--print_config"]) == 0
    return running.capsys.readouterr().out


@runs("accelerate")
def accelerate(running: Running, command: Command) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    assert command.words[1] == "launch"
    options = launch_command_parser().parse_args(command.words[2:])
    assert load_config_from_file(options.config_file).num_processes == 2
    assert options.module and options.training_script == "abd_hub"
    launched(running, options.training_script_args)


@runs("torchrun")
def torchrun(running: Running, command: Command) -> None:
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args(command.words[1:])
    assert options.module and options.training_script == "abd_hub" and options.nproc_per_node == "2"
    launched(running, options.training_script_args)


def launched(running: Running, words: list[str]) -> None:
    """Read only: test_processes launches two processes and two machines."""
    assert words[0] == "distill"
    abd_hub.parse_distill([*local(running.parts, tuple(words))[1:], *tiny(settings_of(words))])


@runs("ray")
def ray(running: Running, command: Command) -> None:
    """Read only: a cluster has several machines."""
    scripts = pytest.importorskip("ray.scripts.scripts", reason=NO_RAY)
    name, *words = command.words[1:]
    scripts.cli.commands[name].make_context(f"ray {name}", words)


@runs("pip")
def install(running: Running, command: Command) -> None:
    assert command.words[1] == "install"
    check_install(list(command.words[2:]))


@runs("uv")
def install_by_uv(running: Running, command: Command) -> None:
    """Its ``pip install`` reads the words of pip, and some of its own."""
    words = [word for word in command.words[3:] if word not in ("--compile-bytecode", "--system-certs")]
    assert command.words[1:3] == ("pip", "install") and words[words.index("--python") + 1] == ".venv"
    del words[words.index("--python") : words.index("--python") + 2]
    check_install(words)


def check_install(words: list[str]) -> None:
    from pip._internal.commands import create_command

    options, packages = create_command("install").parse_args(words)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package in [*packages, *options.editables]:
        if package == "uv":
            continue
        name, _, extra = package.rstrip("]").partition("[")
        assert name == "." and (not extra or extra in extras), "no registry has the package"


@runs("python -m venv")
def environment(running: Running, command: Command) -> None:
    done = [sys.executable, "-m", "venv", "--without-pip", *command.words[3:]]
    subprocess.run(done, check=True)
    assert Path(".venv/bin/python").exists()


@runs("python -m pytest")
def pytest_itself(running: Running, command: Command) -> None:
    running.request.config._parser.parse(list(command.words[3:]))
