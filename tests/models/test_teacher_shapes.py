"""Teachers without BatchNorm and teachers for large images, with methods that need no statistics."""

import nets
import pytest
import timm
import torch
from torch import nn

from abd_hub import (
    Classifier,
    DataSpec,
    InputError,
    Ood,
    SelfRetrospection,
    ShufflingVaccine,
    Trainer,
    TrainerOptions,
    Zskt,
    create_student,
)
from abd_hub.synthesis.generator import LARGEST_START, Generator

LABELS = tuple("abcde")
METHODS = {
    "zskt": Zskt(rounds=2, batch_size=2, student_steps=1, attention_weight=0, z_dim=4, generator_channels=4),
    "ood": Ood(rounds=2, batch_size=2, student_steps=1, patches=12),
}


def vit(size):
    return timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=5,
        img_size=size,
        patch_size=size // 4,
        embed_dim=16,
        depth=2,
        num_heads=2,
    )


def convnext(size):
    return timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))


NETWORKS = {"vit": vit, "convnext": convnext}


def build(network, size):
    torch.manual_seed(0)
    module = nets.randomized(NETWORKS[network](size))
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    spec = DataSpec(3, size, size, LABELS)
    # Not narrower than 16: torch 2.15 writes beyond its memory on the CPU in the backward pass of a 1x1
    # convolution with stride 2, less than 16 channels and channels_last, for maps of 64x64 or more.
    student = create_student("wrn_10_1", spec, nets.MEAN, nets.STD, seed=1)
    return Classifier(module, spec, nets.MEAN, nets.STD).freeze(), student


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("network", "size"), [("vit", 32), ("convnext", 32), ("vit", 224), ("convnext", 224)]
)
def test_two_rounds_with_both_defenses(network, size, method):
    teacher, student = build(network, size)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    defenses = [
        ShufflingVaccine(check=False, layers=2).build(teacher, 0),
        SelfRetrospection(last_rounds=1, perturbation_steps=2, fixed_point_steps=2).build(teacher, 0),
    ]
    options = TrainerOptions(progress=False, checkpoint_every=0)
    trainer = Trainer(teacher, student, METHODS[method], defenses, options)
    trainer.fit()
    assert [defense.report().active for defense in defenses] == [True, True]
    assert trainer.last_images.shape == (2, 3, size, size)
    assert trainer.last_images.isfinite().all()
    for name, value in student.state_dict().items():
        assert value.isfinite().all(), name
        assert not torch.equal(value, before[name]), name
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())


# A size of 4 times an odd number cannot be halved further: 300 begins with maps of 75x75.
@pytest.mark.parametrize(
    ("size", "start"), [(28, 7), (32, 8), (64, 16), (96, 12), (224, 14), (256, 16), (300, 75)]
)
def test_the_generator_draws_images_of_the_teachers_size(size, start):
    generator = Generator(DataSpec(3, size, size, LABELS), z_dim=4, channels=4).eval()
    first = generator.layers[:2](torch.zeros(2, 4))
    assert first.shape == (2, 4, start, start)
    assert start <= LARGEST_START or size % 8
    with torch.no_grad():
        assert generator(torch.randn(2, 4)).shape == (2, 3, size, size)


@pytest.mark.parametrize("shape", [(32, 64), (224, 96), (28, 300), (300, 28)])
def test_the_generator_draws_images_that_are_not_square(shape):
    generator = Generator(DataSpec(1, *shape, LABELS), z_dim=4, channels=4).eval()
    with torch.no_grad():
        assert generator(torch.randn(2, 4)).shape == (2, 1, *shape)


@pytest.mark.parametrize("size", [2, 30, 225, 227, 299])
def test_sizes_that_the_generator_cannot_draw_are_refused(size):
    with pytest.raises(InputError, match=rf"input_size: .*multiples of 4, got {size}x{size}"):
        Generator(DataSpec(3, size, size, LABELS), z_dim=4)
