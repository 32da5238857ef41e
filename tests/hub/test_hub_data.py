"""Data sets of a Hub: busy answers, sizes, cards that reach out, and only the wanted split."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def png(level):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(levels, *, path=None):
    """Pictures of one color each; with ``path`` the last cell names this file."""
    cells = [{"bytes": png(level), "path": None} for level in levels]
    if path is not None:
        cells[-1] = {"bytes": None, "path": path}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, type=kind), "label": [0] * len(cells)})
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    facts = json.dumps({"info": {"features": features}})
    content = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": facts}), content)
    return content.getvalue()


def load(worker, name, split="test", **options):
    return worker.ask(images=[name, split], options=options)


def refused(worker, name, split="test", **options):
    answer = load(worker, name, split, **options)
    assert set(answer) == {"error"}, answer
    assert "\n" not in answer["error"] and "127.0.0.1" not in answer["error"]
    return answer["error"]


def test_a_commit_is_pinned_and_one_split_travels(server, worker):
    files = {"data/test-0.parquet": parquet([1, 2]), "data/train-0.parquet": b"PAR1" + bytes(99) + b"PAR1"}
    commit = server.repo("acme/pets", kind="dataset").commit(files)
    answer = load(worker, "acme/pets")
    assert (answer["count"], answer["commit"]) == (2, commit), answer
    assert "it has" in refused(worker, "acme/pets", "validation")
    server.repo("acme/pets", kind="dataset").commit({"data/test-0.parquet": parquet([5])})
    assert load(worker, "acme/pets")["count"] == 1
    assert load(worker, "acme/pets", revision=commit)["sha256"] == answer["sha256"]


def test_folders_of_pictures_and_archives(server, worker):
    pictures = {f"{number}.png": png(number) for number in range(3)}
    table = "file_name,label\n" + "".join(f"{name},{number}\n" for number, name in enumerate(pictures))
    loose = {f"test/{name}": data for name, data in pictures.items()} | {"test/metadata.csv": table.encode()}
    server.repo("acme/loose", kind="dataset").commit(loose)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in {"metadata.csv": table.encode(), **pictures}.items():
            archive.writestr(name, data)
    server.repo("acme/packed", kind="dataset").commit({"test.zip": packed.getvalue()})
    first = load(worker, "acme/loose")
    assert first.get("count") == 3, first
    assert load(worker, "acme/packed").get("sha256") == first["sha256"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_tried_again(server, worker, status):
    name = f"acme/busy{status}"
    server.repo(name, kind="dataset").commit({"test.parquet": parquet([1])})
    server.fail("info", status, times=1, path=name, retry_after=0.1)
    assert load(worker, name)["count"] == 1
    server.fail("info", status, times=99, path=name)
    server.repo(f"{name}b", kind="dataset").commit({"test.parquet": parquet([1])})
    server.fail("info", status, times=99, path=f"{name}b")
    assert "the Hub answers" in refused(worker, f"{name}b")


def test_sizes_are_known_before_the_download(server, worker):
    server.repo("acme/large", kind="dataset").commit({"test.parquet": parquet([1])})
    assert "max_size_gb: the split of acme/large has" in refused(worker, "acme/large", max_size_gb=1e-7)


def test_nothing_else_is_read(server, worker, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(secret)
    server.repo("acme/cell", kind="dataset").commit({"test.parquet": parquet([1, 2], path=str(secret))})
    assert "image 1 is a path" in refused(worker, "acme/cell")
    server.repo("other/data", kind="dataset").commit({"x.parquet": parquet([9])})
    places = ["/etc/*", str(secret), "http://elsewhere.test/x.parquet", "hf://datasets/other/data/x.parquet"]
    for number, place in enumerate(places):
        card = json.dumps({"configs": [{"config_name": "default", "data_files": {"test": place}}]})
        files = {"README.md": f"---\n{card}\n---\n".encode(), "test.parquet": parquet([1])}
        server.repo(f"acme/card{number}", kind="dataset").commit(files)
        assert "lies outside of it" in refused(worker, f"acme/card{number}"), place


def test_unknown_ones_are_named(server, worker):
    assert "acme/none" in refused(worker, "acme/none")


def test_a_copy_is_read_without_a_connection(server, worker, offline):
    """Of the commit that it is, and of no other revision."""
    commit = server.repo("acme/kept", kind="dataset").commit({"data/test-0.parquet": parquet([1, 2])})
    first = load(worker, "acme/kept")
    assert first["commit"] == commit
    assert load(offline, "acme/kept") == first == load(offline, "acme/kept", revision=commit)
    assert f"copy at hand is {commit}; go online" in refused(offline, "acme/kept", revision="v2")
    assert "acme/never cannot be read" in refused(offline, "acme/never")
