"""Small networks for the tests."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from abd_hub import Classifier, DataSpec, create_student
from abd_hub.core.seeding import seeded

SPEC = DataSpec(3, 8, 8, tuple("abcde"))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class PlainNet(nn.Module):
    """Convolutions without a skip connection."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        layers = []
        channels = 3
        for width in (4, 6, 6, 8):
            layers += [nn.Conv2d(channels, width, 3, padding=1)]
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers += [nn.Tanh()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.layers(x))


class DepthwiseNet(nn.Module):
    """Depthwise and grouped convolutions, an identity shortcut around two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.grouped(torch.relu(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


class FewNorms(nn.Module):
    """Two BatchNorm layers, the maps of ``wrn`` in its blocks, dropout before the classifier.

    Two processes meet for each BatchNorm of a pass, which takes most of their time.
    """

    def __init__(self, width: int = 4, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.group1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.group2 = nn.Conv2d(width, 2 * width, 3, 2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.group3 = nn.Conv2d(2 * width, 4 * width, 3, 2, padding=1, bias=False)
        self.fc = nn.Linear(4 * width, 5)

    def forward(self, x):
        x = torch.relu(self.norm1(self.group1(x)))
        x = torch.relu(self.norm2(self.group2(x)))
        x = torch.relu(self.group3(x)).mean((2, 3))
        return self.fc(F.dropout(x, self.drop_rate, self.training))


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and running statistics far from their starting values."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=draw)
            tensor.copy_(noise + 0.5 if tensor.ndim == 1 else (noise - 0.5))
    return module


def plain(module: nn.Module, dtype: torch.dtype = torch.float64) -> Classifier:
    return Classifier(module, SPEC, MEAN, STD).to(dtype)


def wrn(
    name: str = "wrn_10_1", seed: int = 0, dtype: torch.dtype = torch.float32, **model_args
) -> Classifier:
    return create_student(name, SPEC, MEAN, STD, seed=seed, model_args=model_args).to(dtype)


def few_norms(seed: int = 0, dtype: torch.dtype = torch.float32, **model_args) -> Classifier:
    """A student whose pass takes less time than that of ``wrn``, most of all on two processes."""
    with seeded(seed, "few norms"):
        model = FewNorms(**model_args)
    return Classifier(model, SPEC, MEAN, STD, blocks=("group1", "group2", "group3")).to(dtype)


def pixels(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def learned_weights(generator: nn.Module) -> dict[str, torch.Tensor]:
    """All weights but the biases before a BatchNorm: without effect, they get rounding noise for a gradient,
    and Adam makes steps of it."""
    layers = list(generator.layers)
    idle = {
        f"layers.{place}.bias"
        for place, (layer, following) in enumerate(itertools.pairwise(layers))
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d)
    }
    assert len(idle) in (2, 3), "3 where the generator ends with a BatchNorm on its last convolution"
    return {name: weight for name, weight in generator.named_parameters() if name not in idle}
