"""Grad-CAM against its two equations, written out in float64, and what has no feature map."""

import pytest
import timm
import torch
from nets import PlainNet, pixels, plain, randomized, wrn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from abd_hub import GradCam, InputError


def textbook(features, head, classes):
    """Equations 1 and 2, place by place; ``head`` takes one feature map (1, K, h, w) to its logits."""
    maps = []
    for image, wanted in zip(features, classes.tolist(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda a: head(a[None])[0], image)
        channels, height, width = image.shape
        weights = [
            sum(jacobian[wanted, k, i, j].item() for i in range(height) for j in range(width))
            / (height * width)
            for k in range(channels)
        ]
        maps.append(
            [
                [
                    max(0.0, sum(weights[k] * image[k, i, j].item() for k in range(channels)))
                    for j in range(width)
                ]
                for i in range(height)
            ]
        )
    return torch.tensor(maps, dtype=torch.float64)


class Logits(torch.nn.Module):
    """A transformers model as its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def wide():
    classifier = wrn(dtype=torch.float64)
    randomized(classifier.model)
    model = classifier.model
    return classifier, model.forward_features, model.forward_head


def pooled():
    model = randomized(PlainNet()).double()
    return plain(model), model.layers[:-1], lambda a: model.head(a.flatten(1))


class InPlace(torch.nn.Module):
    """An activation writes into what the last module gave."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3)
        self.norm = torch.nn.BatchNorm2d(6)
        self.head = torch.nn.Linear(6, 5)

    def features(self, x):
        return torch.relu_(self.norm(self.conv(x)))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def in_place():
    model = randomized(InPlace()).double()
    return plain(model), model.features, lambda a: model.head(a.mean((2, 3)))


def of_transformers():
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=5)
    model = randomized(ResNetForImageClassification(config)).double()
    return (
        plain(Logits(model)),
        lambda x: model.resnet(x).last_hidden_state,
        lambda a: model.classifier(model.resnet.pooler(a)),
    )


@pytest.mark.parametrize("net", [wide, pooled, in_place, of_transformers])
@pytest.mark.parametrize("given", [True, False])
def test_maps_are_those_of_the_equations(net, given):
    classifier, features, head = net()
    classifier.eval()
    images = pixels(3)
    normalized = classifier.normalize(images)
    logits = classifier(images).detach()
    classes = torch.tensor([4, 0, 2]) if given else logits.argmax(1)
    found = GradCam(classifier)(images, classes if given else None)
    wanted = textbook(features(normalized).detach(), head, classes)
    assert wanted.max() > 0 and wanted.shape[1] > 1
    torch.testing.assert_close(found.maps, wanted)
    torch.testing.assert_close(found.logits, logits)
    assert torch.equal(found.classes, classes)


class Tokens(torch.nn.Module):
    """Places in a row, as in a transformer."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 2, stride=2)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.patches(x).flatten(2).mT).mean(1))


def vit():
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    config.image_size, config.patch_size, config.num_labels = 8, 4, 5
    return Logits(ViTForImageClassification(config))


def swin():
    sizes = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=8, patch_size=1, window_size=4, num_classes=5, **sizes
    )


def perceptron():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))


@pytest.mark.parametrize("net", [Tokens, vit, swin, perceptron])
def test_what_has_no_feature_map_says_so(net):
    classifier = plain(net()).eval()
    assert classifier(pixels(1)).shape == (1, 5)
    with pytest.raises(InputError, match="has no last feature map"):
        GradCam(classifier)


def test_training_mode_and_wrong_classes_are_refused():
    with pytest.raises(InputError, match="training mode"):
        GradCam(plain(PlainNet()).train())
    look = GradCam(plain(PlainNet()).eval())
    for classes in (torch.tensor([5]), torch.tensor([0, 1]), torch.tensor([0.0]), torch.tensor([-1])):
        with pytest.raises(InputError, match="whole numbers from 0 to 4"):
            look(pixels(1), classes)


def test_nothing_is_left_behind():
    classifier = plain(PlainNet()).eval()
    before = classifier(pixels(2))
    with torch.inference_mode():
        GradCam(classifier)(pixels(2))
    assert torch.equal(classifier(pixels(2)), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())
    assert all(weight.grad is None for weight in classifier.parameters())
