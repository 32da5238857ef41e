"""A data set reads its own files only, whatever its cells, cards and links name."""

from __future__ import annotations

import io
import json
import os
import zipfile

import datasets
import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_teacher import save_teacher

from abd_hub.core.errors import InputError
from abd_hub.data.boundary import Boundary, check_card
from abd_hub.data.images import load_images

NAMES = ["cat", "dog", "eel"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def secret(tmp_path):
    """A picture of the user's, beside the data set."""
    place = tmp_path / "private" / "secret.png"
    place.parent.mkdir()
    place.write_bytes(png(77))
    return place


def png(level, size=(4, 4)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def held(level):
    return {"bytes": png(level), "path": None}


def parquet(folder, cells, *, names=NAMES, split="test", readme=None):
    """A folder with one parquet file, whose labels are the rows' numbers modulo 3."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, type=kind), "label": [i % 3 for i in range(len(cells))]})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    facts = json.dumps({"info": {"features": features}})
    table = table.replace_schema_metadata({"huggingface": facts})
    pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet", compression="zstd")
    if readme is not None:
        (folder / "README.md").write_text(readme)
    return str(folder)


def pictures(folder, levels=(1, 2, 3)):
    """A folder of pictures, one in each class."""
    for name, level in zip(NAMES, levels, strict=True):
        (folder / "test" / name).mkdir(parents=True, exist_ok=True)
        (folder / "test" / name / "0.png").write_bytes(png(level))
    return folder


def card(**configuration):
    return f"---\n{json.dumps({'configs': [{'config_name': 'default', **configuration}]})}\n---\n"


def refused(folder, words, **options):
    with pytest.raises(InputError, match=words) as caught:
        load_images(str(folder), "test", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cell_cannot_name_a_file(tmp_path, secret):
    for name, path in [("absolute", str(secret)), ("zero", "/dev/zero"), ("up", "../private/secret.png")]:
        data = parquet(tmp_path / name, [held(1), {"bytes": None, "path": path}])
        assert "secret" not in refused(data, "image 1 is a path")


def test_a_folder_of_pictures_is_read(tmp_path):
    data = load_images(str(pictures(tmp_path / "pets")), "test")
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 3] and data.names == tuple(NAMES)


def test_a_zip_of_pictures_is_read(tmp_path):
    """The library unpacks it into the cache, so the cells name files there."""
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "test.zip", "w") as archive:
        archive.writestr("metadata.csv", "file_name,label\n" + "".join(f"{n}.png,{n}\n" for n in range(3)))
        for number in range(3):
            archive.writestr(f"{number}.png", png(number))
    data = load_images(str(tmp_path / "zipped"), "test")
    assert data.images[:, 0, 0, 0].tolist() == data.labels.tolist() == [0, 1, 2]


def test_links_lead_nowhere(tmp_path, secret):
    folder = pictures(tmp_path / "pets")
    (folder / "test" / "fox").symlink_to(secret.parent)
    assert len(load_images(str(folder), "test")) == 3, "the library does not follow links to folders"
    (folder / "test" / "cat" / "1.png").symlink_to(secret)
    refused(folder, "lies outside of it, and is not read")
    (folder / "test" / "cat" / "1.png").unlink()
    (folder / "test" / "cat" / "1.png").symlink_to(folder / "test" / "dog" / "0.png")
    assert len(load_images(str(folder), "test")) == 4, "a link within the folder"


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_is_no_link_to_another_place(tmp_path, secret, name):
    folder = pictures(tmp_path / "pets")
    (folder / name).symlink_to(secret)
    refused(folder, f"'{name}' lies outside of it, and is not read")
    (folder / name).unlink()
    (folder / "own").write_text("")
    (folder / name).symlink_to(folder / "own")
    assert len(load_images(str(folder), "test")) == 3


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "loop/x"])
def test_a_path_that_no_file_can_have(tmp_path, path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    boundary = Boundary("pets", (tmp_path / "pets",), None, folder_of_images=True)
    with pytest.raises(InputError, match="lies outside of it"):
        boundary.read(f"{tmp_path}/{path}", "image 0")


def test_metadata_cannot_name_a_file(tmp_path, secret):
    folder = tmp_path / "pets"
    pictures(folder)
    (folder / "test" / "metadata.csv").write_text(
        f"file_name,label\ncat/0.png,0\n{os.path.relpath(secret, folder / 'test')},1\n"
    )
    refused(folder, "lies outside of it|cannot be read")


@pytest.mark.parametrize(
    "place",
    [
        "/etc/*.png",
        "../private/*",
        "data/../../private/*",
        "~/x.png",
        "http://127.0.0.1:9/x.parquet",
        "hf://datasets/other/data/x.parquet",
        "zip://x::http://127.0.0.1:9/x.zip",
    ],
)
def test_a_card_cannot_name_a_file(tmp_path, place):
    files = [{"split": "test", "path": place}]
    shapes = [
        {"data_files": files},
        {"data_files": place},
        {"data_files": {"test": [place]}},
        {"data_dir": place},
    ]
    shapes.append({"data_files": [{"split": "test", "path": ["data/*", place]}]})
    for number, shape in enumerate(shapes):
        refused(
            parquet(tmp_path / str(number), [held(1)], readme=card(**shape)), "README.md names .* outside"
        )
    (tmp_path / "0" / "README.md").unlink()
    (tmp_path / "0" / ".huggingface.yaml").write_text(json.dumps({"configs": [{"data_files": place}]}))
    refused(tmp_path / "0", r"\.huggingface\.yaml names .* outside")


def test_a_card_names_files_of_its_own(tmp_path):
    readme = card(data_files=[{"split": "test", "path": "data/test-*"}])
    assert len(load_images(parquet(tmp_path / "pets", [held(1)] * 3, readme=readme), "test")) == 3


def test_cards_run_nothing(tmp_path):
    tag = "---\nx: !!python/object/apply:os.system ['true']\n---\n"
    refused(parquet(tmp_path / "tag", [held(1)], readme=tag), "README.md cannot be read")
    check_card("pets", "no front matter\n---\nconfigs: [{data_dir: /etc}]\n---\n")
    deep = "---\n" + "[" * 5000 + "\n---\n"
    refused(parquet(tmp_path / "deep", [held(1)], readme=deep), "README.md cannot be read")


def test_readers_of_pickles_are_not_used(tmp_path):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "test.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    refused(tmp_path / "pets", "read as hdf5, which is none of parquet")


def test_only_the_wanted_split_is_read(tmp_path):
    folder = parquet(tmp_path / "pets", [held(1)] * 3)
    (tmp_path / "pets" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    assert len(load_images(folder, "test")) == 3
    with pytest.raises(InputError, match="cannot be read"):
        load_images(folder, "train")
    parquet(tmp_path / "pets", [held(2)] * 2, split="train")
    assert len(load_images(folder, "train+test")) == 5
    assert len(load_images(folder, "train[:1]")) == 1


def test_a_pipe_is_not_opened(tmp_path):
    folder = pictures(tmp_path / "pets")
    os.mkfifo(folder / "test" / "cat" / "1.png")
    assert len(load_images(str(folder), "test")) == 3, "the library does not list it"
    with pytest.raises(InputError, match=r"1.png' is no regular file"):
        Boundary("pets", (folder,)).check_files([str(folder / "test" / "cat" / "1.png")])


def test_pixels_in_all_are_bounded(tmp_path):
    folder = parquet(tmp_path / "pets", [{"bytes": png(0, (300, 300)), "path": None}] * 5)
    refused(folder, "max_size_gb: 5 images of 300x300 take 0.00 GB", max_size_gb=0.001)
    assert len(load_images(folder, "test", max_size_gb=0.001, image_size=8)) == 5
    assert len(load_images(folder, "test", max_size_gb=0.001, limit=3)) == 3


def test_names_of_labels_are_bounded(tmp_path):
    many = [str(number) for number in range(100_001)]
    refused(parquet(tmp_path / "many", [held(1)], names=many), "names 100,001 classes")
    refused(
        parquet(tmp_path / "lists", [held(1)], names=[["a"], "b", "c"]), r"names a class \['a'\], which is no"
    )
    refused(parquet(tmp_path / "long", [held(1)], names=["x" * 2000, "b", "c"]), "a name of more than 1,000")


def test_pointers_of_git_lfs(tmp_path):
    folder = tmp_path / "pets"
    parquet(folder, [held(1)])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (folder / "data" / "test-00000-of-00001.parquet").write_text(pointer)
    refused(folder, "is a git-lfs pointer file and not the content; run 'git lfs pull'")


@pytest.mark.parametrize("readme", ["# no metadata\n", "---\ndataset_info: {splits: 3}\n---\n"])
def test_the_libraries_add_no_words_to_a_refusal(tmp_path, readme):
    teacher = save_teacher(tmp_path / "teacher")
    folder = parquet(tmp_path / "pets", [{"bytes": b"x", "path": None}], readme=readme)
    done = forked.run("-m", "abd_hub", "evaluate", str(teacher), "--dataset", folder, "--split", "test")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("abd-hub: ")


def test_damage_of_a_folder_does_not_pass_for_an_answer_of_the_hub(tmp_path):
    folder = parquet(tmp_path / "pets", [held(1)])
    (tmp_path / "pets" / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    shown = refused(folder, "cannot be read")
    assert "the Hub" not in shown and "HF_ENDPOINT" not in shown
