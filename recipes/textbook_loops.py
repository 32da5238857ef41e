"""The distillation loops as they are published, to be compared with abd-hub's: eager, float32, contiguous.

Written from the papers and from what is known of their code; every network, batch, number of steps and
schedule is an argument, and so is every random draw, so that both sides can be given the same ones. A loop
is slower than abd-hub's for what it does, not for how it is written down:

ZSKT (Micaelli & Storkey, NeurIPS 2019):
- every student step draws the images anew from a generator that has not changed, and its backward pass goes
  on through the generator, whose gradient nobody uses;
- every student step asks the teacher again about the same images;
- the generator's step computes the gradients of all weights of teacher and student too.

Shuffling Vaccine (Hong et al., ICML 2023):
- every shuffled copy is a whole teacher with a whole pass of its own, and its weights get gradients.

Self-Retrospection (same paper; the perturbation is sought against the teacher, as in the paper's runs):
- the perturbation is sought anew in every student step, although images and teacher are the same;
- each of its steps asks the teacher for the clean answers again and computes all of the teacher's weight
  gradients, of the clean pass and of the perturbed one;
- outer and inner loss ask the student for the clean answers again; the outer loss goes backward twice, once
  for the perturbation and once for the weights; the fixed point begins with a product with the zero vector.

CMI (Fang et al., IJCAI 2021):
- images are PNG files that a DataLoader decodes one by one, its workers start anew every round, embeddings
  lie on the host, a number is read from the device in every step, and teacher and student get gradients of
  all their weights while images are made.

Three faults of the published code are not repeated, because both sides would not compute the same; none of
them costs time: the perturbation starts from small noise instead of zero, where its gradient is rounding
noise; perturbed passes leave the running statistics of the student alone; PNG files are rounded, not cut off.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image, to_tensor

from abd_hub import Classifier, Cmi, SelfRetrospection, ShufflingVaccine, Zskt

Draw = Callable[[int], Tensor]
Crop = tuple[int, int, int, bool]
"""Place of an image, row and column of a crop of the padded image, whether it is mirrored."""


def textbook_generator(z_dim: int, channels: int, size: int, last: nn.Module) -> nn.Sequential:
    """ZSKT's network for square images; places in the sequence as in abd-hub's generator."""

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
    """Whole copies of the teacher; ``permutations`` has (K, input channels) for each layer's name."""
    copies = []
    for k in range(len(next(iter(permutations.values())))):
        model = copy.deepcopy(teacher)
        for name, permutation in permutations.items():
            weight = model.get_submodule(name).weight
            weight.data = weight.data[:, permutation[k].to(weight.device)].contiguous()
        copies.append(model)
    return copies


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


class TextbookZskt:
    """ZSKT, with shuffled copies and retrospection where they are given.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: likewise, trained in place.
        generator: (N, z_dim) to images in the teacher's normalized space.
        method: sizes, rates and schedule.
        noise: of a round's images, (N, z_dim).
        vaccine: coefficient of the penalty.
        copies: shuffled teachers.
        retrospection: settings; active in the last rounds.
        start: of the perturbation, standard normal (1, C, H, W), by number of student steps with it so far.
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
        """Sets the rates of the round; says whether retrospection is active in it."""
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
            # one batch, one start: what it finds for the teacher is the same in all steps of the round
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


class CmiDraws(Protocol):
    """Every random draw of a round of CMI."""

    def generator(self, index: int) -> tuple[nn.Module, Tensor]:
        """The round's fresh generator, from (N, z_dim) to pixels, and its noise."""

    def classes(self, index: int) -> Tensor:
        """(N,) int64 to be made."""

    def views(self, index: int, step: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The global and the local view of the images."""

    def negatives(self, index: int, step: int, count: int) -> Tensor:
        """Places in a memory of ``count`` embeddings."""

    def crops(self, index: int, count: int) -> Iterable[list[Crop]]:
        """For each student step its batch out of ``count`` images."""


class PngFolder(Dataset):
    """Decodes and augments one image at a time."""

    def __init__(self, folder: Path, padding: int) -> None:
        self.folder, self.padding = folder, padding

    def __getitem__(self, crop: Crop) -> Tensor:
        place, row, column, mirrored = crop
        with Image.open(self.folder / f"{place}.png") as file:
            image = file.convert("RGB")
        width, height = image.size
        padded = ImageOps.expand(image, self.padding)
        shown = padded.crop((column, row, column + width, row + height))
        return to_tensor(ImageOps.mirror(shown) if mirrored else shown)


class LayerStatistics:
    """What one BatchNorm layer sees, noted in every pass."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        layer.register_forward_hook(self.note)

    def note(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor], _output: Tensor) -> None:
        features = inputs[0]
        mean = features.mean([0, 2, 3])
        rows = features.permute(1, 0, 2, 3).contiguous().view(features.shape[1], -1)
        variance = rows.var(1, unbiased=False)
        self.distance = (layer.running_var - variance).norm() + (layer.running_mean - mean).norm()
        self.image_means = features.mean([2, 3])


class TextbookCmi:
    """CMI.

    Args:
        teacher: pixels to logits; all its weights get gradients.
        student: likewise, trained in place.
        head: from embeddings of both views to what is compared.
        method: sizes, rates and schedule.
        draws: of all rounds.
        folder: where the PNG files go.
        workers: of the DataLoader.
        memory: (M, width) twice, embeddings of earlier local and global views, on the host.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        head: nn.Module,
        method: Cmi,
        draws: CmiDraws,
        folder: Path,
        workers: int,
        memory: tuple[Tensor, Tensor],
    ) -> None:
        self.teacher = teacher.requires_grad_(True).eval()
        self.student, self.head, self.method, self.draws = student.train(), head, method, draws
        self.folder, self.workers, self.memory = folder, workers, memory
        self.device = next(student.parameters()).device
        layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.seen = [LayerStatistics(layer) for layer in layers]
        self.head_adam = torch.optim.Adam(head.parameters(), lr=method.generator_learning_rate)
        self.sgd = torch.optim.SGD(
            student.parameters(),
            lr=method.learning_rate,
            momentum=method.momentum,
            weight_decay=method.weight_decay,
        )
        self.saved = 0

    def round(self, index: int) -> None:
        self.synthesize(index)
        self.distill(index, self.batches(index))

    def synthesize(self, index: int) -> None:
        """Makes one batch of images and saves the best."""
        method = self.method
        generator, noise = self.draws.generator(index)
        targets = self.draws.classes(index)
        adam = torch.optim.Adam(
            [*generator.parameters(), noise], lr=method.generator_learning_rate, betas=(0.5, 0.999)
        )
        lowest, best = math.inf, None
        self.student.eval()
        for step in range(method.generator_steps):
            pixels = generator(noise)
            loss, local, whole = self.loss(index, step, pixels, targets)
            if loss.item() < lowest or best is None:
                lowest, best = loss.item(), (pixels.detach(), local.detach().cpu(), whole.detach().cpu())
            adam.zero_grad()
            self.head_adam.zero_grad()
            loss.backward()
            adam.step()
            self.head_adam.step()
        self.student.train()
        self.memory = tuple(
            torch.cat([old, new])[-method.feature_bank_size :]
            for old, new in zip(self.memory, best[1:], strict=True)
        )
        self.save(best[0])

    def loss(self, index: int, step: int, pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """And the embeddings of both views."""
        method = self.method
        whole_view, local_view = self.draws.views(index, step, pixels)
        t, s = self.teacher(whole_view), self.student(whole_view)
        distance = sum(layer.distance for layer in self.seen)
        whole = torch.cat([layer.image_means for layer in self.seen], dim=1)
        self.teacher(local_view)
        local = torch.cat([layer.image_means for layer in self.seen], dim=1)
        agree = (s.argmax(1) == t.argmax(1)).to(s.dtype)
        apart = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
        loss = (
            method.one_hot_weight * F.cross_entropy(t, targets)
            + method.batch_norm_weight * distance
            - method.adversarial_weight * (apart * agree).mean()
            + method.contrast_weight * self.contrast(index, step, local, whole)
        )
        return loss, local, whole

    def contrast(self, index: int, step: int, local: Tensor, whole: Tensor) -> Tensor:
        n, places = len(local), self.draws.negatives(index, step, len(self.memory[0]))
        earlier_local, earlier_whole = (rows[places].to(self.device) for rows in self.memory)
        projected = F.normalize(self.head(torch.cat([local, earlier_local, whole, earlier_whole])), dim=1)
        queries, keys = projected.chunk(2)
        similar = queries @ keys.detach().T / self.method.contrast_temperature
        losses = F.cross_entropy(similar, torch.arange(len(similar), device=self.device), reduction="none")
        return losses[:n].mean() + losses[n:].mean()

    def save(self, pixels: Tensor) -> None:
        for image in (pixels * 255).round().to(torch.uint8).cpu():
            to_pil_image(image).save(self.folder / f"{self.saved}.png")
            self.saved += 1

    def batches(self, index: int) -> Iterator[Tensor]:
        """The round's batches; the workers are up when this returns."""
        drawn = list(self.draws.crops(index, self.saved))
        images = PngFolder(self.folder, self.method.crop_padding)
        loader = iter(DataLoader(images, batch_sampler=drawn, num_workers=self.workers))
        return chain([next(loader)], loader)

    def distill(self, index: int, batches: Iterable[Tensor]) -> None:
        method = self.method
        annealed = 0.5 * (1 + math.cos(math.pi * index / method.rounds))
        self.sgd.param_groups[0]["lr"] = method.learning_rate * annealed
        for pixels in batches:
            images = pixels.to(self.device)
            with torch.no_grad():
                t = self.teacher(images)
            loss = kl(t / method.temperature, self.student(images) / method.temperature)
            self.sgd.zero_grad()
            (loss * method.temperature**2).backward()
            self.sgd.step()
