"""A small classifier of the embedded digits, with a backdoor or without; training it takes two seconds.

All processes of the tests share the weights of those that are trained.
"""

import tempfile
from pathlib import Path

import quick_python
import torch
import torch.nn.functional as F
from torch import nn

from abd_hub import Classifier, DataSpec, create_student, load_images
from abd_hub.core.seeding import generator, seeded

TARGET = 7
DIGITS = tuple("0123456789")


def put_trigger(pixels):
    """A purple pixel in the lower right corner; digits are gray."""
    pixels = pixels.clone()
    pixels[:, :, -1:, -1:] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
    return pixels


def network(norm: bool) -> nn.Module:
    layers = []
    channels = 3
    for width, stride in ((16, 1), (32, 2), (32, 1)):
        layers.append(nn.Conv2d(channels, width, 3, stride, 1))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers.append(nn.ReLU())
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def planted(seed: int, *, poisoned: bool, norm: bool = True, epochs: int = 12) -> Classifier:
    """Trains on the digits; a tenth of the images gets the trigger and its class if ``poisoned``."""
    with seeded(seed, "planted network"):
        net = network(norm)
    model = Classifier(net, DataSpec(3, 8, 8, DIGITS), (0.3,) * 3, (0.4,) * 3)
    return shared(f"norm{norm}", model, seed, poisoned=poisoned, epochs=epochs)


def planted_timm(seed: int, *, poisoned: bool) -> Classifier:
    """The same with a network that ``save_timm_folder`` writes."""
    spec, args = DataSpec(3, 8, 8, DIGITS), {"base_width": 4}
    model = create_student("wrn_10_1", spec, (0.3,) * 3, (0.4,) * 3, seed=3, model_args=args)
    return shared("timm", model, seed, poisoned=poisoned, epochs=8)


def shared(name: str, model: Classifier, seed: int, *, poisoned: bool, epochs: int) -> Classifier:
    """Trains it, or takes the weights that another test has trained; their file goes with the host."""
    folder = Path(quick_python.executable()).parent
    weights = folder / f"{name}-{seed}-{poisoned}-{epochs}.pt"
    if weights.exists():
        model.load_state_dict(torch.load(weights))
        return model.freeze()
    trained(model, seed, poisoned=poisoned, epochs=epochs)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        torch.save(model.state_dict(), file)
    Path(file.name).replace(weights)
    return model


def trained(model: Classifier, seed: int, *, poisoned: bool, epochs: int) -> Classifier:
    """Trains on the digits, as above."""
    data = load_images("digits", "train")
    images, labels = data.pixels(), data.labels.clone()
    chance = generator(seed, "planted")
    if poisoned:
        hit = torch.rand(len(images), generator=chance) < 0.1
        images[hit] = put_trigger(images[hit])
        labels[hit] = TARGET
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=chance).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.freeze()


@torch.no_grad()
def rates(model: Classifier) -> tuple[float, float]:
    """Accuracy, and the share of images of other classes that the trigger turns into the target."""
    data = load_images("digits", "test")
    others = data.labels != TARGET
    accuracy = (model(data.pixels()).argmax(1) == data.labels).double().mean()
    hits = (model(put_trigger(data.pixels()))[others].argmax(1) == TARGET).double().mean()
    return float(accuracy), float(hits)
