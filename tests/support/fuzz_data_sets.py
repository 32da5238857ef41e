"""Folders of data sets whose cells, cards, names and archives are hostile."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_mutations import NUMBERS, RAW_JSON, RAW_YAML, TEXTS, json_bytes, mutated, mutated_bytes, yaml_bytes
from fuzz_pictures import hostile_picture, plain_picture

SIDE = 6
NAMES = ["cat", "dog", "eel"]
CARD = {
    "license": "mit",
    "configs": [{"config_name": "default", "data_files": [{"split": "test", "path": "data/test-*"}]}],
    "dataset_info": {
        "features": [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": "int64"}],
        "splits": [{"name": "test", "num_examples": 3}],
    },
}
PLACES = (
    *("/etc/*", "../secret/*", "data/../../secret/*", "~/x.png", "http://127.0.0.1:9/x.parquet", "data/*"),
    *("hf://datasets/other/data/x.parquet", "zip://x::http://127.0.0.1:9/x.zip", "file:///etc/passwd", "**"),
    *(
        "test/**",
        "[",
        "data/test-*\0",
        "zip://*::data/x.zip",
        "memory://x",
        "ftp://127.0.0.1/x",
        "/proc/self/*",
    ),
)


def write_parquet(folder: Path, chance: random.Random) -> None:
    """A data set of one parquet file, with hostile cells, types, labels, metadata or bytes."""
    (folder / "data").mkdir(parents=True)
    rows = chance.choice((1, 3, 3, 4))
    table = _table([_cell(chance) for _ in range(rows)], [_label(chance, row) for row in range(rows)], chance)
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    facts: Any = {"info": {"features": features}}
    if chance.random() < 0.4:
        facts = mutated(facts, chance, RAW_JSON)
    if chance.random() < 0.9:
        table = table.replace_schema_metadata({"huggingface": json_bytes(facts, chance)})
    stream = io.BytesIO()
    pq.write_table(table, stream, compression=chance.choice(("zstd", "snappy", "none")))
    data = stream.getvalue()
    if chance.random() < 0.15:
        data = mutated_bytes(data, chance)
    (folder / "data" / "test-00000-of-00001.parquet").write_bytes(data)
    if chance.random() < 0.2:
        write_card(folder, chance)


def _cell(chance: random.Random) -> Any:
    kind = chance.random()
    if kind < 0.05:
        return None
    path = chance.choice((None, None, "a.png", *(chance.choice(TEXTS + PLACES) for _ in range(2))))
    path = None if path is None else path.encode("utf-8", "replace").decode()
    good = chance.random() < 0.6
    content = None if kind < 0.12 else plain_picture(SIDE) if good else hostile_picture(chance, SIDE)
    return {"bytes": content, "path": path}


def _label(chance: random.Random, row: int) -> Any:
    return row % 3 if chance.random() < 0.95 else chance.choice((None, -1, 3, 100_001, 2**62))


def _table(cells: list[Any], labels: list[Any], chance: random.Random) -> pa.Table:
    binary = pa.binary() if chance.random() < 0.95 else pa.large_binary()
    images = pa.array(cells, type=pa.struct([("bytes", binary), ("path", pa.string())]))
    kind = chance.random()
    if kind < 0.04:
        images = pa.array([cell and cell["bytes"] for cell in cells], type=pa.binary())
    elif kind < 0.08:
        images = pa.array([cell and cell["path"] for cell in cells], type=pa.string())
    elif kind < 0.1:
        images = pa.array([[cell] for cell in cells])
    column = pa.array(labels, type=pa.int64())
    if kind > 0.9:
        words = [chance.choice(TEXTS).encode("utf-8", "replace").decode() for _ in labels]
        others = [
            pa.array(words),
            column.cast(pa.float64(), safe=False),
            pa.array([[label] for label in labels]),
        ]
        column = chance.choice([*others, pa.array([None] * len(labels))])
    name = chance.choice(("label",) * 9 + (chance.choice(TEXTS).encode("utf-8", "replace").decode(),))
    return pa.table({"image": images, name: column})


def write_card(folder: Path, chance: random.Random) -> None:
    """A README.md or .huggingface.yaml whose YAML is hostile."""
    tree = mutated(CARD, chance, RAW_YAML)
    if chance.random() < 0.4 and isinstance(tree, dict):
        place = chance.choice(PLACES)
        shapes = [{"data_dir": place}, {"data_files": place}, {"data_files": {"test": [place, "data/*"]}}]
        shapes += [
            {"data_files": [{"split": "test", "path": place}]},
            {"data_files": [{"split": place, "path": "**"}]},
        ]
        tree["configs"] = [{"config_name": "default", **chance.choice(shapes)}]
    text = yaml_bytes(tree, chance)
    if chance.random() < 0.2:
        (folder / ".huggingface.yaml").write_bytes(text)
    else:
        (folder / "README.md").write_bytes(b"---\n" + text + chance.choice((b"---\n", b"---\n# x\n", b"")))


def write_folder(folder: Path, chance: random.Random, outside: Path) -> None:
    """A folder of pictures with odd names, links, archives, metadata and cards."""
    for index, name in enumerate(NAMES):
        place = folder / "test" / name
        place.mkdir(parents=True)
        data = plain_picture(SIDE) if chance.random() < 0.9 else hostile_picture(chance, SIDE)
        (place / f"{index}.png").write_bytes(data)
    for _ in range(chance.choice((1, 1, 2))):
        chance.choice((_odd_name, _link, _metadata, _archive, _foreign, _card))(folder, chance, outside)


def _card(folder: Path, chance: random.Random, _outside: Path) -> None:
    write_card(folder, chance)


def _odd_name(folder: Path, chance: random.Random, _outside: Path) -> None:
    word = chance.choice(TEXTS).replace("/", "_").replace("\0", "_")[:60].encode("utf-8", "surrogatepass")
    place = os.fsencode(folder / "test") + b"/" + (word or b"x")
    if word not in (b".", b".."):
        os.makedirs(place, exist_ok=True)  # noqa: PTH103 - a name that is no text
        target = (
            place
            + b"/"
            + chance.choice((b"0.png", b"a\nb.png", b"\x1b[2J.jpg", b"\xff.png", b"x" * 200 + b".png"))
        )
        with open(target, "wb") as file:  # noqa: PTH123
            file.write(hostile_picture(chance, SIDE))


def _link(folder: Path, chance: random.Random, outside: Path) -> None:
    place = folder / chance.choice(
        ("test/cat/9.png", "test/fox", "README.md", "metadata.csv", "test/metadata.jsonl")
    )
    targets = (
        outside / "secret.png",
        outside,
        Path("/dev/zero"),
        Path("/etc/passwd"),
        place,
        folder,
        Path("/proc/self/environ"),
    )
    if not place.exists():
        place.symlink_to(chance.choice(targets))


def _metadata(folder: Path, chance: random.Random, outside: Path) -> None:
    names = [
        "cat/0.png",
        "dog/1.png",
        os.path.relpath(outside / "secret.png", folder / "test"),
        *TEXTS[:20],
        *PLACES,
    ]
    rows = [
        {"file_name": chance.choice(names), "label": chance.choice((0, 1, "cat", None))} for _ in range(3)
    ]
    rows = [{"file_name": "cat/0.png", "label": 0}, *rows]
    if chance.random() < 0.5:
        lines = [json_bytes(mutated(row, chance, RAW_JSON), chance) for row in rows]
        (folder / "test" / "metadata.jsonl").write_bytes(b"\n".join(lines))
    else:
        lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
        (folder / "test" / "metadata.csv").write_bytes(
            mutated_bytes(data, chance) if chance.random() < 0.3 else data
        )


def _archive(folder: Path, chance: random.Random, outside: Path) -> None:
    """A zip or a tar, whose members may lead elsewhere or be large."""
    members = {
        "cat/5.png": hostile_picture(chance, SIDE),
        "0.cls": b"1",
        "0.png": hostile_picture(chance, SIDE),
    }
    odd = chance.choice(
        ("../../escaped.png", "/tmp/escaped.png", "a\nb.png", "0.pth", "0.npy", "0.json", "0.mp", "0.pyd")
    )
    members[odd] = chance.choice(
        (hostile_picture(chance, SIDE), bytes(30_000_000), b"cos\nsystem\n(S'touch ran'\ntR.")
    )
    if chance.random() < 0.5:
        with zipfile.ZipFile(folder / "test" / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without the time
        return
    with tarfile.open(folder / chance.choice(("test.tar", "test/test-0.tar")), "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        if chance.random() < 0.3:
            entry = tarfile.TarInfo("1.png")
            entry.type, entry.linkname = tarfile.SYMTYPE, str(outside / "secret.png")
            archive.addfile(entry)


def _foreign(folder: Path, chance: random.Random, _outside: Path) -> None:
    """Files of another kind, which the library may take for the data."""
    script = f"open({str(folder / 'ran')!r}, 'w')\n".encode()
    rows = b"".join(
        json.dumps({"image": chance.choice(TEXTS), "label": chance.choice(NUMBERS)}).encode() + b"\n"
        for _ in "abc"
    )
    files = {
        f"{folder.name}.py": script,
        "test.py": script,
        "test.pkl": b"cos\nsystem\n(S'touch ran'\ntR.",
        "test.h5": b"\x89HDF\r\n\x1a\n" + bytes(64),
        "test.jsonl": rows,
        "test.csv": b"image,label\n/etc/passwd,1\n",
        "test.arrow": chance.randbytes(90),
        "test.txt": b"x\n",
        "test.xml": b"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><x>&y;</x>",
        "dataset_infos.json": json_bytes(
            mutated({"default": {"features": {"image": {"_type": "Image"}}}}, chance, RAW_JSON), chance
        ),
        "state.json": b"{}",
        "dataset_dict.json": b'{"splits": ["test"]}',
    }
    for _ in range(chance.choice((1, 2))):
        name = chance.choice(list(files))
        (folder / name).write_bytes(files[name])
