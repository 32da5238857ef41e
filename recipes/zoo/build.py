"""Build a zoo of teachers from one YAML file: resumable, skipping what exists, one failure loses no other.

    python recipes/zoo/build.py recipes/zoo/zoo.yaml --output-dir zoo [--only cifar10/blend ...]
        [--dataset cifar10=FOLDER] [--results FOLDER] [-- --recipe fast --network.architecture wrn_16_1 ...]

What follows ``--`` goes to every ``abd-hub poison`` and wins over the file. With --results a copy of each
teacher's metrics.json is kept as FOLDER/DATASET_ATTACK.json.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from abd_hub import format_table, read_teacher_record


def merged(*parts: dict) -> dict:
    """Nested dictionaries, later ones over earlier ones."""
    result: dict = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def teachers(zoo: dict) -> Iterator[tuple[str, dict]]:
    """``DATASET/ATTACK`` and its settings; those of a recipe that is not chosen are left out."""
    for dataset, settings in zoo["datasets"].items():
        for attack, own in zoo["attacks"].items():
            found = merged(zoo["all"], settings, own)
            if "trigger" not in found.get("poison", {}):
                found.pop("poison", None)  # a clean teacher has no target
            yield f"{dataset}/{attack}", found


def controlled(folder: Path, settings: dict) -> dict:
    """With the clean teacher beside it, where there is one, as the control of the ASR."""
    clean = folder.parent / "clean"
    if folder == clean or not (clean / "metrics.json").exists():
        return settings
    return merged(settings, {"evaluation": {"control": {"id": f"local-dir:{clean}"}}})


def build(folder: Path, settings: dict, extra: list[str]) -> bool:
    """Trains one teacher, or goes on with it; whether it is finished."""
    if (folder / "metrics.json").exists():
        print(f"{folder}: exists", flush=True)
        return True
    recipe = chosen_recipe(settings, extra)
    kept = {key: value for key, value in settings.items() if key == recipe or key not in ("paper", "fast")}
    file = folder.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(controlled(folder, kept), sort_keys=False))
    print(f"{folder}: training", flush=True)
    command = [sys.executable, "-m", "abd_hub", "poison", "--config", str(file), "--output_dir", str(folder)]
    return subprocess.run([*command, "--resume", "true", *extra], check=False).returncode == 0


def chosen_recipe(settings: dict, extra: list[str]) -> str:
    if "--recipe" in extra:
        return extra[extra.index("--recipe") + 1]
    return settings.get("recipe", "paper")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", help="DATASET/ATTACK, or ATTACK for every data set")
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--results", type=Path)
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    options, extra = parser.parse_args(given[:split]), given[split + 1 :]

    zoo = yaml.safe_load(options.file.read_text())
    for replacement in options.dataset:
        name, _, place = replacement.partition("=")
        if name not in zoo["datasets"]:
            parser.error(f"--dataset: {name!r} is not in {options.file}; it has {', '.join(zoo['datasets'])}")
        zoo["datasets"][name]["data"]["dataset"] = place
    every = dict(teachers(zoo))
    wanted = [name for name in every if not options.only or {name, name.split("/")[1]} & set(options.only)]
    if not wanted:
        parser.error(f"--only: {' '.join(options.only)} names no teacher of {options.file}")

    failed = [name for name in wanted if not build(options.output_dir / name, every[name], extra)]
    done = [name for name in wanted if name not in failed]
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        for name in done:
            source = options.output_dir / name / "metrics.json"
            shutil.copyfile(source, options.results / f"{name.replace('/', '_')}.json")
    print(format_table([(name, read_teacher_record(options.output_dir / name).report) for name in done]))
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
