"""The documents: what they show is run, what they link to is there, and the README stays short.

Every command and program of a document is run with tiny parts in the place of large ones: an id of the Hub
becomes a small local classifier or scikit-learn's digits, and a budget becomes a few rounds. What cannot run
here, such as an installation or a launch on two machines, goes through its real parser. A command without a
way to run it fails its test.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import accelerator_state
import datasets
import numpy as np
import pytest
import torch
from hub_server import WRITE, HubServer
from hub_worker import Worker
from PIL import Image

import abd_hub
from abd_hub.cli import main
from abd_hub.commands.table import COMMANDS as TABLE

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
DOCUMENTS = [
    "README.md",
    "app/README.md",
    "recipes/results/README.md",
    "recipes/benchmarks/README.md",
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "recipes" / "guides").glob("*.md")),
]
LINKING = [*DOCUMENTS, "CONTRIBUTING.md"]
LANGUAGES = {"bash", "console", "python", "yaml", "bibtex"}
DIGITS = tuple("0123456789")
OPTION = re.compile(r"--[a-zA-Z][\w.-]*")


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str, *languages: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(document, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in found]
    return [block for block in every if not languages or block.language in languages]


@dataclass(frozen=True)
class Command:
    """One command of a block, and what the document shows as its output."""

    block: Block
    words: tuple[str, ...]
    output: str = ""

    def __str__(self) -> str:
        return f"{self.block} {' '.join(self.words)[:60]}"

    @property
    def program(self) -> str:
        """``abd-hub`` with its command, a script of the recipes, or the program's name."""
        first, *rest = self.words
        name = first.removeprefix(".venv/bin/")
        if name == "abd-hub":
            return f"abd-hub {rest[0]}"
        if name in ("python", "python3"):
            return f"python -m {rest[1]}" if rest[0] == "-m" else rest[0]
        return name


def commands(block: Block) -> Iterator[Command]:
    """Those of a block; in ``console`` blocks they follow a ``$``, and the rest is output."""
    output, text = "", block.text
    if block.language == "console":
        text = re.match(r"\$ ((?:.*\\\n)*.*\n)", text)[1]
        output = block.text.removeprefix(f"$ {text}")
    text = re.sub(r"(?:^|\s+)#[^\n]*", "", text)
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=";&|<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if not set(word) <= set(";&|<>\n"):
            words.append(word)
            continue
        # A newline in a quoted word is no separator; anything but these two would be a shell's own doing.
        assert set(word) <= set("&\n"), f"{block}: {word} needs a shell"
        if words:
            yield Command(block, tuple(words), output)
        words = []


COMMANDS = [
    command
    for document in DOCUMENTS
    for block in blocks(document, "bash", "console")
    for command in commands(block)
]
PROGRAMS = [block for document in DOCUMENTS for block in blocks(document, "python")]
SETTINGS = [block for document in DOCUMENTS for block in blocks(document, "yaml")]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
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
    Image.new("RGB", (8, 8)).save(folder / "digit.png")
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
    for name in ("teacher", "corrupted", "weights.pth", "digit.png"):
        (tmp_path / name).symlink_to(parts / name)
    for name in ("recipes", "app"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


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
    """Options that cut the budget of these settings down."""
    method = "zskt" if settings == "digits_paper" else settings.partition("-")[0]
    budget = [f"--{method}.{field}" for field in BUDGETS[method]]
    student = ["--student.architecture=wrn_10_1", '--student.model_args={"base_width": 4}']
    measured = ["--evaluation.dataset=digits", "--evaluation.limit=20"]
    loop = ["--trainer.progress=false", "--trainer.mixed_precision=no", "--self_retrospection.last_rounds=1"]
    return [*budget, *student, *measured, *loop, *CPU[settings]]


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


@pytest.fixture
def running(parts, place, request, monkeypatch, capsys):
    return Running(parts, request, monkeypatch, capsys)


def settings_of(words: list[str]) -> str:
    return Path(words[words.index("--config") + 1]).stem


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


@runs("abd-hub list", "abd-hub card", "abd-hub export-bank")
def as_it_stands(running: Running, command: Command) -> None:
    running.abd_hub(local(running.parts, command.words)[1:])


@runs("abd-hub inspect")
def inspect(running: Running, command: Command) -> None:
    words = local(running.parts, command.words)[1:]
    plain = "mm_bd" not in words
    fast = ["trigger_inversion.steps=2"] if plain else ["mm_bd.steps=2", "mm_bd.starts=2"]
    shown, _ = running.abd_hub([*words, *[f"--{option}" for option in fast]])
    assert "stands out" in shown or "suspicious" in shown


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
    "recipes/ibau_teacher.py",
    "recipes/inspect_teachers.py",
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


@runs("pip")
def install(running: Running, command: Command) -> None:
    from pip._internal.commands import create_command

    assert command.words[1] == "install"
    options, packages = create_command("install").parse_args(list(command.words[2:]))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package in [*packages, *options.editables]:
        name, _, extra = package.rstrip("]").partition("[")
        assert name in (".", "abd-hub") and (not extra or extra in extras)


@runs("python -m venv")
def environment(running: Running, command: Command) -> None:
    done = [sys.executable, "-m", "venv", "--without-pip", *command.words[3:]]
    subprocess.run(done, check=True)
    assert Path(".venv/bin/python").exists()


@runs("python -m pytest")
def pytest_itself(running: Running, command: Command) -> None:
    running.request.config._parser.parse(list(command.words[3:]))


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
    path = os.pathsep.join([str(ROOT), str(ROOT / "app"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "abd_hub", "app", "--no-browser", *models],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=60)
        finally:
            process.kill()


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
    assert main(["sweep", "shown.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("waiting") >= 18


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    found = blocks(document)
    assert text.count("\n```") == 2 * len(found), "a fence is indented or not closed"
    assert {block.language for block in found} <= LANGUAGES


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 170
    assert len(text.split()) <= 1300


@pytest.mark.parametrize("document", LINKING)
def test_local_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / document).parent / name if name else ROOT / document
        assert file.resolve().is_relative_to(ROOT) and file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(file: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "app/README.md"])
def test_guides_can_be_reached_from_the_readme(document):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert document == "README.md" or f"({document})" in readme


def inline(document: str) -> list[str]:
    """The code within sentences and tables."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.fixture(scope="module")
def helps():
    """The help of every command, and the source of every recipe, in which options are looked up."""
    import io

    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "recipes").rglob("*.py")]
    methods = [entry.name for entry in abd_hub.catalog("synthesizers")]
    every_defense = ",".join(entry.name for entry in abd_hub.catalog("defenses"))
    screens = [[name, "--help-all" if name in ("distill", "poison") else "--help"] for name in TABLE]
    screens += [["distill", "--synthesizer", name, "--help-all"] for name in methods]
    screens += [
        ["distill", "--defenses", every_defense, "--help-all"],
        ["poison", "--recipe", "fast", "--help-all"],
    ]

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        for words in [["--help"], *screens]:
            with contextlib.suppress(SystemExit):
                main(words)
    return "\n".join([shown.getvalue(), *texts])


OTHERS = {"--machine_rank", "--help", "--dynamo-backend", "--poison.surrogate.id"}
"""Options that no help names: of other programs, made from a list, or within a mapping."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_and_names_exist(document, helps):
    """Also options of commands, as argparse takes a part of a name for the whole."""
    own = [shown for shown in COMMANDS if shown.program.startswith(("abd-hub", "recipes/"))]
    words = [word for shown in own if shown.block.document == document for word in shown.words]
    for code in [*inline(document), *words]:
        for option in OPTION.findall(code):
            spellings = {option, option.replace("-", "_").replace("__", "--", 1)}
            assert option in OTHERS or any(f"{one} " in helps or f'{one}"' in helps for one in spellings), (
                code
            )
        if code.startswith("abd-hub "):
            assert re.search(rf"^  {code.split()[1]} ", helps, re.MULTILINE), code
        if re.fullmatch(r"(recipes|tests|app)/[\w./-]+", code) and "NAME" not in code:
            assert (ROOT / code).exists(), code
        for name in re.findall(r"\babd_hub\.([A-Za-z]\w*)", code):
            assert name in abd_hub.__all__ or (ROOT / "abd_hub" / name).exists(), code


@pytest.mark.parametrize("kind", ["synthesizers", "defenses", "triggers", "students"])
def test_the_readme_names_whatever_can_be_chosen(kind):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [entry.name for entry in abd_hub.catalog(kind) if f"`{entry.name}`" not in readme]
    assert not missing, f"no table of the README has {missing}"
