"""A classifier gives the answers of its library's own pipeline, to images of any size."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import timm
import torch
from hub_configurations import TIMM, TRANSFORMERS, Repository
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import AutoImageProcessor, AutoModelForImageClassification

from abd_hub import InputError, create_student, load_classifier, save_timm_folder
from abd_hub.models.resampling import INTERPOLATIONS, resample, resampling_matrix
from abd_hub.models.saving import check_savable, save_folder
from abd_hub.models.view import View, in_channels

SHAPES = {"square": (256, 256), "wide": (181, 320), "tall": (320, 181), "small": (41, 52), "big": (401, 600)}
LEVELS, MEAN_LEVELS = 3.0, 0.6
"""Most levels of 255 by which a pixel and the mean pixel may differ: two passes round to whole levels."""
SPREAD, ROUGH = 0.03, 0.15
"""Most that the logits may differ, as a share of their spread over the images; a deep network that is random
enlarges the rounding of its pixels."""


@pytest.fixture(scope="module")
def pictures():
    """Photographs of all shapes; in the last one every pixel is drawn alone."""
    photograph = Image.fromarray(load_sample_images().images[0])
    shown = [
        photograph.resize((width, height), Image.Resampling.BICUBIC) for height, width in SHAPES.values()
    ]
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    return [*shown, Image.fromarray(noise)]


def to_pixels(picture: Image.Image) -> torch.Tensor:
    levels = np.array(picture)
    levels = levels[..., None] if levels.ndim == 2 else levels
    return torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255


def of_timm(folder, pictures):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    shown = torch.stack([transform(picture) for picture in pictures])
    with torch.no_grad():
        return shown, model(shown)


def of_transformers(folder, pictures):
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    shown = torch.cat([processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures])
    with torch.no_grad():
        return shown, model(pixel_values=shown.float()).logits


@torch.no_grad()
def compare(classifier, theirs, pictures) -> tuple[float, float, float]:
    """Returns the largest and the mean difference in levels, and the logits' as a share of their spread."""
    shown, logits = theirs
    prepared = torch.cat([classifier.prepare(to_pixels(picture)) for picture in pictures])
    assert prepared.shape[-2:] == shown.shape[-2:]
    apart = (classifier.normalize(prepared) - shown).abs() * classifier.std * 255
    assert torch.isfinite(logits).all() and logits.std(0).max() > 0, "the network must show its images"

    spread = (logits - logits.mean(0)).norm()
    ours = classifier(prepared)
    return float(apart.max()), float(apart.mean()), float((ours - logits).norm() / spread)


def check(name, classifier, theirs, pictures):
    most = ROUGH if "mobilevit" in name else SPREAD
    largest, mean, share = compare(classifier, theirs, pictures)
    print(f"{name}: {largest:.2f} levels, {mean:.3f} in the mean, logits {share:.4f} of their spread")
    # Pillow adds up the places of its nearest pixels, and torch multiplies: they part where two are as near.
    assert (largest <= LEVELS or name == "nearest") and mean <= MEAN_LEVELS and share <= most


@pytest.mark.parametrize("repository", TRANSFORMERS, ids=lambda one: one.name)
def test_transformers(repository: Repository, tmp_path, pictures):
    folder = repository.write(tmp_path / "model")
    classifier = load_classifier(str(folder))
    check(repository.name, classifier, of_transformers(folder, pictures), pictures)


@pytest.mark.parametrize("repository", TIMM, ids=lambda one: one.name)
def test_timm(repository: Repository, tmp_path, pictures):
    folder = repository.write(tmp_path / "model")
    classifier = load_classifier(str(folder))
    check(repository.name, classifier, of_timm(folder, pictures), pictures)


COPIED = [
    one
    for one in TRANSFORMERS
    if one.name
    in (
        "google/vit-base-patch16-224",
        "facebook/deit-base-distilled-patch16-224",
        "microsoft/resnet-18",
        "apple/mobilevit-small",
        "google/efficientnet-b0",
        "google/align-base, as a classifier",
        "facebook/levit-128S",
        "sail/poolformer_s12",
        "nvidia/mit-b0",
        "deepmind/vision-perceiver-conv",
        "a filter of Pillow",
        "a short and a long edge",
        "a crop alone",
    )
]
"""Each has another way to resize, to crop or to scale."""


@pytest.mark.parametrize("repository", COPIED, ids=lambda one: one.name)
def test_a_copy_of_transformers_answers_alike(repository: Repository, tmp_path, pictures):
    given = load_classifier(str(repository.write(tmp_path / "model")))
    check_savable(given, "not reached")
    save_folder(given, tmp_path / "copy")
    read = load_classifier(str(tmp_path / "copy"))
    assert (read.view, read.flip_channels) == (given.view, given.flip_channels)
    check(repository.name, given, of_transformers(tmp_path / "copy", pictures), pictures)


@pytest.mark.parametrize("repository", TIMM[::4], ids=lambda one: one.name)
def test_a_copy_of_timm_answers_alike(repository: Repository, tmp_path, pictures):
    given = load_classifier(str(repository.write(tmp_path / "model")))
    save_timm_folder(given, tmp_path / "copy")
    told = json.loads((tmp_path / "copy" / "config.json").read_text())["pretrained_cfg"]
    assert told["crop_pct"] == (repository.stated["crop_pct"] or 0.875)
    assert told["crop_mode"] == (repository.stated["crop_mode"] or "center")
    assert load_classifier(str(tmp_path / "copy")).view == given.view
    check(repository.name, given, of_timm(tmp_path / "copy", pictures), pictures)


@pytest.mark.parametrize("name", ["facebook/dinov2-small-imagenet1k-1-layer", "facebook/levit-128S"])
def test_a_student_sees_what_its_teacher_sees(name, tmp_path, pictures):
    """In timm's form: the same part of an image, in the student's own size."""
    teacher = load_classifier(str(by_name(name).write(tmp_path / "model")))
    student = create_student(
        "wrn_10_1", teacher.spec, (0.5,) * 3, (0.5,) * 3, seed=0, view=teacher.view
    ).eval()
    assert (student.view.edges, student.view.resize) == (teacher.view.edges, "shortest")
    save_timm_folder(student, tmp_path / "student")
    check(name, student, of_timm(tmp_path / "student", pictures), pictures)


def by_name(name: str) -> Repository:
    return next(one for one in (*TRANSFORMERS, *TIMM) if one.name == name)


# ------------------------------------------------------------------------------------------------ the caller


def test_what_the_caller_leaves_out_stays(tmp_path):
    folder = by_name("microsoft/resnet-18").write(tmp_path / "model")
    given = load_classifier(str(folder), mean=[0.1] * 3, std=[0.2] * 3, input_size=224)
    assert given.view == load_classifier(str(folder)).view and given.interpolation == "bicubic"

    smaller = load_classifier(str(folder), input_size=112).view
    assert (smaller.edges, smaller.size) == ((128, 128), (112, 112)), "the ratio of resize to crop stays"
    squashed = load_classifier(str(folder), crop_mode="squash").view
    assert (squashed.resize, squashed.edges) == ("exact", (256, 256)) and squashed.rounds == "down"
    whole = load_classifier(str(folder), crop_pct=1).view
    assert (whole.resize, whole.edges) == ("shortest", (224, 224))


def test_a_bare_file_states_no_crop(tmp_path):
    folder = by_name("box").write(tmp_path / "model")
    bare = {"architecture": "test_resnet", "mean": [0.5] * 3, "std": [0.5] * 3, "input_size": 96}
    file = str(folder / "model.safetensors")
    assert load_classifier(file, **bare).view.edges == (96, 96)
    assert load_classifier(file, **bare).view.crop_mode == "squash"
    cropped = load_classifier(file, **bare, crop_pct=0.75).view
    assert (cropped.resize, cropped.edges) == ("shortest", (128, 128))


def test_timms_default_is_said(tmp_path, caplog):
    folder = by_name("nothing stated about the crop").write(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        assert load_classifier(str(folder)).view.crop_pct == 0.875
    assert "no crop_pct, so timm's default of 0.875 is used; set crop_pct" in caplog.text

    caplog.clear()
    assert load_classifier(str(folder), crop_pct=1.0, crop_mode="border").view.resize == "contain"
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "changes", "pattern"),
    [
        ("a crop alone", {"image_processor_type": "ImageGPTImageProcessor"}, "ImageGPTImageProcessor"),
        ("a crop alone", {"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor"),
        ("a crop alone", {"image_processor_type": "Made_by_strangers"}, "Made_by_strangers"),
        ("a crop alone", {"do_pad": True}, "do_pad"),
        ("an older CLIP", {"use_square_size": True}, "use_square_size"),
        ("a crop alone", {"include_top": True}, "include_top"),
        ("a crop alone", {"do_flip_channel_order": True}, "do_flip_channel_order"),
        ("a crop alone", {"crop_size": {"shortest_edge": 9}}, "crop_size"),
        ("a crop alone", {"crop_size": 10**9}, "crop_size"),
        ("a crop alone", {"rescale_factor": -1}, "rescale_factor"),
        ("openai/clip-vit-base-patch16", {"do_center_crop": False}, "keeps the shape"),
        ("openai/clip-vit-base-patch16", {"size": {"longest_edge": 7}}, "size"),
        ("microsoft/resnet-18", {"size": {"height": 9, "width": 9}}, "shortest_edge"),
        ("microsoft/resnet-18", {"crop_pct": 1e-9}, "crop_pct"),
        ("microsoft/resnet-18", {"resample": 9}, "interpolation: 9"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_way_out(name, changes, pattern, tmp_path):
    folder = by_name(name).write(tmp_path / "model")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=pattern):
        load_classifier(str(folder))

    everything = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": 224, "interpolation": "bicubic"}
    made = load_classifier(str(folder), **everything, crop_pct=0.875, crop_mode="center")
    assert made.view.edges == (256, 256)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"crop_mode": "corner"}, "crop_mode: 'corner' is not offered"),
        ({"crop_pct": 1e-9}, "crop_pct: 1e-09 is no share"),
        ({"crop_pct": "many"}, "crop_pct: 'many' is no share"),
        ({"crop_border_pixels": 4}, "crop_border_pixels"),
        ({"interpolation": "random"}, "interpolation: 'random'"),
    ],
)
def test_odd_values_of_timm(changes, pattern, tmp_path):
    folder = by_name("box").write(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=pattern):
        load_classifier(str(folder))


def test_a_missing_mean_is_never_invented(tmp_path):
    folder = by_name("microsoft/resnet-18").write(tmp_path / "model")
    file = folder / "preprocessor_config.json"
    stated = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in stated.items() if key != "image_mean"}))
    with pytest.raises(InputError, match=r"mean: .* does not give it; pass mean"):
        load_classifier(str(folder))


# ------------------------------------------------------------------------------------------------ the pixels


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("sizes", [((37, 53), (20, 31)), ((20, 31), (45, 64)), ((33, 21), (33, 90))], ids=str)
def test_filters_are_those_of_pillow(interpolation, sizes):
    """Pillow keeps floats in mode F, so that nothing is rounded."""
    (height, width), (new_height, new_width) = sizes
    image = np.random.default_rng(1).random((height, width), dtype=np.float32) * 0.5 + 0.25
    kind = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(image).resize((new_width, new_height), kind))

    pixels = torch.from_numpy(image).double()[None, None].requires_grad_()
    found = resample(pixels, (new_height, new_width), interpolation)
    np.testing.assert_allclose(found.detach()[0, 0], expected.clip(0, 1), atol=2e-6)
    found.sum().backward()
    assert pixels.grad.abs().sum() > 0


@pytest.mark.parametrize("interpolation", INTERPOLATIONS[1:])
def test_rows_of_the_matrices_sum_to_one(interpolation):
    for old, new in ((7, 3), (3, 7), (224, 256), (900, 31)):
        matrix = resampling_matrix(old, new, interpolation)
        assert matrix.shape == (new, old) and matrix.dtype == torch.float64
        torch.testing.assert_close(matrix.sum(1), torch.ones(new, dtype=torch.float64))


def test_a_filter_that_overshoots_stays_in_range():
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    for interpolation in ("bicubic", "lanczos"):
        found = resample(edge, (19, 19), interpolation)
        assert found.min() == 0 and found.max() == 1


def test_gradients_pass_after_a_pass_without_them():
    pixels = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        resample(pixels, (5, 5), "lanczos")
    pixels.requires_grad_()
    resample(pixels, (5, 5), "lanczos").sum().backward()
    assert pixels.grad is not None


def test_pixels_of_the_inputs_size_go_in_unchanged_and_pictures_do_not(tmp_path):
    classifier = load_classifier(str(by_name("timm/resnet50.tv_in1k").write(tmp_path / "model")))
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(pixels, (256, 256), mode="bilinear", antialias=True)
    torch.testing.assert_close(classifier.prepare(pixels), whole[..., 16:240, 16:240])
    with torch.no_grad():
        torch.testing.assert_close(
            classifier(pixels), classifier.model((pixels - classifier.mean) / classifier.std)
        )

    with pytest.warns(DeprecationWarning, match="normalize"):
        assert torch.equal(classifier.normalise(pixels), classifier.normalize(pixels))  # codespell:ignore


def test_gray_and_color():
    levels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    color = Image.fromarray(levels)
    gray = in_channels(to_pixels(color), 1)
    assert (gray * 255 - to_pixels(color.convert("L")) * 255).abs().max() <= 0.51
    assert torch.equal(in_channels(gray, 3), gray.repeat(1, 3, 1, 1))


def test_strips_do_not_take_all_memory():
    view = View(size=(256, 256), resize="shortest", edges=(256, 256), cropped=True)
    with pytest.raises(InputError, match="1x90000 would be resized to 256x"):
        view(torch.zeros(1, 3, 1, 90_000))
