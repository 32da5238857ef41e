"""Clean accuracy, attack success rate and robust accuracy, counted exactly in one pass over the data.

Only integers are added up, on the device; shards of several processes are disjoint and complete, so
the sum over the processes is the count of one process, to the last image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict, Unpack

import torch
from torch import Tensor, nn

from abd_hub.core.contracts import Trigger
from abd_hub.core.errors import InputError
from abd_hub.core.records import AttackedClass, ClassReport, DataSpec, EvalReport, TriggerReport
from abd_hub.evaluation.rates import wilson
from abd_hub.learning import distributed
from abd_hub.learning.modes import in_eval_mode

# Layout of the counters: a row for each true class with these columns, then for each attack hits and images
# still recognized. One more row holds in its first column how many answers were not finite.
_IMAGES, _CORRECT, _HEAD = 0, 1, 2


class Evaluated(Protocol):
    """What is asked of a classifier: a module from pixels to logits that knows its labels."""

    spec: DataSpec

    def eval(self) -> Any:
        """As ``nn.Module`` has it."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As ``nn.Module`` has it."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As ``nn.Module`` has it."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) float in [0,1] to (N, classes) logits."""
        ...


@dataclass(frozen=True)
class Attack:
    """A trigger with the label it is meant to call up."""

    name: str
    """Name of the trigger, for the report."""
    target: int
    trigger: Trigger
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the trigger was made with, for the report; JSON types only."""


@dataclass(frozen=True)
class Answers:
    """The label a classifier gave to every image, in the order of the data and complete."""

    clean: Tensor
    """(n,) int64 on the CPU."""
    triggered: tuple[Tensor, ...] = ()
    """One an attack, in their order, each (n,) int64 on the CPU; images of the target class included."""


@dataclass(frozen=True)
class _Stamp:
    """One trigger with all the attacks that use it: their triggered images and answers are the same."""

    trigger: Trigger
    attacks: tuple[int, ...]
    """Places in the list of attacks."""
    targets: Tensor
    """(attacks,) int64."""
    hits: Tensor
    """(attacks,) int64, the columns that count their hits; each is followed by that of what is robust."""


class PassOptions(TypedDict, total=False):
    """How one pass over the data is carried out. None of it changes a count."""

    batch_size: int
    """Images in a forward pass; 512 by default."""
    device: torch.device | str | None
    """Where to compute; by default where the classifier's first parameter lies."""
    shard: tuple[int, int] | None
    """(rank, processes): this process takes the images rank, rank + processes, ...; by default the place
    among the processes of torch.distributed, or everything where that is not in use."""
    reduce: Callable[[Tensor], Tensor] | None
    """Sums an int64 tensor over the processes, for the counts and for the answers; by default it is
    torch.distributed's all_reduce."""
    progress: bool
    """Show a bar, on the first process."""


def evaluate(
    classifier: Evaluated,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack] = (),
    *,
    per_class: bool = False,
    **options: Unpack[PassOptions],
) -> EvalReport:
    """Count the classifier's answers to clean and to triggered images, in one pass over the data.

    The answer is the label of the largest logit. Both rates of an attack are over the images whose true
    label is not its target: the attack success rate counts those answered with the target once
    triggered, the robust accuracy those still answered with their true label. The classifier works in
    eval mode and gets its own modes back. Attacks with equal triggers share one forward pass, however
    many targets there are.

    Args:
        classifier: module with ``spec``, from pixels to logits.
        images: all images, (n, C, H, W) uint8, the same on every process.
        labels: their labels, (n,) integers.
        attacks: triggers with their targets; none is fine.
        per_class: report the counts of every true class as well.
        options: batch_size, device, shard, reduce, progress: see ``PassOptions``.

    Raises:
        InputError: before any work, the data are empty or ill-shaped, the classifier lacks a label or target,
            a trigger does not fit, or no image lies outside a target. After it, logits are of the wrong shape
            or not finite.
    """
    check_inputs(classifier.spec, images, labels, attacks)
    work = _Work(classifier, attacks, **options)
    counts, _ = work.count(images, labels, keep=False)
    return _report(counts, attacks, classifier.spec if per_class else None)


def evaluate_answers(
    classifier: Evaluated,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack] = (),
    *,
    per_class: bool = False,
    **options: Unpack[PassOptions],
) -> tuple[EvalReport, Answers]:
    """``evaluate``, in the same pass, with the answer to every single image: for paired tests.

    It takes and refuses the same. Every process gets all answers: each fills in those of its shard, and
    ``reduce`` sums them up.
    """
    check_inputs(classifier.spec, images, labels, attacks)
    work = _Work(classifier, attacks, **options)
    counts, kept = work.count(images, labels, keep=True)
    report = _report(counts, attacks, classifier.spec if per_class else None)

    assert kept is not None, "asked for"
    row = {place: 1 + index for index, stamp in enumerate(work.stamps) for place in stamp.attacks}
    return report, Answers(kept[0], tuple(kept[row[place]] for place in range(len(attacks))))


def check_inputs(spec: DataSpec, images: Tensor, labels: Tensor, attacks: Sequence[Attack] = ()) -> None:
    """What ``evaluate`` checks before it begins; for callers that have other work to do first.

    Raises:
        InputError: as in ``evaluate``, before any work.
    """
    _check_data(spec, images, labels)
    _check_attacks(spec, images, labels, attacks)


def _device_of(classifier: Evaluated) -> torch.device:
    parameter = next(classifier.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check_data(spec: DataSpec, images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise InputError(f"images must be (n, C, H, W) uint8, not {tuple(images.shape)} {images.dtype}")
    if len(images) == 0:
        raise InputError("there are no images to evaluate on")
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise InputError(f"labels must be {len(images)} integers, not {tuple(labels.shape)} {labels.dtype}")
    if images.shape[1] != spec.channels:
        raise InputError(f"images have {images.shape[1]} channels but the classifier takes {spec.channels}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.num_classes:
        raise InputError(
            f"labels run from {low} to {high} but the classifier has {spec.num_classes} classes; "
            "use data and a classifier with the same labels"
        )


def _check_attacks(spec: DataSpec, images: Tensor, labels: Tensor, attacks: Sequence[Attack]) -> None:
    probe = _to_pixels(images[:1], images.device)
    for attack in attacks:
        if not 0 <= attack.target < spec.num_classes:
            raise InputError(
                f"target {attack.target} of trigger {attack.name} is out of range; "
                f"use 0..{spec.num_classes - 1}"
            )
        if bool((labels == attack.target).all()):
            raise InputError(f"no image has a label other than target {attack.target} of {attack.name}")

    for places in _by_trigger(attacks):
        attack = attacks[places[0]]
        stamped = attack.trigger(probe)
        if stamped.shape != probe.shape or stamped.dtype != probe.dtype:
            raise InputError(
                f"trigger {attack.name} turns {tuple(probe.shape)} {probe.dtype} "
                f"into {tuple(stamped.shape)} {stamped.dtype}; it must keep both"
            )


def _by_trigger(attacks: Sequence[Attack]) -> list[list[int]]:
    """Places of the attacks in groups of equal triggers, the groups in order of their first attack."""
    groups: dict[Any, list[int]] = {}
    for place, attack in enumerate(attacks):
        groups.setdefault(_identity(attack.trigger), []).append(place)
    return list(groups.values())


def _identity(trigger: Trigger) -> Any:
    """Frozen dataclasses are equal when their options are; what cannot be hashed equals only itself."""
    try:
        hash(trigger)
    except TypeError:
        return id(trigger)
    return trigger


def _bar(starts: range, show: bool) -> Iterable[int]:
    if not show:
        return starts
    from tqdm.auto import tqdm

    return tqdm(starts, desc="evaluate", unit="batch", leave=False)


def _to_pixels(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, non_blocking=True).float().div_(255)


class _Work:
    """One pass: where it is computed, on which share of the images, and what is counted."""

    def __init__(
        self,
        classifier: Evaluated,
        attacks: Sequence[Attack],
        *,
        batch_size: int = 512,
        device: torch.device | str | None = None,
        shard: tuple[int, int] | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        progress: bool = False,
    ) -> None:
        self.rank, self.processes = shard or distributed.world()
        if batch_size < 1 or not 0 <= self.rank < self.processes:
            place = (self.rank, self.processes)
            raise InputError(f"batch_size {batch_size} and shard {place} must leave some work")
        self.classifier = classifier
        self.device = torch.device(device) if device is not None else _device_of(classifier)
        self.stamps = [_stamp(attacks, places, self.device) for places in _by_trigger(attacks)]
        self.columns = _HEAD + 2 * len(attacks)
        self.batch_size = batch_size
        self.reduce = reduce or distributed.sum_
        self.progress = progress

    def count(self, images: Tensor, labels: Tensor, *, keep: bool) -> tuple[Tensor, Tensor | None]:
        """The counters over all processes and, with ``keep``, the answers: clean, then one row a stamp.

        Returns:
            (classes + 1, columns) and (1 + stamps, n), both int64 on the CPU.
        """
        rows = self.classifier.spec.num_classes + 1
        counts = torch.zeros(rows, self.columns, dtype=torch.int64, device=self.device)
        kept = []
        own = images[self.rank :: self.processes], labels[self.rank :: self.processes]
        starts = range(0, len(own[0]), self.batch_size)

        with in_eval_mode(self.classifier), torch.inference_mode():
            for start in _bar(starts, show=self.progress and self.rank == 0):
                batch = slice(start, start + self.batch_size)
                truth = own[1][batch].to(self.device, torch.int64)
                answers = self._add(counts, _to_pixels(own[0][batch], self.device), truth)
                if keep:
                    kept.append(torch.stack(answers))
            counts = self.reduce(counts).cpu()
            everything = self.reduce(self._all(kept, len(images))).cpu() if keep else None
        return counts, everything

    def _add(self, counts: Tensor, pixels: Tensor, truth: Tensor) -> list[Tensor]:
        """Counts one batch; stays on the device, so that nothing waits for it."""
        answer, broken = _answer(self.classifier, pixels)
        answers = [answer]
        seen = counts.new_zeros(len(truth), self.columns)
        seen[:, _IMAGES] = 1
        seen[:, _CORRECT] = (answer == truth).long()

        for stamp in self.stamps:
            answer, more_broken = _answer(self.classifier, stamp.trigger(pixels))
            others = truth[:, None] != stamp.targets
            seen[:, stamp.hits] = (others & (answer[:, None] == stamp.targets)).long()
            seen[:, stamp.hits + 1] = (others & (answer == truth)[:, None]).long()
            broken = broken + more_broken
            answers.append(answer)

        counts.index_add_(0, truth, seen)
        counts[-1, 0] += broken
        return answers

    def _all(self, kept: list[Tensor], n: int) -> Tensor:
        """Own answers at their places among all ``n``, zero at those of the other processes."""
        everything = torch.zeros(1 + len(self.stamps), n, dtype=torch.int64, device=self.device)
        if kept:
            everything[:, self.rank :: self.processes] = torch.cat(kept, dim=1)
        return everything


def _stamp(attacks: Sequence[Attack], places: list[int], device: torch.device) -> _Stamp:
    targets = torch.tensor([attacks[place].target for place in places], device=device)
    hits = torch.tensor([_HEAD + 2 * place for place in places], device=device)
    return _Stamp(attacks[places[0]].trigger, tuple(places), targets, hits)


def _answer(classifier: Evaluated, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 labels, and the number of images whose logits are not finite: argmax calls NaN the largest."""
    logits = classifier(pixels)
    wanted = (len(pixels), classifier.spec.num_classes)
    if logits.shape != wanted:
        raise InputError(f"the classifier gives logits {tuple(logits.shape)} where {wanted} are expected")
    return logits.argmax(1), (~logits.isfinite().all(1)).sum()


def _report(counts: Tensor, attacks: Sequence[Attack], by_class: DataSpec | None) -> EvalReport:
    broken = int(counts[-1, 0])
    if broken:
        raise InputError(f"the classifier's logits are not finite in {broken} answers; check its weights")
    rows: list[list[int]] = counts[:-1].tolist()
    total = [sum(column) for column in zip(*rows, strict=True)]
    reports = []
    for place, attack in enumerate(attacks):
        n = total[_IMAGES] - rows[attack.target][_IMAGES]
        hits, robust = total[_HEAD + 2 * place : _HEAD + 2 * place + 2]
        rates = wilson(hits, n), wilson(robust, n)
        reports.append(TriggerReport(attack.name, attack.target, dict(attack.options), *rates))
    accuracy = wilson(total[_CORRECT], total[_IMAGES])
    per_class = None if by_class is None else _classes(rows, attacks, by_class.labels)
    return EvalReport(accuracy, tuple(reports), per_class=per_class)


def _classes(
    rows: list[list[int]], attacks: Sequence[Attack], names: Sequence[str]
) -> tuple[ClassReport, ...]:
    return tuple(
        ClassReport(
            label,
            names[label],
            row[_IMAGES],
            row[_CORRECT],
            tuple(
                AttackedClass(
                    0 if attack.target == label else row[_IMAGES],
                    *row[_HEAD + 2 * place : _HEAD + 2 * place + 2],
                )
                for place, attack in enumerate(attacks)
            ),
        )
        for label, row in enumerate(rows)
    )
