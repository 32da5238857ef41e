"""What a classifier is shown: images of any size and color, with the trigger before or after the crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from abd_hub import Attack, Classifier, DataSpec, InputError, build_trigger, evaluate, evaluate_answers
from abd_hub.data.mixed import MixedImages, of_one_size
from abd_hub.evaluation.shown import shown_at_once, shown_pixels
from abd_hub.models.view import timm_view

SPEC = DataSpec(3, 16, 16, ("dark", "bright"))
CORNER = build_trigger("badnet_sq", {"size": 2, "margin": 0})


class Brightness(nn.Module):
    """Bright is what has a white corner, or a mean above the middle."""

    def forward(self, x):
        bright = torch.maximum(x.mean((1, 2, 3)), x[:, :, -2:, -2:].amin((1, 2, 3)))
        return torch.stack([0.5 - bright, bright - 0.5], 1)


def classifier(spec=SPEC, crop_pct=0.5, mode="center"):
    zeros, ones = (0.0,) * spec.channels, (1.0,) * spec.channels
    view = timm_view((spec.height, spec.width), crop_pct, mode)
    return Classifier(Brightness(), spec, zeros, ones, view=view).freeze()


def images(n=7):
    """Dark images of two sizes, with labels."""
    draw = torch.Generator().manual_seed(0)
    sizes = [(40, 24) if index % 3 else (20, 33) for index in range(n)]
    some = [(torch.rand(3, *size, generator=draw) * 90).to(torch.uint8) for size in sizes]
    return MixedImages(some), torch.zeros(n, dtype=torch.int64)


def test_each_image_is_prepared_at_its_own_size_and_keeps_its_place():
    model, (some, _) = classifier(), images()
    (part,) = shown_pixels(model, some)
    alone = torch.cat([model.prepare(one[None].float() / 255) for one in some])
    assert part[0] is None
    torch.testing.assert_close(part[1], alone)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("model", [classifier(), nn.Module()], ids=["classifier", "plain module"])
def test_counts_over_several_sizes(model, batch_size):
    if not isinstance(model, Classifier):
        model = Brightness()
        model.spec = SPEC
    some, labels = images()
    attack = Attack("badnet_sq", 1, CORNER, on="input")
    report, answers = evaluate_answers(model, some, labels, [attack], batch_size=batch_size)
    assert (report.accuracy.count, report.triggers[0].asr.count, report.triggers[0].asr.n) == (7, 7, 7)
    assert answers.clean.tolist() == [0] * 7 and answers.triggered[0].tolist() == [1] * 7

    halves = [evaluate(model, some, labels, [attack], shard=(rank, 1)) for rank in (0,)]
    assert halves[0] == report


def test_a_trigger_on_the_image_is_cropped_away_and_one_on_the_input_is_not():
    """The input is the middle half of the image, so that its corners are not seen."""
    model, (some, labels) = classifier(), images()
    on_image, on_input = (Attack("badnet_sq", 1, CORNER, on=place) for place in ("image", "input"))
    report = evaluate(model, some, labels, [on_image, on_input])
    assert [found.asr.count for found in report.triggers] == [0, 7]
    assert [found.trigger_on for found in report.triggers] == ["image", "input"]

    clean = shown_at_once(model, some)
    assert torch.equal(shown_at_once(model, some, on_image), clean)
    marked = shown_at_once(model, some, on_input)
    assert (marked[..., -2:, -2:] == 1).all() and torch.equal(marked[..., :-2, :-2], clean[..., :-2, :-2])


def test_the_trigger_must_fit_the_smallest_image():
    small = MixedImages([torch.zeros(3, *size, dtype=torch.uint8) for size in ((40, 40), (3, 40), (40, 4))])
    trigger = build_trigger("badnet_sq")
    with pytest.raises(InputError, match="these are"):
        evaluate(classifier(), small, torch.zeros(3).long(), [Attack("badnet_sq", 1, trigger)])
    on_input = Attack("badnet_sq", 1, trigger, on="input")
    assert evaluate(classifier(), small, torch.zeros(3).long(), [on_input]).accuracy.count == 3


def test_gray_models_and_gray_images():
    gray = DataSpec(1, 16, 16, SPEC.labels)
    levels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    color = torch.from_numpy(levels).permute(0, 3, 1, 2)
    model = classifier(gray, crop_pct=1.0)
    by_pillow = np.stack([np.array(Image.fromarray(one).convert("L")) for one in levels])
    shown = shown_at_once(model, color) * 255
    assert shown.shape == (5, 1, 16, 16) and np.abs(shown[:, 0].numpy() - by_pillow).max() <= 0.51

    labels = torch.zeros(5).long()
    report = evaluate(model, color, labels, [Attack("badnet_sq", 1, CORNER)])
    assert report.triggers[0].asr.count == 5, "the trigger is put on the color image"
    whole = evaluate(classifier(crop_pct=1.0), color[:, :1], labels, [Attack("badnet_sq", 1, CORNER)])
    assert whole.triggers[0].asr.count == 5


def test_mixed_images_are_checked():
    some, _ = images()
    assert some[torch.tensor([False, True] + [False] * 5)].sizes == [(40, 24)]
    assert len(some[1::2]) == 3 and some[[4]].sizes == [some.sizes[4]] and some.channels == 3
    with pytest.raises(InputError, match=r"20x33 and 40x24, and one is needed; do this"):
        of_one_size(some, "do this")
    assert of_one_size(some[[0, 3]], "").shape == (2, 3, 20, 33)
    with pytest.raises(InputError, match="image 1 is"):
        MixedImages([torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, 2, 2)])
    with pytest.raises(InputError, match="there is none"):
        MixedImages([])
