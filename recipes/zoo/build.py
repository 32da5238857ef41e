"""Builds a zoo of teachers from one YAML file; the same command resumes it after a failure or an interrupt.

    python recipes/zoo/build.py recipes/zoo/zoo.yaml --output-dir zoo [--only cifar10/blend ...]
        [--dataset cifar10=FOLDER] [--results FOLDER] [-- --recipe fast --network.architecture wrn_16_1 ...]

The clean teacher of a data set always comes first. It is the control of every attack, and the surrogate of
attacks that perturb images. The words after ``--`` go to every ``abd-hub poison`` and win over the file.
--results copies the metrics.json of each teacher to FOLDER/DATASET_ATTACK.json.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from abd_hub import InputError, format_table, read_teacher_record

CLEAN = "clean"
INTERRUPTED = 130


def merged(*parts: dict) -> dict:
    """Merges nested dictionaries; later ones win over earlier ones."""
    result: dict = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def teachers(zoo: dict, folder: Path) -> dict[str, dict]:
    """Returns the settings of each ``DATASET/ATTACK``; the clean teacher of a data set comes first."""
    found = {}
    for dataset, settings in zoo["datasets"].items():
        clean = {"id": f"local-dir:{folder / dataset / CLEAN}"}
        found[f"{dataset}/{CLEAN}"] = {**merged(zoo["all"], settings), "poison": {}}
        for attack, own in zoo["attacks"].items():
            attacked = merged(zoo["all"], settings, {"evaluation": {"control": clean}}, own)
            if attacked["poison"].get("perturbation"):
                attacked["poison"]["surrogate"] = clean
            found[f"{dataset}/{attack}"] = attacked
    return found


def chosen(every: dict[str, dict], only: list[str] | None) -> list[str]:
    """Returns the names in ``only``, or all, with the clean teachers that they need.

    Raises:
        SystemExit: no teacher has such a name.
    """
    wanted = [name for name in every if not only or {name, name.split("/")[1]} & set(only)]
    unknown = [word for word in only or [] if not any(word in (name, name.split("/")[1]) for name in every)]
    if unknown:
        raise SystemExit(f"--only: no teacher is called {', '.join(unknown)}")
    needed = {f"{name.split('/')[0]}/{CLEAN}" for name in wanted}
    return [name for name in every if name in wanted or name in needed]


def recipe_of(settings: dict, extra: list[str]) -> str:
    """Returns the recipe that the command line or else the settings choose."""
    for index, word in enumerate(extra):
        if word.startswith("--recipe="):
            return word.partition("=")[2]
        if word == "--recipe" and index + 1 < len(extra):
            return extra[index + 1]
    return settings.get("recipe", "paper")


def run(command: list[str]) -> int:
    """Returns the exit code; Ctrl-C reaches the command as well, which then writes its checkpoint."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            return INTERRUPTED


def build(folder: Path, settings: dict, extra: list[str]) -> int:
    """Trains one teacher, or resumes its training, and returns the exit code."""
    if (folder / "metrics.json").exists():
        print(f"{folder}: exists", flush=True)
        return 0
    recipe = recipe_of(settings, extra)
    kept = {key: value for key, value in settings.items() if key == recipe or key not in ("paper", "fast")}
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(kept, sort_keys=False))
    print(f"{folder}: training", flush=True)
    command = [sys.executable, "-m", "abd_hub", "poison", "--config", str(file), "--output_dir", str(folder)]
    return run([*command, "--resume", "true", *extra])


def build_all(every: dict[str, dict], wanted: list[str], root: Path, extra: list[str]) -> dict[str, int]:
    """Builds teachers and returns exit codes by name; without its clean teacher an attack fails untried."""
    codes: dict[str, int] = {}
    for name in wanted:
        clean = f"{name.split('/')[0]}/{CLEAN}"
        codes[name] = codes[clean] if codes.get(clean) else build(root / name, every[name], extra)
        if codes[name] == INTERRUPTED:
            break
    return codes


def with_datasets(zoo: dict, replacements: list[str]) -> dict:
    """Returns the zoo with other places of its data sets, each as NAME=PLACE.

    Raises:
        SystemExit: the zoo has no data set of such a name.
    """
    for replacement in replacements:
        name, _, place = replacement.partition("=")
        if name not in zoo["datasets"]:
            raise SystemExit(f"--dataset: {name!r} is not in the zoo; it has {', '.join(zoo['datasets'])}")
        zoo["datasets"][name]["data"]["dataset"] = place
    return zoo


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="Build only DATASET/ATTACK, or ATTACK for every data set.")
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--results", type=Path)
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options, extra = parser.parse_args(words[:split]), words[split + 1 :]

    root = options.output_dir.resolve()
    every = teachers(with_datasets(yaml.safe_load(options.file.read_text()), options.dataset), root)
    codes = build_all(every, chosen(every, options.only), root, extra)
    done = [name for name, code in codes.items() if code == 0]
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        for name in done:
            target = options.results / f"{name.replace('/', '_')}.json"
            shutil.copyfile(root / name / "metrics.json", target)
    if INTERRUPTED in codes.values():
        print("interrupted; the same command resumes it", file=sys.stderr)
        return INTERRUPTED
    try:
        print(format_table([(name, read_teacher_record(root / name).report) for name in done]))
    except InputError as error:
        raise SystemExit(str(error)) from error
    for name in set(codes) - set(done):
        print(f"failed: {name}", file=sys.stderr)
    return int(len(done) < len(codes))


if __name__ == "__main__":
    sys.exit(main())
