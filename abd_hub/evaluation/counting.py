"""Clean accuracy, attack success rate and robust accuracy, counted exactly in one pass over the data.

The counters are integers on the device. Several processes take disjoint shards that cover all images. So the
sum over the processes equals the count of a single process, to the last image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from abd_hub.core.errors import InputError
from abd_hub.core.records import AttackedClass, ClassReport, DataSpec, EvalReport, TriggerReport
from abd_hub.data.mixed import MixedImages
from abd_hub.evaluation.attacks import Attack, by_trigger, check_inputs
from abd_hub.evaluation.rates import wilson
from abd_hub.evaluation.shown import Evaluated, shown_pixels
from abd_hub.learning import distributed
from abd_hub.learning.modes import in_eval_mode
from abd_hub.learning.progress import over

# The counters have a row for each class. Its columns are its images, those of them that get their true label,
# and all clean images that get the class as answer, then two for each attack: hits, and images that are still
# recognized. One more row counts, in its first column, answers that are not finite.
_IMAGES, _CORRECT, _ANSWERS, _HEAD = 0, 1, 2, 3


@dataclass(frozen=True)
class Answers:
    """Holds the labels that a classifier gave to all images, in the order of the data."""

    clean: Tensor
    """Holds the labels of the clean images, (n,) int64 on the CPU."""
    triggered: tuple[Tensor, ...] = ()
    """Holds the labels of the triggered images, one tensor an attack, in their order. Each is (n,) int64 on
    the CPU and includes images of the target class."""


@dataclass(frozen=True)
class _Stamp:
    """Combines one trigger with all attacks that use it, because they share triggered images and answers."""

    attack: Attack
    """Holds the first of the attacks, for its trigger and the trigger's place."""
    attacks: tuple[int, ...]
    """Holds the places in the list of attacks."""
    targets: Tensor
    """Holds the attacks' targets, (attacks,) int64."""
    hits: Tensor
    """Holds the columns that count hits, (attacks,) int64; the column after each counts robust answers."""


class PassOptions(TypedDict, total=False):
    """Says how one pass over the data is carried out; no option changes a count."""

    batch_size: int
    """Sets the number of images in a forward pass; the default is 512."""
    device: torch.device | str | None
    """Sets the device for the computation; the default is the device of the classifier's first parameter."""
    shard: tuple[int, int] | None
    """Sets (rank, processes): this process takes the images rank, rank + processes, and so on. The default is
    the place among the processes of torch.distributed, or (0, 1) without them."""
    reduce: Callable[[Tensor], Tensor] | None
    """Sums an int64 tensor over the processes, for the counts and for the answers; the default is
    torch.distributed's all_reduce."""
    progress: bool
    """Shows a bar in the first process."""


def evaluate(
    classifier: Evaluated,
    images: Tensor | MixedImages,
    labels: Tensor,
    attacks: Sequence[Attack] = (),
    *,
    per_class: bool = False,
    **options: Unpack[PassOptions],
) -> EvalReport:
    """Counts the classifier's answers to clean and to triggered images, in one pass over the data.

    The answer is the label of the largest logit. Both rates of an attack are over the images whose true label
    is not its target. The attack success rate is the share of them that get the target when triggered. The
    robust accuracy is the share of them that still get their true label. The classifier runs in eval mode and
    gets its own modes back. All attacks with equal triggers share one forward pass.

    Args:
        classifier: module with ``spec``, from pixels to logits.
        images: all images, (n, C, H, W) uint8 or ``MixedImages``, the same in every process. C is the
            classifier's, 1 or 3.
        labels: their labels, (n,) integers.
        attacks: triggers with their targets; may be empty.
        per_class: whether to report the counts of every true class too.
        options: batch_size, device, shard, reduce, progress; see ``PassOptions``.

    Raises:
        InputError: logits have a wrong shape or are not finite. Before any work: data are empty or have a
            wrong shape, the classifier lacks a label or a target, a trigger does not fit, or all images are
            of one target.
    """
    check_inputs(classifier.spec, images, labels, attacks)
    work = _Work(classifier, attacks, **options)
    counts, _ = work.count(images, labels, keep=False)
    return _report(counts, attacks, classifier.spec, per_class=per_class)


def evaluate_answers(
    classifier: Evaluated,
    images: Tensor | MixedImages,
    labels: Tensor,
    attacks: Sequence[Attack] = (),
    *,
    per_class: bool = False,
    **options: Unpack[PassOptions],
) -> tuple[EvalReport, Answers]:
    """Returns the report of ``evaluate`` and the answer to every image, for paired tests.

    Arguments and errors are the same as for ``evaluate``, and there is also one pass. Each process fills in
    the answers of its shard, and ``reduce`` sums them, so every process gets all answers.
    """
    check_inputs(classifier.spec, images, labels, attacks)
    work = _Work(classifier, attacks, **options)
    counts, kept = work.count(images, labels, keep=True)
    report = _report(counts, attacks, classifier.spec, per_class=per_class)

    assert kept is not None, "asked for"
    row: dict[int, int] = {}
    for index, stamp in enumerate(work.stamps, start=1):
        row.update(dict.fromkeys(stamp.attacks, index))
    return report, Answers(kept[0], tuple(kept[row[place]] for place in range(len(attacks))))


def _device_of(classifier: Evaluated) -> torch.device:
    parameter = next(classifier.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _bar(starts: range, show: bool) -> Iterable[int]:
    return over(starts, len(starts), unit="batch", name="evaluate") if show else starts


class _Work:
    """Makes one pass over a share of the images and counts the answers."""

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
            raise InputError(
                f"batch_size {batch_size} and shard {place} leave no work; use a batch_size of 1 or more and "
                "a rank below the number of processes"
            )

        self.classifier = classifier
        self.device = torch.device(device) if device is not None else _device_of(classifier)
        self.stamps = [_stamp(attacks, places, self.device) for places in by_trigger(attacks)]
        self.columns = _HEAD + 2 * len(attacks)
        self.batch_size = batch_size
        self.reduce = reduce or distributed.sum_
        self.progress = progress

    def count(
        self, images: Tensor | MixedImages, labels: Tensor, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the counters over all processes and, with ``keep``, the answers.

        Returns:
            Counters, (classes + 1, columns), and answers, (1 + stamps, n): a row of the clean images, then a
            row for each stamp. Both are int64 on the CPU.
        """
        rows = self.classifier.spec.num_classes + 1
        counts = torch.zeros(rows, self.columns, dtype=torch.int64, device=self.device)
        kept = []
        own_images, own_labels = images[self.rank :: self.processes], labels[self.rank :: self.processes]
        starts = range(0, len(own_images), self.batch_size)

        with in_eval_mode(self.classifier), torch.inference_mode():
            for start in _bar(starts, show=self.progress and self.rank == 0):
                batch = slice(start, start + self.batch_size)
                truth = own_labels[batch].to(self.device, torch.int64)
                answers = self._add(counts, own_images[batch].to(self.device), truth)  # once for all attacks
                if keep:
                    kept.append(torch.stack(answers))

            counts = self.reduce(counts).cpu()
            all_answers = self.reduce(self._all(kept, len(images))).cpu() if keep else None
        return counts, all_answers

    def _add(self, counts: Tensor, images: Tensor | MixedImages, truth: Tensor) -> list[Tensor]:
        """Counts one batch on the device, without waiting for it."""
        answer, broken = self._answer(images, None)
        answers = [answer]
        seen = counts.new_zeros(len(truth), self.columns)
        seen[:, _IMAGES] = 1
        seen[:, _CORRECT] = (answer == truth).long()

        for stamp in self.stamps:
            answer, more_broken = self._answer(images, stamp.attack)
            others = truth[:, None] != stamp.targets
            seen[:, stamp.hits] = (others & (answer[:, None] == stamp.targets)).long()
            seen[:, stamp.hits + 1] = (others & (answer == truth)[:, None]).long()
            broken = broken + more_broken
            answers.append(answer)

        counts.index_add_(0, truth, seen)
        counts[:, _ANSWERS].index_add_(0, answers[0], seen[:, _IMAGES])
        counts[-1, 0] += broken
        return answers

    def _answer(self, images: Tensor | MixedImages, attack: Attack | None) -> tuple[Tensor, Tensor]:
        """Returns top-1 labels and the number of images with logits that are not finite."""
        answers = torch.empty(len(images), dtype=torch.int64, device=self.device)
        broken = answers.new_zeros(())
        for places, pixels in shown_pixels(self.classifier, images, attack, self.device):
            some, more = _answer(self.classifier, pixels)
            answers = some if places is None else answers.index_copy(0, places, some)
            broken = broken + more
        return answers, broken

    def _all(self, kept: list[Tensor], n: int) -> Tensor:
        """Puts the own answers at their places among all ``n``, with zero at all other places."""
        all_answers = torch.zeros(1 + len(self.stamps), n, dtype=torch.int64, device=self.device)
        if kept:
            all_answers[:, self.rank :: self.processes] = torch.cat(kept, dim=1)
        return all_answers


def _stamp(attacks: Sequence[Attack], places: list[int], device: torch.device) -> _Stamp:
    targets = torch.tensor([attacks[place].target for place in places], device=device)
    hits = torch.tensor([_HEAD + 2 * place for place in places], device=device)
    return _Stamp(attacks[places[0]], tuple(places), targets, hits)


def _answer(classifier: Evaluated, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns top-1 labels and the number of images with logits that are not finite."""
    logits = classifier(pixels)
    expected = (len(pixels), classifier.spec.num_classes)
    if logits.shape != expected:
        raise InputError(f"the classifier gives logits {tuple(logits.shape)} where {expected} are expected")
    # argmax takes NaN for the largest logit, so these images are counted apart.
    return logits.argmax(1), (~logits.isfinite().all(1)).sum()


def _report(counts: Tensor, attacks: Sequence[Attack], spec: DataSpec, *, per_class: bool) -> EvalReport:
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
        options = dict(attack.options)
        reports.append(TriggerReport(attack.name, attack.target, options, *rates, trigger_on=attack.on))

    largest = [max(row[column] for row in rows) / total[_IMAGES] for column in (_IMAGES, _ANSWERS)]
    return EvalReport(
        wilson(total[_CORRECT], total[_IMAGES]),
        tuple(reports),
        per_class=_classes(rows, attacks, spec.labels) if per_class else None,
        classes=spec.num_classes,
        largest_class=largest[0],
        largest_answer=largest[1],
    )


def _classes(
    rows: list[list[int]], attacks: Sequence[Attack], names: Sequence[str]
) -> tuple[ClassReport, ...]:
    reports = []
    for label, row in enumerate(rows):
        attacked = []
        for place, attack in enumerate(attacks):
            hits, robust = row[_HEAD + 2 * place : _HEAD + 2 * place + 2]
            n = 0 if attack.target == label else row[_IMAGES]
            attacked.append(AttackedClass(n, hits, robust))
        reports.append(ClassReport(label, names[label], row[_IMAGES], row[_CORRECT], tuple(attacked)))
    return tuple(reports)
