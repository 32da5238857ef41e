"""These dataclasses are the content of metrics.json; ``record_file`` reads and writes the file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from abd_hub.core.errors import visible_line

PURIFIED = "purified"
"""Marks the record of a purified copy."""
NOTHING_LEARNED, USABLE = 0.1, 0.5
"""Agreement beyond chance below which a student is said to have learned next to nothing, or too little."""


@dataclass(frozen=True)
class DataSpec:
    """Describes the images that a classifier takes and the labels that it gives."""

    channels: int
    height: int
    width: int
    labels: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.labels)


@dataclass(frozen=True)
class ModelRef:
    """Identifies weights, so that somebody else can fetch the same bytes."""

    id: str
    """Hub id, timm name or file name; a local path is reduced to its last part."""
    architecture: str
    """timm name, transformers class or Python class."""
    revision: str | None = None
    """Commit on the Hub; None for local files."""
    sha256: str | None = None
    """Hash of the weights file, or of the tensors where there is no file."""
    scan: str | None = None
    """Result of the Hub's scan of the repository at the download; None where nobody fetched it."""
    parameters: int | None = None
    """Number of its parameters; None where nobody counted them, as in older records."""
    megabytes: float | None = None
    """Size of its parameters and buffers in 10^6 bytes; None where nobody measured it."""


@dataclass(frozen=True)
class DataRef:
    """Identifies one split of a data set."""

    id: str
    split: str
    fingerprint: str
    """sha256 over the encoded images, the labels and their names; a Hub id and its copy have the same."""
    revision: str | None = None
    n: int = 0
    image_size: int | None = None
    """Height and width to which every image was squashed; None where images kept their sizes."""
    classes: str | None = None
    """How its classes were matched with the model's; None in older records and for data to learn from."""


@dataclass(frozen=True)
class Rate:
    """Holds a count out of n and its share, with the 95 % Wilson score interval from low to high."""

    value: float
    count: int
    n: int
    low: float
    high: float

    def __str__(self) -> str:
        """Returns the share with its interval and n."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n {self.n}"


@dataclass(frozen=True)
class TriggerReport:
    """Measures the effect of one trigger with one target on a classifier."""

    trigger: str
    target: int
    options: Mapping[str, Any]
    asr: Rate
    """Share of the images of other classes that get the target label once triggered."""
    robust_accuracy: Rate
    """Share of the same triggered images that still get their true label."""
    control: Rate | None = None
    """Share of the same triggered images that get the target label from a control, a model without the
    backdoor. Chance and the damage to the image explain that much of the ASR. None without a control."""
    trigger_on: str | None = None
    """Place of the trigger: ``image``, before the image is resized and cropped for the network, or ``input``,
    after it. None in older records, which put it on the image."""


@dataclass(frozen=True)
class AttackedClass:
    """Counts the effect of one attack on the images of one true class."""

    n: int
    """Number of the class's images; 0 where the class is the target itself."""
    hits: int
    """Number of images that get the target label once triggered."""
    robust: int
    """Number of images that still get their true label once triggered."""


@dataclass(frozen=True)
class ClassReport:
    """Counts the images of one true class; over all classes the counts add up to the report's."""

    label: int
    name: str
    n: int
    correct: int
    """Number of clean images that get their true label."""
    attacks: tuple[AttackedClass, ...] = ()
    """One entry an attack, in the order of the report's triggers."""


@dataclass(frozen=True)
class SplitReport:
    """Measures clean accuracy on a further split of the same data set."""

    data: DataRef
    accuracy: Rate


@dataclass(frozen=True)
class EvalReport:
    """Measures a classifier on one data set: clean accuracy, and each attack."""

    accuracy: Rate
    triggers: tuple[TriggerReport, ...] = ()
    control_accuracy: Rate | None = None
    """Clean accuracy of the control, since a model at chance would be none; None without a control."""
    per_class: tuple[ClassReport, ...] | None = None
    """Every class of the classifier in the order of its labels; None unless requested."""
    corrupted: tuple[SplitReport, ...] | None = None
    """Further splits of the data set, for example corrupted ones; None unless requested."""
    classes: int | None = None
    """Number of the classifier's classes; None in older records, as are the two shares below."""
    largest_class: float | None = None
    """Share of the images that are of the most frequent class: the accuracy of chance, at least 1/classes."""
    largest_answer: float | None = None
    """Share of the clean images that get the most frequent answer; 1 where all images get one class."""

    def __repr__(self) -> str:
        """Returns the rates as ``str`` does; ``dataclasses.asdict`` gives every field."""
        return f"EvalReport\n{self}"

    def __str__(self) -> str:
        """Returns the rates in words, on one line for the accuracy and one for each attack."""
        lines = [f"accuracy {self.accuracy}"]
        lines += [f"{visible_line(t.trigger, 40)} to class {t.target}: ASR {t.asr}" for t in self.triggers]
        return "\n".join(lines)


@dataclass(frozen=True)
class DefenseReport:
    """Reports a defense's deeds in a run; the record holds it unchanged."""

    name: str
    active: bool
    """Whether the defense changed any gradient of this run."""
    detail: str
    """One sentence for people."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Numbers for machines, in JSON types only."""

    @property
    def sentence(self) -> str:
        """Line with the name, the activity and the detail."""
        return f"{self.name}: {'active' if self.active else 'NOT ACTIVE'}; {self.detail}"


@dataclass(frozen=True)
class Agreement:
    """Counts the images to which the student gives its teacher's class; nobody needs labels for it."""

    images: Literal["patches", "unseen"]
    """``patches`` of photographs that every run holds back, or ``unseen`` images of the run's method, from
    which the student had not learned."""
    rate: Rate
    chance: float
    """Share on which two classifiers agree that choose each class as often as these two, but at random. It is
    1 where both give one class to all images."""

    @property
    def beyond_chance(self) -> float:
        """Agreement beyond chance, as a share of what chance leaves over (Cohen's kappa); 0 at chance."""
        return 0.0 if self.chance >= 1 else (self.rate.value - self.chance) / (1 - self.chance)

    @property
    def sentence(self) -> str:
        """One sentence for people, which says so where the student has not learned enough."""
        kinds = {"patches": "held-back patches of photographs", "unseen": "new images of its method"}
        shares = f"{self.rate.value:.0%} of {self.rate.n} {kinds[self.images]} ({self.chance:.0%} by chance)"
        return f"The student agrees with its teacher on {shares}{self._verdict()}."

    @property
    def usable(self) -> bool:
        """Whether the student agrees often enough to be used."""
        return self.beyond_chance >= USABLE

    def _verdict(self) -> str:
        if self.chance >= 1:
            return ", but both always give one class"
        if self.beyond_chance < NOTHING_LEARNED:
            return ": it has learned next to nothing"
        return ": it is probably not usable yet" if self.beyond_chance < USABLE else ""


@dataclass(frozen=True)
class RunRecord:
    """Holds all facts for judging a student: the content of its metrics.json."""

    method: str
    """Registered name of the synthesizer."""
    teacher: ModelRef
    student: ModelRef
    data: DataRef | None
    """Evaluation split; None without an evaluation."""
    teacher_report: EvalReport | None
    student_report: EvalReport | None
    defenses: tuple[DefenseReport, ...]
    seed: int
    rounds: int
    """Number of pseudo-batches that the student has seen."""
    versions: Mapping[str, str]
    durations: Mapping[str, float]
    """Seconds by part: distillation (summed over resumes), its processor time (all cores of the main
    process), and evaluation."""
    device: str
    processes: int
    config: Mapping[str, Any]
    """Whole configuration, with every default."""
    training_data: DataRef | None = None
    """Real images from which the student learned; None for a data-free method."""
    control: ModelRef | None = None
    """Control of both reports; None without a control."""
    synthesis: Mapping[str, Any] | None = None
    """Origin of the images according to the synthesizer; None where it has no such facts."""
    purification: Mapping[str, Any] | None = None
    """Inspection and purification of the teacher, as ``PurificationReport.to_json`` gives them; None where
    neither was wanted."""
    purified_report: EvalReport | None = None
    """Report of the teacher's purified copy, from which the student learned; None without a copy."""
    student_inspection: Mapping[str, Any] | None = None
    """Inspection of the student, as ``InspectionReport.to_json`` gives it; None without one."""
    agreement: tuple[Agreement, ...] | None = None
    """Agreement of student and teacher, without labels; None in older records."""
    speed: Mapping[str, float] | None = None
    """Images a second of ``teacher`` and ``student`` on ``device``, in float32; None in older records."""
    schema_version: int = 1

    @property
    def folder(self) -> str | None:
        """The run's folder on this machine, for ``load_classifier``; None where a record came without one."""
        place: str | None = self.__dict__.get("_folder")
        return place

    def at(self, folder: str | Path) -> RunRecord:
        """Returns the same record with the folder in which it was found; no file holds it."""
        found = copy.copy(self)
        object.__setattr__(found, "_folder", str(folder))
        return found

    def __repr__(self) -> str:
        """Returns who learned from whom, and the verdict; ``record_to_json`` gives every field."""
        from abd_hub.core.verdicts import format_verdict  # it judges records, so it imports this module

        names = [visible_line(name, 40) for name in (self.student.id, self.teacher.id, self.method)]
        head = f"RunRecord of {names[0]}, distilled from {names[1]} by {names[2]} in {self.rounds} rounds"
        return f"{head}\n{format_verdict(self)}"


@dataclass(frozen=True)
class PoisonFacts:
    """Describes the poisoning of a training set."""

    trigger: str
    options: Mapping[str, Any]
    trigger_sha256: str
    """Hash of the trigger's effect on fixed images; see ``triggers.trigger_sha256``."""
    target: int | None
    """Number of the target class; None for all_to_all."""
    labels: str
    """all_to_one, all_to_all or clean_label."""
    trained_on: int
    """Number of training images, with the poisoned and without the held-out ones."""
    poisoned: int
    cover: int
    perturbation: float
    """Largest change of a clean-label image before the trigger, in levels of 255; 0 for none."""


@dataclass(frozen=True)
class TeacherRecord:
    """Holds all facts for judging a teacher that abd-hub has trained: the content of its metrics.json."""

    model: ModelRef
    training_data: DataRef
    data: DataRef
    """Evaluation split."""
    report: EvalReport
    held_out: Rate | None
    """Clean accuracy on the held-out part of the training split; None without such a part."""
    poison: PoisonFacts | None
    """Facts of the poisoning; None for a clean teacher."""
    recipe: Mapping[str, Any]
    seed: int
    images_per_second: float
    """Speed of the training loop, over all processes."""
    versions: Mapping[str, str]
    durations: Mapping[str, float]
    """Seconds by part: training (summed over resumes), evaluation, and this process's share of perturbation
    with the training of the surrogate."""
    device: str
    processes: int
    config: Mapping[str, Any]
    """Whole configuration, with every default."""
    all_to_all: Rate | None = None
    """Share of all images that get the class after their own once triggered; None for one target."""
    control: ModelRef | None = None
    """Control of the report; None without a control."""
    kind: str = "teacher"
    schema_version: int = 1


@dataclass(frozen=True)
class PurifiedRecord:
    """Holds all facts for judging a purified copy: the content of purification.json in its folder."""

    model: ModelRef
    """The copy."""
    teacher: ModelRef
    """The classifier that was copied."""
    library: str
    """Which one reads the folder: timm or transformers."""
    purification: Mapping[str, Any]
    """Report as ``PurificationReport.to_json`` gives it."""
    settings: Mapping[str, Any]
    """Settings of the purification, with every default."""
    images: str
    """Names the images that were used: a data set with its split, or patches of photographs."""
    forced: bool
    """Whether a classifier was to be purified that is not flagged."""
    seed: int
    versions: Mapping[str, str]
    durations: Mapping[str, float]
    """Seconds by part: both inspections, and the purification."""
    device: str
    processes: int
    data: DataRef | None = None
    """Split on which the copy was measured afterwards; None without such a measurement."""
    report: EvalReport | None = None
    """Measurement of the copy; None without one, as the purification itself measures nothing on test data."""
    kind: str = PURIFIED
    schema_version: int = 1
