from __future__ import annotations

import io
import shutil

import datasets
import numpy as np
import pytest
import torch
from missing import published
from PIL import Image

from abd_hub.core.errors import InputError
from abd_hub.data.images import load_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test sees what another one left in the cache of the datasets library."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(index, size=(6, 5), mode="RGB"):
    """A PNG of (height, width) by integer arithmetic, as bytes."""
    values = (np.arange(size[0] * size[1] * 3) * 7 + index * 13) % 256
    image = Image.fromarray(values.reshape(*size, 3).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def cells(n, **options):
    return [{"bytes": picture(index, **options), "path": f"{index}.png"} for index in range(n)]


def write(folder, columns, features, split="test"):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


def plain(folder, image="img", label="label", *, n=7, images=None, labels=None, split="test"):
    """A folder with an image and a ClassLabel column among others."""
    features = {
        "id": datasets.Value("int64"),
        image: datasets.Image(),
        "note": datasets.Value("string"),
        label: datasets.ClassLabel(names=["cat", "dog", "eel"]),
    }
    columns = {
        "id": list(range(100, 100 + n)),
        image: cells(n) if images is None else images,
        "note": ["x"] * n,
        label: [index % 3 for index in range(n)] if labels is None else labels,
    }
    return write(folder, columns, features, split)


def as_tensor(encoded):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(encoded)).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_columns_are_found_by_type(tmp_path, image, label):
    data = load_images(plain(tmp_path / "pets", image, label), "test")
    assert data.images.shape == (7, 3, 6, 5) and data.images.dtype == torch.uint8
    assert data.images.is_contiguous()
    assert torch.equal(data.images, torch.stack([as_tensor(picture(index)) for index in range(7)]))
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and data.labels.dtype == torch.int64
    assert data.names == ("cat", "dog", "eel")
    assert (data.ref.id, data.ref.split, data.ref.revision, data.ref.n) == ("pets", "test", None, 7)


def test_pixels_and_to(tmp_path):
    data = load_images(plain(tmp_path / "pets"), "test").to("cpu")
    pixels = data.pixels(torch.tensor([3, 1]))
    assert pixels.dtype == torch.float32 and pixels.shape == (2, 3, 6, 5)
    assert torch.equal((pixels * 255).round().to(torch.uint8), data.images[[3, 1]])
    assert len(data.pixels()) == len(data) == 7 and data.pixels(slice(2, 4)).max() <= 1
    assert data.images.dtype == torch.uint8


def test_fingerprint_follows_the_content_not_the_place(tmp_path):
    first = load_images(plain(tmp_path / "a" / "pets"), "test")
    renamed = load_images(plain(tmp_path / "elsewhere", "picture", "kind"), "test")
    assert first.ref.fingerprint == renamed.ref.fingerprint
    others = [
        load_images(plain(tmp_path / "labels", labels=[0, 1, 2, 0, 1, 2, 1]), "test"),
        load_images(plain(tmp_path / "images", images=cells(8)[1:]), "test"),
        load_images(plain(tmp_path / "a" / "pets"), "test", limit=6),
    ]
    prints = {data.ref.fingerprint for data in [first, *others]}
    assert len(prints) == 4 and all(len(value) == 64 for value in prints)
    assert str(tmp_path) not in repr(first.ref)


CONFIGURATIONS = """---
configs:
- config_name: default
  data_files: [{split: test, path: data/test-*}]
---
"""


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    """Also where a README lists configurations, by which the datasets library then tells its copies apart."""
    folders = [tmp_path / place / "pets" for place in ("a", "b")]
    for folder, first in zip(folders, (0, 20), strict=True):
        plain(folder, images=[{"bytes": picture(first + index), "path": None} for index in range(7)])
        (folder / "README.md").write_text(CONFIGURATIONS)
    one, other = (load_images(str(folder), "test") for folder in folders)
    assert not torch.equal(one.images, other.images)
    plain(folders[0], images=[{"bytes": picture(40 + index), "path": None} for index in range(7)])
    changed = load_images(str(folders[0]), "test")
    assert torch.equal(changed.images[0], as_tensor(picture(40)))


def test_limit_takes_the_first_images_and_keeps_all_names(tmp_path):
    features = {"image": datasets.Image(), "label": datasets.Value("int32")}
    folder = write(tmp_path / "ints", {"image": cells(4), "label": [0, 1, 5, 2]}, features)
    data = load_images(folder, "test", limit=2)
    assert data.labels.tolist() == [0, 1] and data.names == tuple("012345") and data.ref.n == 2
    assert len(load_images(folder, "test", limit=100)) == 4
    with pytest.raises(InputError, match="limit 0"):
        load_images(folder, "test", limit=0)


def test_slices_of_splits(tmp_path):
    assert load_images(plain(tmp_path / "pets"), "test[2:4]").labels.tolist() == [2, 0]


def test_folder_of_class_folders(tmp_path):
    for index in range(4):
        path = tmp_path / "pets" / "train" / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(index))
    data = load_images(str(tmp_path / "pets"), "train")
    assert data.names == ("cat", "dog") and sorted(data.labels.tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_color_modes_become_rgb(tmp_path, mode):
    data = load_images(plain(tmp_path / mode, images=cells(7, mode=mode)), "test")
    assert torch.equal(data.images[2], as_tensor(picture(2, mode=mode)))


def two_images(folder):
    features = {
        "left": datasets.Image(),
        "right": datasets.Image(),
        "label": datasets.ClassLabel(names=["a"]),
    }
    return write(folder, {"left": cells(2), "right": cells(3)[1:], "label": [0, 0]}, features)


def two_labels(folder):
    features = {"image": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b"])}
    features["coarse"] = datasets.ClassLabel(names=["c"])
    return write(folder, {"image": cells(2), "fine": [1, 0], "coarse": [0, 0]}, features)


def two_integers(folder):
    features = {"image": datasets.Image(), "id": datasets.Value("int64"), "kind": datasets.Value("int64")}
    return write(folder, {"image": cells(2), "id": [10**9, 10**9 + 1], "kind": [1, 0]}, features)


def text_only(folder):
    return write(
        folder,
        {"text": ["a"], "label": [0]},
        {"text": datasets.Value("string"), "label": datasets.Value("int8")},
    )


def test_ambiguous_columns_are_asked_for(tmp_path):
    folder = two_images(tmp_path / "images")
    with pytest.raises(InputError, match=r"image_column: several .* left, right"):
        load_images(folder, "test")
    data = load_images(folder, "test", image_column="right")
    assert torch.equal(data.images[0], as_tensor(picture(1)))

    folder = two_labels(tmp_path / "labels")
    with pytest.raises(InputError, match=r"label_column: several .* fine, coarse"):
        load_images(folder, "test")
    assert load_images(folder, "test", label_column="fine").labels.tolist() == [1, 0]

    folder = two_integers(tmp_path / "integers")
    with pytest.raises(InputError, match=r"label_column: several .* id, kind"):
        load_images(folder, "test")
    assert load_images(folder, "test", label_column="kind").labels.tolist() == [1, 0]
    with pytest.raises(InputError, match="'id' goes up to 1000000001"):
        load_images(folder, "test", label_column="id")
    with pytest.raises(InputError, match="image_column 'kind' holds no images; use one of image"):
        load_images(folder, "test", image_column="kind", label_column="kind")
    with pytest.raises(InputError, match="image_column: no column holds images; the columns are text, label"):
        load_images(text_only(tmp_path / "text"), "test")


def broken(kind):
    images = cells(7)
    match kind:
        case "garbage":
            images[4]["bytes"] = b"not an image"
        case "truncated":
            images[4]["bytes"] = images[4]["bytes"][:60]
        case "missing":
            images[4] = None
        case "deep":
            buffer = io.BytesIO()
            Image.fromarray(np.full((6, 5), 4000, dtype=np.uint16)).save(buffer, "PNG")
            images[4]["bytes"] = buffer.getvalue()
    return images


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("garbage", "image 4 is no picture"),
        ("truncated", "image 4 is damaged"),
        ("missing", "image 4 is missing"),
        ("deep", "image 4 has more than 8 bits"),
    ],
)
def test_bad_images_are_named(tmp_path, kind, words):
    with pytest.raises(InputError, match=words) as caught:
        load_images(plain(tmp_path / kind, images=broken(kind)), "test")
    assert "\n" not in str(caught.value)


def test_unlabelled_split(tmp_path):
    with pytest.raises(InputError, match="image 1 has no label"):
        load_images(plain(tmp_path / "pets", labels=[0, None, 1, 1, 1, 1, 1]), "test")
    with pytest.raises(InputError, match="image 0 has no label"):
        load_images(plain(tmp_path / "hidden", labels=[-1] * 7), "test")


def test_empty_and_unknown_splits(tmp_path):
    folder = plain(tmp_path / "pets")
    plain(tmp_path / "pets", n=0, split="validation")
    with pytest.raises(InputError, match=r"split 'validation' of .* is empty"):
        load_images(folder, "validation")
    with pytest.raises(InputError, match=r"split 'tset' of .*it has .*test"):
        load_images(folder, "tset")
    with pytest.raises(InputError, match="empty"):
        load_images(folder, "test[3:3]")


def test_places_that_hold_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.parquet").write_bytes(b"PAR1")
    (tmp_path / "wrong" / "data").mkdir(parents=True)
    (tmp_path / "wrong" / "data" / "test-0.parquet").write_bytes(b"not parquet")
    pets = plain(tmp_path / "pets")
    for source, words in [
        ("empty", "cannot be read"),
        ("wrong", "cannot be read"),
        ("./nowhere", "no such folder"),
        ("nowhere", "no such folder"),
        ("parquet", "no such folder"),
        ("a/b/c", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("file.parquet", "is a file"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            load_images(source, "test")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="revision 'main' has no meaning"):
        load_images(pets, "test", revision="main")
    with pytest.raises(InputError, match=r"cannot be read.*other"):
        load_images(pets, "test", config="other")


def test_digits():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert train.images.shape == (1258, 3, 8, 8) and test.images.shape == (539, 3, 8, 8)
    assert train.names == tuple("0123456789") and test.ref.id == "digits"
    assert train.images.min() == 0 and train.images.max() == 255
    assert torch.equal(train.images[:, 0], train.images[:, 2])
    shares = test.labels.bincount() / (test.labels.bincount() + train.labels.bincount())
    assert (shares - 0.3).abs().max() < 0.01
    assert test.ref.fingerprint == "71ee8910f26200120090be56fd2e4eeb6264cc43344f6c7fea2de208283f3f14"
    assert load_images("digits", "test", limit=5).labels.tolist() == test.labels[:5].tolist()
    with pytest.raises(InputError, match="use train or test"):
        load_images("digits", "validation")
    with pytest.raises(InputError, match="config has no meaning"):
        load_images("digits", "test", config="x")


def test_real_data(tmp_path):
    real = published("cifar10")
    data = load_images(str(real), "test", limit=300)
    assert data.images.shape == (300, 3, 32, 32) and data.names[8] == "ship"
    reference = datasets.load_dataset(str(real), split="test")
    for index in (0, 7, 299):
        assert np.array_equal(data.images[index].permute(1, 2, 0), np.array(reference[index]["img"]))
        assert data.labels[index] == reference[index]["label"]
    copy = tmp_path / "copy"
    (copy / "data").mkdir(parents=True)
    shutil.copy(real / "data" / "test-00000-of-00001.parquet", copy / "data")
    assert load_images(str(copy), "test", limit=300).ref.fingerprint == data.ref.fingerprint


def test_images_of_several_sizes_keep_them_or_are_squashed_on_request(tmp_path):
    for index, (width, height) in enumerate([(40, 30), (25, 60)]):
        folder = tmp_path / "data" / "train" / "ab"[index]
        folder.mkdir(parents=True)
        Image.new("RGB", (width, height), (10 * index, 200, 30)).save(folder / "x.png")
    mixed = load_images(str(tmp_path / "data"), "train")
    assert mixed.images.sizes == [(30, 40), (60, 25)] and mixed.ref.image_size is None
    assert mixed.pixels([1]).shape == (1, 3, 60, 25), "images of one size are a tensor again"
    with pytest.raises(
        InputError, match="30x40 and 60x25, and one is needed; set image_size, which squashes"
    ):
        mixed.pixels()
    data = load_images(str(tmp_path / "data"), "train", image_size=16)
    assert data.images.shape == (2, 3, 16, 16)
    assert [image[:, 3, 5].tolist() for image in data.images] == [[0, 200, 30], [10, 200, 30]]
    assert data.ref.image_size == 16
    other = load_images(str(tmp_path / "data"), "train", image_size=8)
    assert other.ref.fingerprint == data.ref.fingerprint == mixed.ref.fingerprint, (
        "of the images as they came"
    )
    with pytest.raises(InputError, match=r"max_size_gb: 2 of 2 images take .*; set limit or image_size"):
        load_images(str(tmp_path / "data"), "train", max_size_gb=8e-6)
    small = load_images(str(tmp_path / "data"), "train", prepare=lambda pixels: pixels[..., :9, :7])
    assert torch.equal(small.tensor[0], mixed.images[[0]].groups().__next__()[1][0, :, :9, :7])


def texts(folder):
    """Text labels beside a number that is none."""
    features = {
        "image": datasets.Image(),
        "image_id": datasets.Value("int64"),
        "label": datasets.Value("string"),
    }
    columns = {"image": cells(4), "image_id": [3, 1, 2, 0], "label": ["eel", "cat", None, "cat"]}
    return write(folder, columns, features)


def test_text_labels_are_names(tmp_path):
    with pytest.raises(InputError, match="image 2 has no label"):
        load_images(texts(tmp_path / "pets"), "test")
    data = load_images(texts(tmp_path / "pets"), "test[:2]")
    assert data.labels.tolist() == [1, 0] and data.names == ("cat", "eel")
    assert load_images(texts(tmp_path / "pets"), "test[:2]", label_column="image_id").labels.tolist() == [
        3,
        1,
    ]


def test_a_column_named_label_is_not_passed_over(tmp_path):
    features = {
        "image": datasets.Image(),
        "label": datasets.Value("float32"),
        "kind": datasets.Value("int64"),
    }
    columns = {"image": cells(2), "label": [0.0, 1.0], "kind": [1, 0]}
    folder = write(tmp_path / "floats", columns, features)
    with pytest.raises(InputError, match="label_column 'label' holds no labels; use one of kind"):
        load_images(folder, "test")
    assert load_images(folder, "test", label_column="kind").labels.tolist() == [1, 0]
    features |= {"label": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["a", "b"])}
    folder = write(tmp_path / "both", {**columns, "label": [2, 0]}, features)
    assert load_images(folder, "test").labels.tolist() == [2, 0]
