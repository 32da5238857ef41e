"""Judges what a command leaves in a folder: each file is whole, and the results are those of another run."""

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pyarrow.parquet
import yaml
from PIL import Image
from safetensors import safe_open

TEMPORARY = re.compile(r"\.abd-tmp-[0-9a-f]{16}-|\.round-\d+\.tmp$|\.lock$|\.stop$|\.filler$")
"""Names that no reader takes for a result."""
PASSING = re.compile(r"/abd-hub-app-[^/]+/(?!run-[0-9a-f]+/student/)")
"""Names a file that the page's next start removes unread; the results of a run are whole even there."""
TIMES = {
    *("durations", "seconds", "images_per_second", "spent", "processor_seconds", "attempts", "reason"),
    *("written", "budget", "speed"),
}
"""Fields of JSON that say how long something took; a sweep also counts its attempts."""
TIMED = re.compile(r"(?m)^(- Time: .*|.*images a second.*|<!-- .*[0-9a-f]{16}.* -->)$")
"""Lines of a card with a time, and the hash of the whole card."""


def found_in(folder):
    """The files that count as results, by name."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path for name, path in named.items() if not any(map(TEMPORARY.match, Path(name).parts))}


def leftovers(folder):
    """Temporary files and folders that are still there."""
    paths = [path for path in Path(folder).rglob("*") if TEMPORARY.match(path.name)]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def broken(folder):
    """One line for each file that is there and not whole."""
    faults = []
    for name, path in found_in(folder).items():
        if PASSING.search(f"/{name}"):
            continue
        try:
            _read(path)
        except Exception as error:
            faults.append(f"{name} is not whole ({type(error).__name__})")
    return faults


def _read(path):
    match path.suffix:
        case ".safetensors":
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        case ".json":
            json.loads(path.read_text("utf-8"))
        case ".jsonl":
            text = path.read_text("utf-8")
            assert not text or text.endswith("\n")
            [json.loads(line) for line in text.splitlines()]
        case ".yaml":
            assert yaml.safe_load(path.read_text("utf-8")) is not None
        case ".png":
            with Image.open(path) as picture:
                picture.load()
        case ".parquet":
            pyarrow.parquet.read_table(path)
        case ".pt2":
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
        case ".md":
            assert path.read_text("utf-8").endswith("\n")


def results(folder):
    """A hash of each result, without the times in it."""
    return {name: digest(name, path.read_bytes()) for name, path in found_in(folder).items() if _counts(name)}


def _counts(name):
    # state.json holds seconds; its tensors lie beside it. A log holds the words of all attempts.
    # A .pt2 file is another one each time.
    return not name.endswith(("state.json", ".log", ".pt2"))


def digest(name, data):
    """A hash of the content of a file, without times."""
    if name.endswith(".json"):
        data = json.dumps(_untimed(json.loads(data)), sort_keys=True).encode()
    elif name.endswith(".jsonl"):
        data = "\n".join(json.dumps(_untimed(json.loads(line))) for line in data.splitlines()).encode()
    elif name.endswith(".md"):
        data = TIMED.sub("", data.decode()).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def _untimed(value):
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in TIMES}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


def differences(found, wanted):
    """One line for each result that is missing, new or another."""
    names = sorted(set(found) | set(wanted))
    return [
        f"{name} is {'missing' if name not in found else 'new' if name not in wanted else 'another'}"
        for name in names
        if found.get(name) != wanted.get(name)
    ]
