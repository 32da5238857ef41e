"""Student steps of the trainer against losses and optimizers written out, in float64."""

import copy
import math

import nets
import pytest
import torch

from abd_hub import Real, ShufflingVaccine, Trainer, TrainerOptions
from abd_hub.core import seeding
from abd_hub.training.requirements import hint_pairs

QUIET = TrainerOptions(progress=False, checkpoint_every=0)
N, STEPS = 6, 3
PLAIN = {"rounds": 1, "student_steps": STEPS, "batch_size": N, "share": 1.0, "crop_padding": 0, "flip": False}
RATE = 0.02
LOSSES = {
    "kl": {},
    "hot": {"temperature": 0.5},
    "squared": {"temperature": 4.0, "temperature_squared": True},
    "l1": {"loss": "l1"},
    "cross entropy": {"cross_entropy_weight": 0.7},
    "attention": {"attention_weight": 50.0},
    "hints": {"hint_weight": 0.6},
    "all": {
        "temperature": 3.0,
        "temperature_squared": True,
        "cross_entropy_weight": 0.3,
        "attention_weight": 9.0,
        "hint_weight": 0.2,
    },
}


def probabilities(row, temperature=1.0):
    powers = [(value / temperature).exp() for value in row]
    return [power / sum(powers) for power in powers]


def divergence(t, s, method):
    """Of one image, from its two rows of logits."""
    if method.loss == "l1":
        return sum((a - b).abs() for a, b in zip(t, s, strict=True)) / len(t)
    temperature = method.temperature
    pairs = zip(probabilities(t, temperature), probabilities(s, temperature), strict=True)
    found = sum(p * (p.log() - q.log()) for p, q in pairs)
    return temperature**2 * found if method.temperature_squared else found


def attention(feature):
    """Of one image's (C, H, W): where it is active, of unit length."""
    energy = sum(channel**2 for channel in feature).flatten() / len(feature)
    return energy / (energy**2).sum().sqrt()


def deviation(numbers):
    """The standard deviation, a number without a gradient."""
    fixed = numbers.detach()
    return ((fixed - fixed.mean()) ** 2).mean().sqrt()


def textbook_losses(teacher, student, pixels, method, maps=()):
    """One loss an image; ``maps`` has weight and bias of a linear map for each block."""
    with torch.no_grad():
        t, t_blocks = teacher.forward_with_blocks(pixels)
    s, s_blocks = student.forward_with_blocks(pixels)
    losses = []
    for n in range(len(pixels)):
        loss = divergence(t[n], s[n], method)
        loss = loss - method.cross_entropy_weight * probabilities(s[n])[int(t[n].argmax())].log()
        for a, b in zip(t_blocks, s_blocks, strict=True):
            gap = attention(a[n]) - attention(b[n])
            loss = loss + method.attention_weight * (gap**2).sum() / gap.numel()
        for a, b, (weight, bias) in zip(t_blocks, s_blocks, maps, strict=False):
            own, wanted = b[n] / deviation(b), a[n] / deviation(a)
            predicted = torch.einsum("oi,ihw->ohw", weight[:, :, 0, 0], own) + bias[:, None, None]
            loss = loss + method.hint_weight * ((predicted - wanted) ** 2).mean()
        losses.append(loss)
    return losses


class Sgd:
    """v <- momentum v + gradient + decay w; w <- w - rate v."""

    def __init__(self, weights, method):
        self.weights, self.method = weights, method
        self.v = [torch.zeros_like(weight) for weight in weights]

    def step(self, gradients):
        for weight, v, gradient in zip(self.weights, self.v, gradients, strict=True):
            v.mul_(self.method.momentum).add_(gradient + self.method.weight_decay * weight.detach())
            weight.data -= RATE * v


class Adam:
    """Kingma & Ba, ICLR 2015, algorithm 1, on gradient + decay w."""

    def __init__(self, weights, method):
        self.weights, self.method = weights, method
        self.m = [torch.zeros_like(weight) for weight in weights]
        self.v = [torch.zeros_like(weight) for weight in weights]
        self.t = 0

    def step(self, gradients):
        self.t += 1
        for weight, m, v, gradient in zip(self.weights, self.m, self.v, gradients, strict=True):
            g = gradient + self.method.weight_decay * weight.detach()
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g**2)
            fitted = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            weight.data -= RATE * fitted[0] / (fitted[1].sqrt() + 1e-8)


def run(defenses=(), **settings):
    """A trained student, a twin from its start that is not, the teacher, the method and the pixels seen.

    The twin has the first weights of the hints in ``maps``, as parameters that are no part of its weights.
    """
    teacher = nets.randomized(nets.wrn(base_width=4)).double().freeze()
    images = (nets.pixels(N * STEPS) * 255).to(torch.uint8)
    method = Real(**PLAIN, learning_rate=RATE, **settings)
    student = nets.wrn(seed=1, dtype=torch.float64, base_width=4)
    at_work = [defense.build(teacher, 0) for defense in defenses]
    trainer = Trainer(teacher, student, method, at_work, QUIET, images=images)
    twin = copy.deepcopy(student).train()
    hints = copy.deepcopy(trainer.hints)
    object.__setattr__(twin, "maps", [] if hints is None else [(m.weight, m.bias) for m in hints.maps])
    trainer.fit()
    order = torch.randperm(N * STEPS, generator=seeding.generator(0, "real", "epoch", 0))
    # divided in float32, as the trainer sees them
    seen = (images.float() / 255)[order].double().split(N)
    return student, twin, teacher, method, seen


def textbook_run(twin, teacher, method, batches, combine):
    weights = [*twin.parameters(), *(weight for pair in twin.maps for weight in pair)]
    optimizer = (Sgd if method.optimizer == "sgd" else Adam)(weights, method)
    for pixels in batches:
        loss = combine(textbook_losses(teacher, twin, pixels, method, twin.maps), pixels)
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        scale = min(1.0, method.clip_norm / (norm + 1e-6)) if method.clip_norm else 1.0
        optimizer.step([scale * gradient for gradient in gradients])


def assert_same(student, twin, rtol=1e-9, atol=1e-11):
    for name, tensor in twin.state_dict().items():
        found = student.state_dict()[name]
        torch.testing.assert_close(found, tensor, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def mean(losses, _):
    return sum(losses) / len(losses)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_definitions(name):
    student, twin, teacher, method, batches = run(
        **LOSSES[name], optimizer="sgd", momentum=0.0, clip_norm=0.0
    )
    textbook_run(twin, teacher, method, batches, mean)
    assert_same(student, twin)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.03, "clip_norm": 0.0},
        {"optimizer": "adam", "weight_decay": 0.03, "clip_norm": 0.5},
    ],
    ids=["sgd", "sgd with decay", "adam with decay"],
)
def test_optimizers_are_their_definitions(settings):
    student, twin, teacher, method, batches = run(**settings)
    textbook_run(twin, teacher, method, batches, mean)
    assert_same(student, twin)


@pytest.mark.parametrize("name", ["kl", "all"])
def test_suspicious_images_are_moved_away_from(name):
    """Mean loss of the others minus the coefficient times that of images on which shuffled copies agree."""
    vaccine = ShufflingVaccine(check=False, layers=2, copies=3, coefficient=0.4)
    settings = {"optimizer": "sgd", "clip_norm": 0.0}
    student, twin, teacher, method, batches = run([vaccine], **LOSSES[name], **settings)
    at_work = vaccine.build(teacher, 0)
    copies = []
    permutations = at_work.shuffled.permutations(0, 0)
    for k in range(3):
        copies.append(copy.deepcopy(teacher))
        for layer, permutation in zip(at_work.shuffled.layers, permutations, strict=True):
            twisted = copies[k].get_submodule(layer.name)
            twisted.weight.data = twisted.weight.data[:, permutation[k]]
    parts = []

    def combine(losses, pixels):
        with torch.no_grad():
            shuffled = sum(model(pixels) for model in copies) / 3
            agrees = shuffled.argmax(1) == teacher(pixels).argmax(1)
        kept = [loss for loss, suspicious in zip(losses, agrees, strict=True) if not suspicious]
        against = [loss for loss, suspicious in zip(losses, agrees, strict=True) if suspicious]
        parts.append((len(kept), len(against)))
        return sum(kept) / max(1, len(kept)) - 0.4 * sum(against) / max(1, len(against))

    textbook_run(twin, teacher, method, batches, combine)
    assert any(kept and against for kept, against in parts), parts
    assert_same(student, twin, rtol=1e-5, atol=1e-8)  # the vaccine's weights are float32


def test_hints_pair_blocks_of_one_size():
    """A ResNet has a fourth stage that the student lacks, and tokens have no height."""
    student = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    resnet = [(64, 32, 32), (9, 16, 16), (9, 8, 8), (9, 4, 4)]
    assert hint_pairs(student, resnet) == [(0, 0), (1, 1), (2, 2)]
    assert hint_pairs(student, [(9, 16, 16), (8, 16, 16), (65, 192)]) == [(1, 1)]
    assert hint_pairs(student, [(65, 192)]) == []
