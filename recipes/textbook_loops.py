"""The published distillation loops, for comparison with abd-hub: eager, float32, contiguous.

They are written from the papers and from their code as far as it is known. Every network, batch, number of
steps, schedule and random draw is an argument, so that both sides can have the same ones. CMI is in
``textbook_cmi.py``, Fast in ``textbook_fast.py``, and the bank of both in ``textbook_bank.py``. DFQ and OOD
have files of their own. The loops are slower than abd-hub because they do more work:

ZSKT (Micaelli & Storkey, NeurIPS 2019):
- Every student step makes the images again, although the generator has not changed. Its backward pass goes
  on through the generator, whose gradient nobody uses.
- Every student step computes the teacher's answers to the same images again.
- The generator's step computes the gradients of all weights of teacher and student too.

Shuffling Vaccine (Hong et al., ICML 2023):
- Every shuffled copy is a whole teacher with a whole pass of its own, and its weights get gradients.

Self-Retrospection (same paper; the search for the perturbation uses the teacher, as in the paper's runs):
- Every student step searches for the perturbation again, although images and teacher are the same.
- Each step of the search computes the clean answers of the teacher again. It also computes the gradients of
  all its weights, in the clean pass and in the perturbed one.
- Outer and inner loss compute the clean answers of the student again. The outer loss goes backward twice,
  once for the perturbation and once for the weights. The fixed point begins with a product with the zero
  vector.

CMI (Fang et al., IJCAI 2021) and Fast (Fang et al., AAAI 2022):
- Images are PNG files that a DataLoader decodes one by one, and its workers start anew every round.
- Every step reads a number from the device. The embeddings of CMI lie on the host.
- Teacher and student get gradients of all their weights during synthesis.

DFQ (Choi et al., CVPRW 2020):
- The generator's step computes the gradients of all weights of teacher and student too.

OOD (Asano & Saeed, ICLR 2023):
- Patches are files that a DataLoader decodes one by one.

Three faults of the published code are absent here, since both sides would differ; none of them costs time.
The perturbation starts from small noise and not from zero, where its gradient is rounding noise. Perturbed
passes leave the running statistics of the student alone. Levels in PNG files are rounded and not cut off.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abd_hub import Classifier, SelfRetrospection, ShufflingVaccine, Zskt

Draw = Callable[[int], Tensor]


def textbook_generator(z_dim: int, channels: int, size: int, last: nn.Module) -> nn.Sequential:
    """Returns ZSKT's network for square images, with its layers in the order of abd-hub's generator."""

    def doubled(wanted: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, wanted, 3, padding=1)
        return [nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(wanted), nn.LeakyReLU(0.2)]

    start = size // 4
    first = [
        nn.Linear(z_dim, channels * start**2),
        nn.Unflatten(1, (channels, start, start)),
        nn.BatchNorm2d(channels),
    ]
    middle = [*doubled(channels), *doubled(channels // 2)]
    return nn.Sequential(*first, *middle, nn.Conv2d(channels // 2, 3, 3, padding=1), last)


def shuffled_copies(teacher: Classifier, permutations: Mapping[str, Tensor]) -> list[Classifier]:
    """Returns whole copies of the teacher; ``permutations`` has (K, input channels) for each layer's name."""
    copies = []
    for k in range(len(next(iter(permutations.values())))):
        model = copy.deepcopy(teacher)
        for name, permutation in permutations.items():
            weight = model.get_submodule(name).weight
            weight.data = weight.data[:, permutation[k].to(weight.device)].contiguous()
        copies.append(model)
    return copies


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the divergence of the student's answers from the teacher's, in the mean over images."""
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


class TextbookZskt:
    """Runs ZSKT, with shuffled copies and retrospection as far as the caller passes them.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: pixels to logits; it learns in place.
        generator: (N, z_dim) to images in the teacher's normalized space.
        method: sizes, rates and schedule.
        noise: returns the noise (N, z_dim) of a round by its index.
        vaccine: settings; its coefficient weighs the penalty.
        copies: shuffled teachers.
        retrospection: settings; it works in the last rounds.
        start: returns standard normal noise (1, C, H, W) for the perturbation, by the number of student steps
            with retrospection so far.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        generator: nn.Module,
        method: Zskt,
        noise: Draw,
        *,
        vaccine: ShufflingVaccine | None = None,
        copies: Sequence[nn.Module] = (),
        retrospection: SelfRetrospection | None = None,
        start: Draw | None = None,
    ) -> None:
        self.teacher, self.student, self.generator = teacher, student, generator
        self.method, self.noise, self.start = method, noise, start
        self.vaccine, self.copies, self.retrospection = vaccine, copies, retrospection
        for model in (teacher, *copies):
            model.requires_grad_(True).eval()
        student.train()
        self.g_adam = torch.optim.Adam(generator.parameters(), lr=method.generator_learning_rate)
        self.s_adam = torch.optim.Adam(student.parameters(), lr=method.learning_rate)
        self.retrospective_steps = 0

    def round(self, index: int) -> None:
        active = self.begin(index)
        z = self.noise(index)
        self.generator_step(z)
        first = self.retrospective_steps
        for _ in range(self.method.student_steps):
            self.student_step(z, active, first)

    def begin(self, index: int) -> bool:
        """Sets the rates of the round and returns whether retrospection works in it."""
        method, settings = self.method, self.retrospection
        annealed = 0.5 * (1 + math.cos(math.pi * index / method.rounds))
        self.g_adam.param_groups[0]["lr"] = method.generator_learning_rate * annealed
        late = settings is not None and index >= method.rounds - settings.last_rounds
        if late and not self.retrospective_steps:
            self.s_adam = torch.optim.Adam(self.student.parameters(), lr=settings.learning_rate)
        if not late:
            self.s_adam.param_groups[0]["lr"] = method.learning_rate * annealed
        return late

    def images(self, z: Tensor) -> Tensor:
        return self.generator(z) * self.teacher.std + self.teacher.mean

    def generator_step(self, z: Tensor) -> None:
        x = self.images(z)
        t, s = self.teacher(x), self.student(x)
        loss = -kl(t, s)
        if self.copies:
            loss = loss + self.penalty(x, t)
        self.g_adam.zero_grad()
        loss.backward()
        if self.method.clip_norm:
            nn.utils.clip_grad_norm_(self.generator.parameters(), self.method.clip_norm)
        self.g_adam.step()

    def penalty(self, x: Tensor, t: Tensor) -> Tensor:
        shuffled = torch.stack([model(x) for model in self.copies]).mean(0)
        suspicious = shuffled.argmax(1) == t.argmax(1)
        divergence = F.kl_div(shuffled.log_softmax(1), t.softmax(1), reduction="none").mean(1)
        masked = (divergence * suspicious).sum() / suspicious.sum().clamp(min=1)
        return -self.vaccine.coefficient * masked

    def student_step(self, z: Tensor, active: bool, first: int) -> None:
        x = self.images(z)
        more = []
        if active:
            # Against the teacher all steps of a round find the same: they have one batch and one start.
            place = first if self.retrospection.source == "teacher" else self.retrospective_steps
            with running_statistics_kept(self.student):
                more = self.hypergradient(x.detach(), self.start(place))
            self.retrospective_steps += 1
        with torch.no_grad():
            t, t_blocks = self.teacher.forward_with_blocks(x)
        s, s_blocks = self.student.forward_with_blocks(x)
        loss = kl(t, s) + self.method.attention_weight * attention_transfer(s_blocks, t_blocks)
        self.s_adam.zero_grad()
        loss.backward()
        for weight, gradient in zip(self.student.parameters(), more, strict=bool(more)):
            weight.grad += gradient
        if self.method.clip_norm:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.method.clip_norm)
        self.s_adam.step()

    def hypergradient(self, x: Tensor, noise: Tensor) -> list[Tensor]:
        settings, weights = self.retrospection, list(self.student.parameters())
        delta = self.perturbation(x, noise)
        outer = self.outer_loss(x, delta)
        (by_delta,) = torch.autograd.grad(outer, [delta], retain_graph=True)
        direct = torch.autograd.grad(outer, weights)
        (slope,) = torch.autograd.grad(self.inner_loss(self.student, x, delta), [delta], create_graph=True)
        mapped = delta - settings.inner_learning_rate * slope
        v = torch.zeros_like(delta)
        for _ in range(settings.fixed_point_steps):
            (product,) = torch.autograd.grad(mapped, [delta], grad_outputs=v, retain_graph=True)
            v = product + by_delta
        indirect = torch.autograd.grad(mapped, weights, grad_outputs=v, allow_unused=True)
        return [d if i is None else d + i for d, i in zip(direct, indirect, strict=True)]

    def perturbation(self, x: Tensor, noise: Tensor) -> Tensor:
        settings = self.retrospection
        model = self.teacher if settings.source == "teacher" else self.student
        delta = (noise * settings.perturbation_start).requires_grad_()
        adam = torch.optim.Adam([delta], lr=settings.perturbation_learning_rate)
        for _ in range(settings.perturbation_steps):
            loss = self.inner_loss(model, x, delta)
            adam.zero_grad()
            loss.backward()
            adam.step()
        return delta

    def inner_loss(self, model: Classifier, x: Tensor, delta: Tensor) -> Tensor:
        moved = model(x + delta * self.teacher.std)
        clean = model(x)
        if model is self.student:
            clean = clean.detach()
        return self.retrospection.norm_weight * delta.square().sum() - kl(clean, moved)

    def outer_loss(self, x: Tensor, delta: Tensor) -> Tensor:
        count = max(1, round(self.retrospection.perturbed_share * len(x)))
        some = torch.cat([x[:count] + delta * self.teacher.std, x[count:]])
        return kl(self.student(x).detach(), self.student(some))


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    total = 0
    for pair in zip(student, teacher, strict=True):
        s, t = [F.normalize(maps.pow(2).mean(1).flatten(1), dim=1) for maps in pair]
        total = total + (s - t).pow(2).mean()
    return total


@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    yield
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
