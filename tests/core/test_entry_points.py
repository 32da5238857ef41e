"""A package of somebody else's, really installed, brings plug-ins; a broken one breaks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from tiny_teacher import save_teacher

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.0"
[tool.setuptools]
packages = ["{module}"]
[project.entry-points."abd_hub.plugins"]
{points}
"""
GOOD = {
    "triggers.stripe": "theirs.plugins:Stripe",
    "synthesizers.mirrors": "theirs:Mirrors",
    "defenses.calm": "theirs.plugins:Calm",
}
PLUGINS = '''
import dataclasses
from abd_hub import SelfRetrospection, Zskt

@dataclasses.dataclass(frozen=True)
class Stripe:
    """A white stripe at the left edge."""

    width: int = 1
    """The stripe has so many pixels."""

    def __call__(self, pixels):
        pixels = pixels.clone()
        pixels[..., : self.width] = 1
        return pixels

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirrors(Zskt):
    """Another name for zskt."""

    facets: int = 3
    """Nothing depends on it."""

@dataclasses.dataclass(frozen=True, kw_only=True)
class Calm(SelfRetrospection):
    """Another name for self-retrospection."""
'''
BROKEN = {
    "synthesizers.half": "broken.half:Half",
    "defenses.gone": "broken.nowhere:Gone",
    "defenses.garbled": "broken.garbled:Garbled",
    "triggers.badnet_sq": "broken.half:Half",
    "synthesizers.bare": "broken.bare:Bare",
    "wheels.round": "broken.half:Half",
    "nodot": "broken.half:Half",
}
HALF = 'raise RuntimeError("a library\\nis missing")\nclass Half:\n    """Half of a method."""\n'


def install(folder, target, name, points, files):
    """Builds a package from source and installs it as pip does for everybody."""
    for file, text in files.items():
        (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(text)
    module = next(iter(files)).partition("/")[0]
    rows = "\n".join(f'"{point}" = "{value}"' for point, value in points.items())
    (folder / name / "pyproject.toml").write_text(PROJECT.format(name=name, module=module, points=rows))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(target), str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for PYTHONPATH with both packages, and where nothing else is."""
    folder = tmp_path_factory.mktemp("packages")
    source = {"theirs/__init__.py": "from theirs.plugins import Mirrors\n", "theirs/plugins.py": PLUGINS}
    install(folder, folder / "site", "abd-theirs", GOOD, source)
    files = {
        "broken/__init__.py": "",
        "broken/half.py": HALF,
        "broken/garbled.py": "class :\n",
        "broken/bare.py": 'class Bare:\n    """No dataclass."""\n',
    }
    install(folder, folder / "site", "abd-broken", BROKEN, files)
    save_teacher(folder / "teacher")
    return folder


def run(place, *typed, script="from abd_hub.cli import main\nsys.exit(main())"):
    """Runs a program that finds both packages, in a process that has imported the libraries before."""
    found = f"import sys\nsys.path.insert(0, {str(place / 'site')!r})\n"
    return forked.run("-c", found + script, *map(str, typed), cwd=place)


def run_bare(place, *typed, script=None):
    """Starts Python for it."""
    path = [str(place / "site"), *(entry for entry in sys.path if Path(entry).name != "support")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    start = ["-c", script] if script else ["-m", "abd_hub"]
    return subprocess.run(
        [sys.executable, *start, *map(str, typed)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=place,
        timeout=300,
    )


def test_they_are_listed_without_being_imported(place):
    script = (
        "import sys\nfrom abd_hub.cli import main\ncode = main(['list', '--json'])\n"
        "assert not {'theirs', 'broken', 'torch'}.intersection(sys.modules)\nsys.exit(code)"
    )
    done = run_bare(place, script=script)
    assert done.returncode == 0, done.stderr
    found = {f"{row['kind']}.{row['name']}": row["summary"] for row in json.loads(done.stdout)}
    assert found["triggers.stripe"] == "A white stripe at the left edge."
    assert found["synthesizers.mirrors"] == "", "the file of the entry point only passes it on"
    assert found["defenses.calm"] == "Another name for self-retrospection."
    assert found["synthesizers.half"] == "Half of a method."
    assert found["triggers.badnet_sq"] != "Half of a method."
    assert {"synthesizers.zskt", "defenses.shuffling_vaccine"} <= set(found)
    lines = done.stderr.splitlines()
    for name, reason in (
        ("defenses.gone", "there is no module broken.nowhere"),
        ("defenses.garbled", "SyntaxError"),
        ("triggers.badnet_sq", "taken"),
        ("wheels.round", "KIND.NAME"),
        ("nodot", "KIND.NAME"),
    ):
        (line,) = [line for line in lines if f"the plug-in {name} of the package abd-broken" in line]
        assert reason in line
    assert len(lines) == 5, done.stderr
    assert (
        "  stripe              A white stripe at the left edge. (package abd-theirs)"
        in run_bare(place, "list").stdout
    )


def words_of_distill(place, name, *more):
    changes = {
        "output_dir": place / name,
        "teacher.id": f"local-dir:{place / 'teacher'}",
        "student.architecture": "wrn_10_1",
        "student.model_args": '{"base_width": 4}',
        "purification": "none",
        "evaluation.dataset": "digits",
        "evaluation.limit": 40,
        "trainer.progress": "false",
    }
    return ["distill", *(f"--{key}={value}" for key, value in changes.items()), *more]


def distill(place, name, *more):
    return run(place, *words_of_distill(place, name, *more))


def test_they_are_chosen_and_recorded(place):
    done = distill(
        place,
        "student",
        *(
            "--synthesizer=mirrors",
            "--mirrors.rounds=2",
            "--mirrors.batch_size=4",
            "--mirrors.student_steps=1",
        ),
        *("--mirrors.facets=5", "--defenses=calm", "--calm.last_rounds=1", "--calm.perturbation_steps=1"),
        '--evaluation.triggers=[{"name": "stripe", "target": 0, "options": {"width": 2}}]',
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((place / "student" / "metrics.json").read_text())
    assert record["method"] == "mirrors"
    assert record["config"]["mirrors"]["facets"] == 5
    assert record["config"]["defenses"] == ["calm"] and record["config"]["calm"]["last_rounds"] == 1
    assert record["results"]["student"]["triggers"][0]["trigger"] == "stripe"
    assert "mirrors" in (place / "student" / "README.md").read_text()


EACH = """
import contextlib, io, json, sys
from abd_hub.cli import main
shown = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        shown.append((main(words), errors.getvalue()))
print(json.dumps(shown))
"""
REFUSED = {
    "--synthesizer=half": [
        *("synthesizers", "half", "abd-broken", "RuntimeError: a library is missing", "repair")
    ],
    "--synthesizer=bare": ["synthesizers", "bare", "abd-broken", "dataclass"],
    "--defenses=gone": ["gone", "unknown"],
    "--calm.last_rounds=5": ["calm.last_rounds", "add calm to defenses"],
}


@pytest.fixture(scope="module")
def refusals(place):
    """The exit code and the errors of each, from one process, whose start takes seconds."""
    done = run(place, json.dumps([words_of_distill(place, "no", typed) for typed in REFUSED]), script=EACH)
    assert done.returncode == 0, done.stderr
    return dict(zip(REFUSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("typed", REFUSED)
def test_what_is_broken_is_one_line(place, refusals, typed):
    code, errors = refusals[typed]
    assert code == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("abd-hub: ")]
    assert all(part in line for part in REFUSED[typed]), line
    assert "Traceback" not in errors
    assert not (place / "no").exists()


def test_a_broken_package_does_not_break_the_others(place):
    text = run(place, "distill", "--synthesizer=mirrors", "--help").stdout
    assert "--mirrors.facets INT" in text and "Nothing depends on it. [3]" in text
