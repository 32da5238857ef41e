"""Clean accuracy, attack success rate and robust accuracy, counted exactly in one pass over the data.

Only integers are added up, on the device; shards of several processes are disjoint and complete, so
the sum over the processes is the count of one process, to the last image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from abd_hub.types import DataSpec, EvalReport, InputError, Rate, Trigger, TriggerReport

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

# Layout of the counters: these, then for each attack images, hits and images still recognised.
_IMAGES, _CORRECT, _BROKEN, _HEAD = 0, 1, 2, 3


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


def wilson(count: int, n: int) -> Rate:
    """``count`` out of ``n`` with its 95 % Wilson score interval (Wilson, 1927).

    Raises:
        InputError: n is 0, or count is not within 0..n.
    """
    if n < 1:
        raise InputError("a rate needs at least one image")
    if not 0 <= count <= n:
        raise InputError(f"count {count} is not within 0..{n}")
    share, square = count / n, Z95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    reach = Z95 * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    # The bound at an edge is the edge itself; rounding would leave it a hair off.
    low = 0.0 if count == 0 else centre - reach
    high = 1.0 if count == n else centre + reach
    return Rate(share, count, n, low, high)


def evaluate(
    classifier: Evaluated,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack] = (),
    *,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    shard: tuple[int, int] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    progress: bool = False,
) -> EvalReport:
    """Count the classifier's answers to clean and to triggered images, in one pass over the data.

    The answer is the label of the largest logit. Both rates of an attack are over the images whose true
    label is not its target: the attack success rate counts those answered with the target once
    triggered, the robust accuracy those still answered with their true label. The classifier works in
    eval mode and gets its own modes back.

    Args:
        classifier: module with ``spec``, from pixels to logits.
        images: all images, (n, C, H, W) uint8, the same on every process.
        labels: their labels, (n,) integers.
        attacks: triggers with their targets; none is fine.
        batch_size: images in a forward pass; does not change any count.
        device: where to compute; by default where the classifier's first parameter lies.
        shard: (rank, processes): this process takes the images rank, rank + processes, ...; by default
            that of torch.distributed, or everything where that is not in use.
        reduce: sums an int64 tensor over the processes; by default torch.distributed's all_reduce.
        progress: show a bar, on the first process.

    Raises:
        InputError: before any work: empty or ill-shaped data, labels or targets the classifier does
            not have, a trigger that does not fit the images, nothing left outside a target. After it:
            logits of the wrong shape, or that are not finite.
    """
    rank, processes = shard or _place()
    check_inputs(classifier.spec, images, labels, attacks)
    if batch_size < 1 or not 0 <= rank < processes:
        raise InputError(f"batch_size {batch_size} and shard {(rank, processes)} must leave some work")
    where = torch.device(device) if device is not None else _device_of(classifier)
    counts = torch.zeros(_HEAD + 3 * len(attacks), dtype=torch.int64, device=where)
    images, labels = images[rank::processes], labels[rank::processes]
    starts = range(0, len(images), batch_size)
    with _eval_mode(classifier), torch.inference_mode():
        for start in _bar(starts, show=progress and rank == 0):
            batch = slice(start, start + batch_size)
            counts += _count(classifier, _to_pixels(images[batch], where), labels[batch].to(where), attacks)
        counts = (reduce or _sum)(counts)
    return _report(counts.tolist(), attacks)


def check_inputs(spec: DataSpec, images: Tensor, labels: Tensor, attacks: Sequence[Attack] = ()) -> None:
    """What ``evaluate`` checks before it begins; for callers that have other work to do first.

    Raises:
        InputError: as in ``evaluate``, before any work.
    """
    _check_data(spec, images, labels)
    _check_attacks(spec, images, labels, attacks)


def format_table(rows: Iterable[tuple[str, EvalReport]]) -> str:
    """A plain table of (name, report) rows: one line for each trigger, fractions with 95 % intervals."""
    head = ("model", "accuracy", "n", "trigger", "target", "ASR", "robust accuracy", "n")
    lines: list[tuple[str, ...]] = [head]
    for name, report in rows:
        start = (name, _cell(report.accuracy), str(report.accuracy.n))
        for found in report.triggers:
            end = (_cell(found.asr), _cell(found.robust_accuracy), str(found.asr.n))
            lines.append((*start, found.trigger, str(found.target), *end))
            start = ("", "", "")
        if not report.triggers:
            lines.append((*start, "-", "-", "-", "-", "-"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _place() -> tuple[int, int]:
    if _distributed():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _sum(counts: Tensor) -> Tensor:
    if _distributed():
        torch.distributed.all_reduce(counts)
    return counts


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


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
        stamped = attack.trigger(probe)
        if stamped.shape != probe.shape or stamped.dtype != probe.dtype:
            raise InputError(
                f"trigger {attack.name} turns {tuple(probe.shape)} {probe.dtype} "
                f"into {tuple(stamped.shape)} {stamped.dtype}; it must keep both"
            )


@contextmanager
def _eval_mode(classifier: Evaluated) -> Iterator[None]:
    # Module by module: parts may be frozen in eval mode while the rest trains.
    modes = [(module, module.training) for module in classifier.modules()]
    classifier.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _bar(starts: range, show: bool) -> Iterable[int]:
    if not show:
        return starts
    from tqdm.auto import tqdm

    return tqdm(starts, desc="evaluate", unit="batch", leave=False)


def _to_pixels(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, non_blocking=True).float().div_(255)


def _count(classifier: Evaluated, pixels: Tensor, truth: Tensor, attacks: Sequence[Attack]) -> Tensor:
    """The counters of one batch; stays on the device, so that nothing waits for it."""
    answer, broken = _answer(classifier, pixels)
    counts = [torch.full_like(broken, len(truth)), (answer == truth).sum(), broken]
    for attack in attacks:
        answer, more_broken = _answer(classifier, attack.trigger(pixels))
        others = truth != attack.target
        counts += [others.sum(), (others & (answer == attack.target)).sum()]
        counts += [(others & (answer == truth)).sum()]
        counts[_BROKEN] = counts[_BROKEN] + more_broken
    return torch.stack(counts)


def _answer(classifier: Evaluated, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Top-1 labels, and the number of images whose logits are not finite: argmax calls NaN the largest."""
    logits = classifier(pixels)
    wanted = (len(pixels), classifier.spec.num_classes)
    if logits.shape != wanted:
        raise InputError(f"the classifier gives logits {tuple(logits.shape)} where {wanted} are expected")
    return logits.argmax(1), (~logits.isfinite().all(1)).sum()


def _report(counts: list[int], attacks: Sequence[Attack]) -> EvalReport:
    if counts[_BROKEN]:
        raise InputError(
            f"the classifier's logits are not finite in {counts[_BROKEN]} answers; check its weights"
        )
    reports = []
    for index, attack in enumerate(attacks):
        n, hits, robust = counts[_HEAD + 3 * index : _HEAD + 3 * index + 3]
        reports.append(
            TriggerReport(
                attack.name, attack.target, dict(attack.options), wilson(hits, n), wilson(robust, n)
            )
        )
    return EvalReport(wilson(counts[_CORRECT], counts[_IMAGES]), tuple(reports))
