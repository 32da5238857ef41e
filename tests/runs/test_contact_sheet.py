"""The sheet shows every trigger as it is: exact pixels, in the row of its name."""

import numpy as np
import pytest
import torch
from PIL import Image

from abd_hub.cli import main
from abd_hub.core import registry
from abd_hub.core.errors import InputError
from abd_hub.data.images import load_images
from abd_hub.report import grids
from abd_hub.runs import contact_sheet
from abd_hub.triggers import build_trigger

TOP, LINE, CELL = 48, 132, 128


def load(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def enlarged(pixels):
    """A row of images as it must be on the sheet: 128 pixels high, 4 apart."""
    levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    zoom = CELL // levels.shape[1]
    return [image.repeat(zoom, axis=0).repeat(zoom, axis=1) for image in levels]


def shown(sheet, row, x):
    return sheet[TOP + row * LINE :, x:][:CELL, :CELL]


def left_edge(sheet, image, row=0):
    """Where the first image of a row begins; it must be there exactly once."""
    found = [x for x in range(sheet.shape[1] - CELL) if np.array_equal(shown(sheet, row, x), image)]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "all.png"
    left_out = contact_sheet.draw_triggers(path)
    return load(path), left_out


def test_sample_images_are_photographs():
    images = contact_sheet.sample_images()
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert all(image.std() > 0.15 for image in images)
    # Neighbors in a photograph are alike, in noise they are not.
    assert (images[..., 1:] - images[..., :-1]).abs().mean() < 0.12
    assert torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(99).min() > 5


def test_every_trigger_has_its_row(drawn):
    sheet, left_out = drawn
    assert left_out == ["picture"]
    names = [entry.name for entry in registry.catalog("triggers") if entry.name not in left_out]
    clean = contact_sheet.sample_images()
    assert sheet.shape[0] == TOP + LINE * (len(names) + 1) + 16
    left = left_edge(sheet, enlarged(clean)[0])
    for row, name in enumerate(names, start=1):
        for column, image in enumerate(enlarged(build_trigger(name)(clean))):
            assert np.array_equal(shown(sheet, row, left + column * LINE), image), name
        assert (sheet[TOP + row * LINE :, :left][:CELL] < 100).any(), "the row has no name"


def test_differences_are_to_scale(drawn):
    sheet, left_out = drawn
    names = [entry.name for entry in registry.catalog("triggers") if entry.name not in left_out]
    clean = contact_sheet.sample_images()
    for name, factor in (("badnet_sq", 0.5), ("sinusoid", 4), ("bpp", 16)):
        row = names.index(name) + 1
        difference = build_trigger(name)(clean) - clean
        assert 0.25 < factor * difference.abs().max() <= 0.5
        left_edge(sheet, enlarged(0.5 + factor * difference)[0], row)


def test_a_trigger_that_changes_nothing_is_drawn_gray():
    assert contact_sheet._factor(0) == 1
    assert contact_sheet._factor(1e-9) == 64
    assert contact_sheet._factor(1) == 0.5


def test_other_images_and_triggers_that_do_not_fit_them(tmp_path, capsys):
    path = tmp_path / "digits.png"
    assert main(["list", "triggers", "--picture", str(path), "--dataset", "digits", "--split", "train"]) == 0
    assert capsys.readouterr().out == f"wrote {path} without picture, which needs options\n"
    sheet = load(path)
    clean = load_images("digits", "train", limit=4).pixels()
    left = left_edge(sheet, enlarged(clean)[0])
    names = [entry.name for entry in registry.catalog("triggers") if entry.name != "picture"]
    blank = [
        name
        for row, name in enumerate(names, start=1)
        if (sheet[TOP + row * LINE :, left:][:CELL] > 250).all()
    ]
    assert set(blank) >= {"l0_inv", "trojan_8x8"}, "these do not fit on 8x8"
    assert "badnet_sq" not in blank and "blend" not in blank
    assert [file.name for file in tmp_path.iterdir()] == ["digits.png"]


def test_what_stood_there_is_replaced_and_failure_leaves_it(tmp_path):
    path = tmp_path / "x.PNG"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="split 'nowhere'"):
        contact_sheet.draw_triggers(path, "digits", "nowhere")
    assert path.read_bytes() == b"old"
    contact_sheet.draw_triggers(path, "digits")
    assert load(path).shape[0] > 1000


def test_a_sheet_smooths_nothing(tmp_path):
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = images[0, 1, 1, 1] = 1
    rows = [grids.SheetRow("a", blocks=(images, 1 - images)), grids.SheetRow("b", "empty")]
    grids.save_contact_sheet(rows, ("one", "a title longer than an image is wide"), tmp_path / "x.png")
    sheet = load(tmp_path / "x.png")
    for color in ([255, 0, 0], [0, 255, 0], [0, 255, 255], [255, 0, 255]):
        assert int((sheet == color).all(axis=2).sum()) == 64 * 64
    vivid = sheet.reshape(-1, 3)[np.ptp(sheet.reshape(-1, 3), axis=1) > 0]
    assert len(np.unique(vivid, axis=0)) == 4
    assert (sheet[:, -1] == 255).all() and (sheet[-1] == 255).all()


@pytest.mark.parametrize("blocks", [(), (torch.zeros(0, 3, 8, 8),)])
def test_a_sheet_without_images_is_refused(tmp_path, blocks):
    for rows in ([], [grids.SheetRow("a", blocks=blocks)]):
        with pytest.raises(ValueError, match="holds no image"):
            grids.save_contact_sheet(rows, ("one",), tmp_path / "x.png")
