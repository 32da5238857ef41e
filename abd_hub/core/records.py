"""What metrics.json holds, as dataclasses; nothing here reads or writes a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DataSpec:
    """What kind of images a classifier takes and which labels it gives."""

    channels: int
    height: int
    width: int
    labels: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.labels)


@dataclass(frozen=True)
class ModelRef:
    """Which weights exactly: enough for somebody else to fetch the same bytes."""

    id: str
    """Hub id, timm name or file name; a local path is reduced to its last part."""
    architecture: str
    """timm name, transformers class or Python class."""
    revision: str | None = None
    """Commit on the Hub; None for local files."""
    sha256: str | None = None
    """Of the weights file, or of the tensors where there is no file."""
    scan: str | None = None
    """What the Hub's scan of the repository said at the download; None where it was not asked."""


@dataclass(frozen=True)
class DataRef:
    """Which data exactly."""

    id: str
    split: str
    fingerprint: str
    """sha256 over the encoded images, the labels and their names: the same for a Hub id and a copy of it."""
    revision: str | None = None
    n: int = 0
    image_size: int | None = None
    """Height and width that every image was resized to; None where they are as they came."""


@dataclass(frozen=True)
class Rate:
    """A count out of n with its 95 % Wilson score interval, all as fractions."""

    value: float
    count: int
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class TriggerReport:
    """What one trigger with one target does to a classifier."""

    trigger: str
    target: int
    options: Mapping[str, Any]
    asr: Rate
    """Share of images of other classes that are given the target label once triggered."""
    robust_accuracy: Rate
    """Share of the same triggered images that are still given their true label."""
    control: Rate | None = None
    """Share of the same triggered images that a control, a model without the backdoor, gives the target
    label: the ASR that chance and the damage done to the image explain. None without a control."""


@dataclass(frozen=True)
class AttackedClass:
    """What one attack does to the images of one true class."""

    n: int
    """Images of the class that count: all, or none where the class is the target itself."""
    hits: int
    """Given the target label once triggered."""
    robust: int
    """Still given their true label once triggered."""


@dataclass(frozen=True)
class ClassReport:
    """The counts of one true class; over all classes they add up to those of the report."""

    label: int
    name: str
    n: int
    correct: int
    """Given their true label when clean."""
    attacks: tuple[AttackedClass, ...] = ()
    """One an attack, in the order of the report's triggers."""


@dataclass(frozen=True)
class SplitReport:
    """Clean accuracy on a further split of the same data set."""

    data: DataRef
    accuracy: Rate


@dataclass(frozen=True)
class EvalReport:
    """Clean accuracy, and one report a trigger, over one data set."""

    accuracy: Rate
    triggers: tuple[TriggerReport, ...] = ()
    control_accuracy: Rate | None = None
    """Clean accuracy of the control: one that is at chance is no control. None without a control."""
    per_class: tuple[ClassReport, ...] | None = None
    """Every class of the classifier in the order of its labels; None where it was not asked for."""
    corrupted: tuple[SplitReport, ...] | None = None
    """Further splits of the data set, corrupted ones for example; None where none was asked for."""


@dataclass(frozen=True)
class DefenseReport:
    """What a defense did in a run: goes into the record as it stands."""

    name: str
    active: bool
    """Whether it changed any gradient of this run."""
    detail: str
    """One sentence for people."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Numbers for machines, JSON types only."""

    @property
    def sentence(self) -> str:
        """Name, whether it was active, and the detail."""
        return f"{self.name}: {'active' if self.active else 'NOT ACTIVE'}; {self.detail}"


@dataclass(frozen=True)
class RunRecord:
    """Everything a reader needs to judge a student: the content of metrics.json."""

    method: str
    """Registered name of the synthesizer."""
    teacher: ModelRef
    student: ModelRef
    data: DataRef | None
    """The evaluation split; None when nothing was evaluated."""
    teacher_report: EvalReport | None
    student_report: EvalReport | None
    defenses: tuple[DefenseReport, ...]
    seed: int
    rounds: int
    """Pseudo-batches the student has seen."""
    versions: Mapping[str, str]
    durations: Mapping[str, float]
    """Seconds by part: distillation (summed over resumes), the processor's seconds in it (all cores of the
    main process), and evaluation."""
    device: str
    processes: int
    config: Mapping[str, Any]
    """The whole configuration, defaults included, so that no default stays unseen."""
    training_data: DataRef | None = None
    """Real images that the student learned from; None for a data-free method."""
    control: ModelRef | None = None
    """The control of both reports; None where none was measured."""
    synthesis: Mapping[str, Any] | None = None
    """What the synthesizer tells about where its images came from; None where it tells nothing."""
    schema_version: int = 1


@dataclass(frozen=True)
class PoisonFacts:
    """How a training set was poisoned."""

    trigger: str
    options: Mapping[str, Any]
    trigger_sha256: str
    """Of what the trigger does to fixed images, see ``trigger_sha256``."""
    target: int | None
    """None for all_to_all."""
    labels: str
    """all_to_one, all_to_all or clean_label."""
    trained_on: int
    """Images in the training set, poisoned ones included, held-out ones not."""
    poisoned: int
    cover: int
    perturbation: float
    """Largest change of a clean-label image before the trigger, of 255; 0 for none."""


@dataclass(frozen=True)
class TeacherRecord:
    """Everything a reader needs to judge a teacher that was trained here: its metrics.json."""

    model: ModelRef
    training_data: DataRef
    data: DataRef
    """The evaluation split."""
    report: EvalReport
    held_out: Rate | None
    """Clean accuracy on the part of the training split that was held out; None where nothing was."""
    poison: PoisonFacts | None
    """None for a clean teacher."""
    recipe: Mapping[str, Any]
    seed: int
    images_per_second: float
    """Of the training loop, over all processes."""
    versions: Mapping[str, str]
    durations: Mapping[str, float]
    """Seconds by part: training (summed over resumes) and evaluation; perturbation, with the training of the
    surrogate, as far as this process did it."""
    device: str
    processes: int
    config: Mapping[str, Any]
    """The whole configuration, defaults included."""
    all_to_all: Rate | None = None
    """Share of all images that are given the class after their own once triggered; None for one target."""
    control: ModelRef | None = None
    """The control of the report; None where none was measured."""
    kind: str = "teacher"
    schema_version: int = 1
