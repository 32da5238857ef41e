"""Trigger inversion: how small a universal trigger can be that leads to each class.

After Neural Cleanse (Wang et al., S&P 2019), without its clean data. A backdoor is a short cut: its class
needs a much smaller trigger than the others. Images are those that the teacher is most confident about.
All classes are inverted at once. Each has a weight of its own on the size, which grows while the trigger
succeeds and falls while it does not.

The flag compares the smallest size with the second smallest, in each family, and in the geometric mean of
both families. Neural Cleanse's anomaly index, in deviations from the median, separates worse here. One
consequence: two backdoors to different classes hide each other.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.inspections import FoundTrigger, Inspection, InspectionReport
from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import Count, ShareBelowOne
from abd_hub.inspection.confident import CHUNK_PIXELS, ConfidentImages, answers, choose_confident
from abd_hub.inspection.families import FAMILIES, Family
from abd_hub.learning.modes import in_eval_mode
from abd_hub.learning.precision import Precision, in_precision
from abd_hub.learning.progress import over

MASK_RATIO = 0.5
"""The limit is the geometric mean of two ratios, rounded. One is the largest of a poisoned teacher, the other
is the smallest of a clean teacher. With 10,000 patches and 300 steps they were, for one seed:

- poisoned: 0.13 (resnet20_colour5_0), 0.22 (badnets_8), 0.33 (trojan_wm_2);
- clean: 0.70 (resnet20_clean), 0.95 (resnet20_clean_2), 0.99 (resnet32_clean).

Each teacher was left out in turn. The limit lay between 0.39 and 0.56, and each time it was right. After 150
steps a class may lead for a while: resnet20_clean had 0.47 after 200 steps, and badnets_8 0.64 after 150."""
JOINT_RATIO = 0.7
"""The joint size of a class is the geometric mean of the sizes of its mask and of its addition. An ordinary
class may lead in one family by chance, and rarely leads in both. With 10,000 patches the ratios were, for one
to three seeds:

- poisoned: 0.31 and 0.32 (resnet20_colour5_0), 0.34 and 0.47 (trojan_wm_2), 0.40 and 0.46 (resnet20_grey5_0),
  0.41 and 0.45 (gtsrbbadnets_8), 0.41, 0.53 and 0.60 (badnets_8);
- clean: 0.79 and 0.89 (resnet20_clean), 0.88 and 0.94 (resnet20_clean_2), 0.91 (resnet32_clean).

The limit is the geometric mean of 0.60 and 0.79, rounded. Each teacher was left out in turn. The limit lay
between 0.61 and 0.73, and each time it was right."""
ADDITIVE_RATIO = 0.5
"""Additions separate badly. After 150 steps, poisoned teachers had 0.45 (trojan_wm_2), 0.69
(resnet20_grey5_0), 0.71 (resnet20_colour5_0) and 0.92 (badnets_8), and clean ones 0.76, 0.78 and 0.98. The
limit lies below 0.68, the smallest ratio of a clean teacher so far, and flags clear cases only."""
SUCCESS = 0.9
"""A trigger counts from this running success on."""
EASY = 0.93
"""Above this running success the weight of the size grows."""
GROWTH, DECAY = 1.1, 1.15
MEMORY = 0.8
"""Share of the past in the running success."""
PATIENCE = 20
"""Steps without a size that shrinks by ``PROGRESS``, after which the second half of the search may end."""
PROGRESS = 0.01
NEXT = 3
"""Classes that are searched beside the suspects in a purified copy. All ten cost 145 core seconds and four of
them 58, for badnets_8."""
_MEASURED = 50
"""Images of each other class on which a found trigger is measured."""


@register("inspections", "trigger_inversion")
@dataclass(frozen=True, kw_only=True)
class TriggerInversion(Inspection, place="trigger_inversion"):
    """Smallest universal trigger towards each class; one that is far smaller is suspicious."""

    citation = r"""@inproceedings{wang2019neuralcleanse,
  title={Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks},
  author={Wang, Bolun and Yao, Yuanshun and Shan, Shawn and Li, Huiying and Viswanath, Bimal and
    Zheng, Haitao and Zhao, Ben Y.},
  booktitle={IEEE Symposium on Security and Privacy},
  pages={707--723},
  year={2019}
}"""
    unit = "size of the smallest trigger"

    steps: Count = 300
    """The search takes at most so many steps of Adam."""
    images_per_class: Count = 8
    """Each class's trigger sees so many images a step."""
    candidates: Count = 300
    """Images are drawn from so many of each class, the most confident ones."""
    classes: Sequence[int] = ()
    """Triggers towards these classes are searched; empty for all. The ratio then compares these alone."""
    families: Sequence[Literal["mask", "additive"]] = ("mask", "additive")
    """These families of triggers are searched: mask (a patch or a blend) and additive (noise)."""
    mask_ratio: ShareBelowOne = MASK_RATIO
    """A class is flagged whose mask is smaller than so much of the next one's."""
    additive_ratio: ShareBelowOne = ADDITIVE_RATIO
    """A class is flagged whose addition is smaller than so much of the next one's."""
    joint_ratio: ShareBelowOne = JOINT_RATIO
    """A class is flagged whose geometric mean of both sizes is smaller than so much of the next one's."""
    mixed_precision: Precision = "no"
    """The teacher's passes run in float32 (no) or in bfloat16 (bf16)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.families or len(set(self.families)) < len(self.families):
            raise self.refusal("families", "must name mask, additive or both, each once", list(self.families))
        if self.classes and (len(set(self.classes)) < max(2, len(self.classes)) or min(self.classes) < 0):
            raise self.refusal("classes", "must name at least two classes, each once", list(self.classes))

    def again(self, report: InspectionReport) -> TriggerInversion:
        """Returns the inspection of a purified copy: the suspects and the classes that came next to them.

        The suspects of a report without a flag are the leading classes. Of 18 purified copies, none was
        flagged by all classes or by these. A second backdoor, which hid behind the first, comes next as well.
        """
        sizes = report.statistics.get("joint") or next(iter(report.statistics.values()))
        first = report.suspects or tuple(dict.fromkeys(trigger.label for trigger in report.triggers))
        searched = [size if math.isfinite(size) else math.inf for size in sizes]
        others = [label for label in order(searched) if label not in first and not math.isnan(sizes[label])]
        return dataclasses.replace(self, classes=(*first, *others[:NEXT]))

    def inspect(self, teacher: Any, images: Tensor, seed: int = 0) -> InspectionReport:
        """Inverts the families one after the other; ``teacher`` keeps its modes, weights and gradients.

        Raises:
            InputError: the teacher has one class, its logits are not finite or do not depend on the image, or
                all images get one class. Or it lacks one of ``classes``.
        """
        began = time.perf_counter()
        names: tuple[str, ...] = tuple(self.families)
        labels = list(self.classes) or list(range(teacher.spec.num_classes))
        if max(labels) >= teacher.spec.num_classes:
            raise self.refusal("classes", f"must be below {teacher.spec.num_classes}", labels)
        with in_eval_mode(teacher):
            chosen = choose_confident(teacher, images, self.candidates)
            found = {name: self._invert(teacher, chosen, name, labels, seed) for name in names}
            sizes = _with_joint({name: inverted.sizes for name, inverted in found.items()})
            ratios = {name: compare(numbers) for name, numbers in sizes.items()}
            limits: dict[str, float] = {name: getattr(self, f"{name}_ratio") for name in sizes}
            suspects = _suspects(sizes, ratios, limits)
            triggers = _triggers(teacher, chosen, found, suspects)

        return InspectionReport(
            name="trigger_inversion",
            flagged=bool(suspects),
            suspects=suspects,
            statistics={name: _of_searched(numbers, labels) for name, numbers in sizes.items()},
            scores=ratios,
            threshold=limits,
            detail=_detail(teacher.spec.labels, suspects, found, self.classes),
            seconds=time.perf_counter() - began,
            triggers=triggers,
            labels=teacher.spec.labels,
        )

    def _invert(
        self, teacher: Any, chosen: ConfidentImages, name: str, labels: list[int], seed: int
    ) -> Inverted:
        classes = torch.tensor(labels)
        starts = generator(seed, "inspection", name, "start")
        draws = generator(seed, "inspection", name, "images")
        family = FAMILIES[name](len(classes), chosen.others(-1, 1)[:1], starts)
        optimizer = torch.optim.Adam(family.parameters, lr=family.rate, betas=(0.5, 0.9))
        search = Search(family)

        for step in over(range(self.steps), self.steps, unit="step", name=f"inspect for a {name} trigger"):
            pixels = chosen.draw(classes, self.images_per_class, draws)
            gradients, success = self._step(teacher, family, pixels, classes, search.weights)
            search.remember(success, step)
            for parameter, gradient in zip(family.parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            if step >= self.steps // 2 and step - search.last_progress >= PATIENCE:
                break
        sizes = [math.inf] * teacher.spec.num_classes
        for label, size in zip(labels, search.best.tolist(), strict=True):
            sizes[label] = size
        return Inverted(family, sizes, dict(zip(labels, zip(*search.kept, strict=True), strict=True)))

    def _step(
        self, teacher: Any, family: Family, pixels: Tensor, classes: Tensor, weights: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients of the sum over classes of ``CE + weight * size``, and (k,) success rates."""
        _, count, _, height, width = pixels.shape
        goals = classes.to(pixels.device)
        success = torch.zeros(len(classes), device=pixels.device)
        penalty = (weights * family.sizes()).sum()
        gradients = _gradients(penalty, family)

        for rows, part in _chunks(len(classes), count, max(1, CHUNK_PIXELS // (height * width))):
            shown = family.put(pixels[rows, part], rows)
            logits = in_precision(teacher, self.mixed_precision)(shown.flatten(0, 1))
            goal = goals[rows].repeat_interleave(shown.shape[1])
            loss = F.cross_entropy(logits, goal, reduction="sum") / count
            if not loss.isfinite():
                raise InputError("teacher: gives logits that are not finite; check its weights")
            gradients = [a + b for a, b in zip(gradients, _gradients(loss, family), strict=True)]
            hits = (logits.argmax(dim=1) == goal).float().view(shown.shape[:2])
            success[rows] += hits.sum(dim=1) / count
        return gradients, success


class Search:
    """The weights on the sizes, and the smallest successful trigger of each class so far."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.weights = family.weights
        self.running = torch.zeros_like(family.weights)
        self.best = torch.full_like(family.weights, math.inf)
        self.kept = [part.detach().clone() for part in family.parameters]
        self.last_progress = 0

    @torch.no_grad()
    def remember(self, success: Tensor, step: int) -> None:
        """Takes the success of a step in, before the optimizer moves the triggers."""
        success = success.to(self.running)
        self.running = MEMORY * self.running + (1 - MEMORY) * success if step else success
        sizes = self.family.sizes()
        # A step has few images. To ask for the success of this very step too would leave lucky steps only:
        # the ratio of badnets_8 then rose from 0.35 to 0.79.
        better = (self.running > SUCCESS) & (sizes < self.best)
        if (better & (sizes < (1 - PROGRESS) * self.best)).any():
            self.last_progress = step
        self.best = torch.where(better, sizes, self.best)
        for kept, part in zip(self.kept, self.family.parameters, strict=True):
            kept[better] = part[better]
        self.weights = torch.where(self.running > EASY, self.weights * GROWTH, self.weights / DECAY)


@dataclass(frozen=True, eq=False)
class Inverted:
    """The smallest triggers of one family."""

    family: Family
    sizes: list[float]
    """One a class; infinite where none succeeded or none was searched."""
    kept: dict[int, tuple[Tensor, ...]]
    """The parameters at these sizes, for each class that was searched."""


def order(sizes: Sequence[float]) -> list[int]:
    """Returns the classes, the smallest trigger first."""
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def _gradients(loss: Tensor, family: Family) -> list[Tensor]:
    """Of the triggers alone: the teacher's weights get none. A parameter without influence gets zeros."""
    found = torch.autograd.grad(loss, family.parameters, allow_unused=True, materialize_grads=True)
    return list(found)


def compare(sizes: Sequence[float]) -> float:
    """Returns the smallest size as a share of the second smallest; 1 where no class was reached."""
    first, second = sorted(sizes)[:2]
    if math.isinf(first):
        return 1.0
    return first / second if second > 0 else 1.0


def _chunks(classes: int, count: int, chunk: int) -> list[tuple[slice, slice]]:
    """Parts of (classes, count) images, each of at most ``chunk``."""
    rows = max(1, chunk // count)
    images = min(count, chunk)
    return [
        (slice(row, min(row + rows, classes)), slice(image, image + images))
        for row in range(0, classes, rows)
        for image in range(0, count, images)
    ]


def _of_searched(sizes: Sequence[float], labels: Sequence[int]) -> tuple[float, ...]:
    """Returns the sizes of all classes, with NaN for those that were not searched."""
    searched = set(labels)
    return tuple(size if label in searched else math.nan for label, size in enumerate(sizes))


def _with_joint(sizes: dict[str, list[float]]) -> dict[str, list[float]]:
    """Adds the geometric mean of each class where two families are searched."""
    if len(sizes) < 2:
        return sizes
    pairs = zip(*sizes.values(), strict=True)
    return {**sizes, "joint": [math.sqrt(first * second) for first, second in pairs]}


def _suspects(
    sizes: dict[str, list[float]], ratios: dict[str, float], limits: dict[str, float]
) -> tuple[int, ...]:
    """The leading class of each statistic that is flagged, the clearest one first."""
    flagged = [name for name in sizes if ratios[name] < limits[name]]
    flagged.sort(key=lambda name: ratios[name] / limits[name])
    return tuple(dict.fromkeys(order(sizes[name])[0] for name in flagged))


def _triggers(
    teacher: Any, chosen: ConfidentImages, found: dict[str, Inverted], suspects: Sequence[int]
) -> tuple[FoundTrigger, ...]:
    """Every family's trigger of each suspect: a defense has to remove all of them."""
    shown = suspects or tuple(dict.fromkeys(order(inverted.sizes)[0] for inverted in found.values()))
    pairs = [(label, inverted) for label in shown for inverted in found.values()]
    return tuple(_measured(teacher, chosen, inverted, label) for label, inverted in pairs)


def _measured(teacher: Any, chosen: ConfidentImages, inverted: Inverted, label: int) -> FoundTrigger:
    """The trigger of a class with its success on many images."""
    size = inverted.sizes[label]
    others = _others(inverted.sizes, label)
    if math.isinf(size):
        return FoundTrigger(label, inverted.family.name, size, others, 0.0)
    tensors = inverted.family.tensors(inverted.kept[label])
    trigger = FoundTrigger(label, inverted.family.name, size, others, 0.0, **tensors)
    logits = answers(teacher, chosen.others(label, _MEASURED), trigger)
    success = float((logits.argmax(dim=1) == label).double().mean())
    return FoundTrigger(label, inverted.family.name, size, others, success, **tensors)


def _detail(
    labels: Sequence[str], suspects: Sequence[int], found: dict[str, Inverted], searched: Sequence[int]
) -> str:
    """Names the first suspect with the sizes of the family in which it stands out most."""
    if not suspects:
        of_these = f" of {', '.join(f'{label} ({labels[label]})' for label in searched)}" if searched else ""
        return f"no class{of_these} stands out; this does not show that the model is clean"
    label = suspects[0]

    def share(name: str) -> float:
        others = _others(found[name].sizes, label)
        return found[name].sizes[label] / others if math.isfinite(others) else 0.0

    name = min(found, key=share)
    first, second = found[name].sizes[label], _others(found[name].sizes, label)
    needs = (
        "no other class can be reached"
        if math.isinf(second)
        else f"every other class needs at least {second:.3g}"
    )
    unit = found[name].family.unit
    return f"class {label} ({labels[label]}) can be reached with {first:.3g} {unit}, {needs}: suspicious"


def _others(sizes: Sequence[float], label: int) -> float:
    """Returns the smallest size of the other classes."""
    return min(size for place, size in enumerate(sizes) if place != label)
