"""Plain distillation on real images: which of them a run sees, and when."""

from types import SimpleNamespace

import nets
import pytest
import torch

from abd_hub import InputError, Real
from abd_hub.core.contracts import ImageSource

ACCELERATOR = SimpleNamespace(device=torch.device("cpu"))
PLAIN = {"crop_padding": 0, "flip": False}


def numbered(n):
    """Image i is filled with i."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 8, 8).contiguous()


def build(n, seed=0, **settings):
    return Real(**{**PLAIN, **settings}).build(None, ACCELERATOR, seed, numbered(n))


def numbers(pixels):
    return (pixels[:, 0, 0, 0] * 255).round().int().tolist()


def sequence(sampler, rounds):
    """The images in the order in which a run sees them."""
    seen = []
    for index in range(rounds):
        sampler.begin_round(index)
        for step in range(sampler.method.student_steps):
            seen += numbers(sampler.sample(step))
    return seen


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (10, 4), (7, 3), (3, 8)])
def test_each_epoch_shows_every_image_once(n, batch_size):
    """Batches cross the border between epochs, and may be larger than an epoch."""
    seen = sequence(build(n, share=1.0, batch_size=batch_size, student_steps=2), 10)
    assert len(seen) == 20 * batch_size
    epochs = [seen[start : start + n] for start in range(0, len(seen) - n + 1, n)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert any(epoch != epochs[0] for epoch in epochs)


@pytest.mark.parametrize(
    ("n", "share", "size"), [(100, 0.2, 20), (10, 1.0, 10), (10, 0.26, 3), (10, 0.01, 1)]
)
def test_share_has_the_right_size(n, share, size):
    kept = build(n, share=share).images
    assert kept.shape == (size, 3, 8, 8)
    assert kept.dtype == torch.uint8
    assert len({int(image[0, 0, 0]) for image in kept}) == size


def test_share_is_drawn_with_the_seed():
    one, same, other = (build(200, seed, share=0.1).images for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_only_the_kept_images_are_seen():
    sampler = build(50, share=0.2, batch_size=4, student_steps=3)
    assert set(sequence(sampler, 4)) == {int(image[0, 0, 0]) for image in sampler.images}


def test_order_follows_from_the_seed():
    settings = {"share": 1.0, "batch_size": 5, "student_steps": 2}
    one, same, other = (sequence(build(30, seed, **settings), 3) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_a_batch_depends_only_on_round_and_step():
    settings = {"share": 1.0, "batch_size": 4, "student_steps": 3, "crop_padding": 2, "flip": True}
    method = Real(**settings)
    images = (nets.pixels(10) * 255).to(torch.uint8)
    one, other = (method.build(None, ACCELERATOR, 3, images) for _ in range(2))
    in_order = {}
    for index in range(4):
        one.begin_round(index)
        for step in range(3):
            in_order[index, step] = one.sample(step)
    for index, step in [(3, 2), (0, 1), (3, 2), (2, 0)]:
        other.begin_round(index)
        assert torch.equal(other.sample(step), in_order[index, step])
    assert not other.state_dict()


def test_pixels_are_the_images_as_fractions():
    images = (nets.pixels(6) * 255).to(torch.uint8)
    sampler = Real(share=1.0, batch_size=6, **PLAIN).build(None, ACCELERATOR, 0, images)
    sampler.begin_round(0)
    found = sampler.sample(0)
    assert found.dtype == torch.float32
    expected = {(image.float() / 255).numpy().tobytes() for image in images}
    assert {image.numpy().tobytes() for image in found} == expected


def test_augmentation_differs_from_step_to_step():
    sampler = build(1, share=1.0, batch_size=32, crop_padding=4)
    sampler.images[:] = 255
    sampler.begin_round(0)
    first, second = sampler.sample(0), sampler.sample(1)
    assert not torch.equal(first, second)
    assert (first != first[:1]).any()


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(InputError, match=r"real\.share"):
        Real(share=share)


def test_a_negative_padding_is_refused():
    with pytest.raises(InputError, match=r"real\.crop_padding"):
        Real(crop_padding=-1)


@pytest.mark.parametrize("name", ["rounds", "batch_size", "student_steps", "learning_rate", "temperature"])
def test_values_that_must_be_positive(name):
    with pytest.raises(InputError, match=rf"^real\.{name}: must be (positive|at least 1), got 0$"):
        Real(**{name: 0})


def test_it_asks_for_a_data_set_and_for_images():
    assert Real(dataset="digits", split="test").image_source() == ImageSource("digits", "test")
    with pytest.raises(InputError, match=r"real\.dataset"):
        Real().image_source()
    with pytest.raises(InputError, match=r"real\.dataset"):
        Real(dataset="digits").build(None, ACCELERATOR, 0)
