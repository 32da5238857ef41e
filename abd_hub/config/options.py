"""This module configures a run: one set of dataclasses serves Python, YAML and the command line.

YAML and the command line name a plug-in and put its settings in a group of that name: ``synthesizer: zskt``
and ``zskt: {rounds: 600}``. Python takes the plug-in's dataclass: ``synthesizer=Zskt(rounds=600)``. The
docstrings of the fields are the help of the command line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from abd_hub.config.durations import parse_duration
from abd_hub.config.planned import check_planned
from abd_hub.core import registry
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.core.errors import InputError
from abd_hub.core.purifications import Purification
from abd_hub.core.settings import Count, CountOrNone, CountOrZero, Positive, Settings

AUTO_NAME: Final = "auto"
"""Stands for a choice by teacher and device."""
DEFAULT_BUDGETS = {True: "30m", False: "10m"}
"""Time of a run without rounds and budget, on a processor (True) and on an accelerator."""


@dataclass(frozen=True, kw_only=True)
class Automatic(SynthesisMethod, place="auto"):
    """Stands for the method that a run chooses when it has loaded its teacher; none of its fields counts."""

    rounds: int = 1
    batch_size: int = 1
    student_steps: int = 1
    learning_rate: float = 1.0
    clip_norm: float = 0.0
    temperature: float = 1.0
    attention_weight: float = 0.0

    def build(self, teacher: Any, accelerator: Any, seed: int, images: Any = None) -> Any:
        """Makes nothing, because a run replaces this method before."""
        raise NotImplementedError("a run chooses the method first")


AUTO = Automatic()


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Says where a classifier comes from; its checkpoint supplies most of the other fields."""

    id: str
    """Names the model by a timm name, hf-hub:org/name[@revision], local-dir:FOLDER, a transformers checkpoint
    (Hub id or folder), or a file of weights for ``architecture``."""
    revision: str | None = None
    """Selects a branch, tag or commit on the Hub; the run pins it to a commit and records that."""
    architecture: str | None = None
    """Names the timm network of a bare file of weights."""
    allow_pickle: bool = False
    """Reads .pth, .pt and .bin files too, tensors only (torch's weights_only)."""
    allow_flagged: bool = False
    """Accepts a repository in which the Hub's own scan has flagged a file; the record says so."""
    max_size_gb: float = 5.0
    """Limits a download from the Hub, in GB of 10^9 bytes."""
    num_classes: int | None = None
    """Sets the number of classes, where the checkpoint lacks it."""
    labels: list[str] | None = None
    """Names the classes, where the checkpoint lacks names."""
    mean: list[float] | None = None
    """Sets the mean of each channel in pixel units, where the checkpoint lacks it; 0 for no shift."""
    std: list[float] | None = None
    """Sets each channel's standard deviation in pixel units, where the checkpoint lacks it; 1 for no
    scaling."""
    input_size: int | None = None
    """Sets height and width of the input in pixels, where the checkpoint lacks them; the ratio of resize to
    crop stays."""
    interpolation: str | None = None
    """Resizes images by a filter of Pillow: nearest, bilinear, bicubic, lanczos, box or hamming."""
    crop_pct: float | None = None
    """Resizes images to the input's side over this number before the crop. With 1, only what is too long is
    cut off. The checkpoint's number is used by default."""
    crop_mode: str | None = None
    """Makes images of another shape fit: center cuts off what is too long, squash resizes the whole image
    without a crop, border adds a margin. The checkpoint's mode is used by default."""
    blocks: list[str] = field(default_factory=list)
    """Lists the modules whose outputs attention transfer compares, where the architecture names none."""
    model_args: dict[str, Any] | None = None
    """Passes further arguments to timm's architecture. For a ResNet with a 3x3 stem, {stem_pool: true} keeps
    its max-pool, and {stem_stride: 2} sets its stride."""


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """Describes the student's network."""

    architecture: str = AUTO_NAME
    """Names a timm network or one of abd-hub's own, which abd-hub list students shows; auto chooses one by
    the size of the teacher and of its images."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passes further arguments to the architecture, such as {base_width: 8}."""
    pretrained: bool = False
    """Starts from timm's pretrained weights."""


@dataclass(frozen=True, kw_only=True)
class TriggerOptions:
    """Describes one attack to measure."""

    name: str
    """Names a trigger of abd-hub list triggers."""
    target: int
    """Sets the number of the class to which the backdoor leads."""
    options: dict[str, Any] = field(default_factory=dict)
    """Sets the trigger's own fields, such as {size: 2}."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(Settings, place="data"):
    """Names a split of a data set of labeled images, and says how it is read."""

    dataset: str | None
    """Names the data, a Hub id, a local folder, or digits (from scikit-learn)."""
    dataset_config: str | None = None
    """Selects a configuration of the data set, where it has several."""
    revision: str | None = None
    """Selects a branch, tag or commit of the data set."""
    split: str = "test"
    """Selects the split."""
    image_column: str | None = None
    """Names the column of the images, where the data set has several."""
    label_column: str | None = None
    """Names the column of the labels, where the data set has several."""
    limit: CountOrNone = None
    """Uses only this many images from the start of the split."""
    image_size: CountOrNone = None
    """Squashes every image to this height and width in pixels, whatever its shape, before anything else. An
    evaluation does not need it: each image is resized and cropped at its own size, as the model's own library
    does it."""
    max_size_gb: Positive = 5.0
    """Limits the GB of the split's files on the Hub, and of its decoded images in memory."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(DataOptions, place="evaluation"):
    """Describes data and attacks for measuring teacher and student; no choice in a run depends on them."""

    dataset: str | None = None
    """Names the data to measure on, a Hub id, a local folder, or digits (from scikit-learn). Without it
    nothing is measured."""
    triggers: list[TriggerOptions] = field(default_factory=list)
    """Lists the attacks to measure, such as [{name: badnet_sq, target: 0}]; attacks with the same trigger
    and several targets cost one forward pass."""
    trigger_on: Literal["image", "input"] = "image"
    """Puts the trigger on the image, as an attacker changes a file, before the image is resized and cropped
    for the model; input puts it on the model's input, after that."""
    control: ModelOptions | None = None
    """Measures a model without the backdoor as well, such as {id: FOLDER} of a clean teacher. Beside every
    ASR stands the rate at which this model gives the target to the same triggered images."""
    corrupted_splits: list[str] = field(default_factory=list)
    """Measures clean accuracy on these splits of the data set as well, for example corrupted ones."""
    per_class: bool = False
    """Counts for each true class as well."""
    batch_size: Count = 256
    """Sets the number of images in a forward pass."""
    every: CountOrZero = 0
    """Measures each time after so many rounds (0 for never), for the student's curves in log.jsonl. The data
    are the same as in the last measurement, and nothing in a run depends on the curves."""
    every_images: Count = 1000
    """Limits the images of these measurements, which are spread evenly over the split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is not None and not self.dataset.strip():
            raise InputError("evaluation.dataset: is empty; give a Hub id or folder, or leave it out")
        known = [self.split]
        for split in self.corrupted_splits:
            if split in known:
                raise InputError(
                    f"evaluation.corrupted_splits: {split!r} is named twice; name each split once"
                )
            known.append(split)


def _compilers() -> list[str]:
    """Returns the backends of torch.compile that need no package beyond torch."""
    import torch  # It takes seconds, and most runs compile nothing.

    return ["aot_eager", *(name for name in torch.compiler.list_backends() if name not in ("openxla", "tvm"))]


@dataclass(frozen=True, kw_only=True)
class TrainerOptions(Settings, place="trainer"):
    """Describes how a run is carried out; method and defenses decide on its result."""

    mixed_precision: Literal["no", "bf16", "fp16", "auto"] = "no"
    """Computes in this precision, where no means float32 and auto bf16 on devices with units for it. KL
    divergences and self-retrospection stay in float32."""
    dynamo_backend: str = "no"
    """Compiles the networks' passes in the student's steps by this backend of torch.compile: no, aot_eager or
    one of torch.compiler.list_backends(), such as inductor. Self-retrospection and the images' losses are not
    compiled."""
    checkpoint_every: CountOrZero = 500
    """Writes a checkpoint each time after so many rounds (0 for never)."""
    checkpoint_limit: Count = 2
    """Keeps this many of the newest checkpoints."""
    log_every: Count = 20
    """Writes a line of log.jsonl each time after so many rounds, with means over them."""
    trackers: list[str] = field(default_factory=list)
    """Reports to these trackers of accelerate as well, for example trackio or tensorboard."""
    progress: bool = True
    """Shows a bar on a terminal, and lines in a file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # torch takes 1.5 s to list its compilers.
        if self.dynamo_backend != "no" and self.dynamo_backend not in _compilers():
            raise InputError(
                f"trainer.dynamo_backend: must be no or one of {', '.join(_compilers())}, got "
                f"{self.dynamo_backend!r}"
            )


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Sends a finished run to the Hub. No record holds these fields, because no result depends on them."""

    push_to_hub: bool = False
    """Pushes the finished folder to the Hub; a push that must fail is refused before the work begins."""
    hub_model_id: str | None = None
    """Names the repository as owner/name; by default it has output_dir's name and the token's account."""
    hub_private_repo: bool = False
    """Makes the repository private; an existing public one is refused."""

    def __post_init__(self) -> None:
        for name in ("hub_model_id", "hub_private_repo"):
            if getattr(self, name) and not self.push_to_hub:
                raise InputError(f"{name}: is only used with push_to_hub; set push_to_hub or leave it out")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(PushOptions):
    """Describes one distillation, from a teacher to an output folder."""

    output_dir: str
    """Names the folder of the run; it must be new, or with ``resume`` hold the same run unfinished."""
    teacher: ModelOptions
    """Names the classifier to distill."""
    student: StudentOptions = field(default_factory=StudentOptions)
    """Describes the network to train."""
    synthesizer: SynthesisMethod = AUTO
    """Makes the images; YAML gives the method's name. ``AUTO`` or "auto" chooses by teacher and device."""
    defenses: Sequence[Any] = ()
    """Act against the backdoor; YAML gives a list of their names."""
    purification: Purification | Literal["auto", "none"] = "auto"
    """Cleans the teacher before the first round: auto inspects it and unlearns what is flagged, none leaves
    it as it is and inspects neither teacher nor student, and the settings of a purification run this one;
    YAML gives the name. With auto, and in all inspections, networks run in bf16 where
    ``trainer.mixed_precision`` is bf16."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    """Describes the measurement at the end."""
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    """Describes how the run is carried out."""
    budget: str | None = None
    """Limits the time of the whole run, such as 90s, 20m or 1h30m: the machine is timed, and the number of
    rounds follows, with the settings that depend on it. With auto it is 30m on a processor and 10m on an
    accelerator."""
    planned_rounds: list[list[int]] = field(default_factory=list)
    """Lists pairs of a round and the number of all rounds on which the schedules count from there on. A run
    with a budget writes them, and a run without one repeats it with them."""
    seed: int = 0
    """Seeds every random draw."""
    resume: bool = False
    """Continues the run in output_dir from its newest checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.purification in ("auto", "none") or isinstance(self.purification, Purification)
        if not known:
            raise InputError(
                "purification: must be auto, none or the settings of a purification, "
                f"got {self.purification!r}"
            )
        if self.synthesizer == AUTO_NAME:  # type: ignore[comparison-overlap]
            object.__setattr__(self, "synthesizer", AUTO)
        if self.synthesizer is AUTO and self.budget is None:
            object.__setattr__(self, "budget", AUTO_NAME)
        if self.budget not in (None, AUTO_NAME):
            parse_duration(str(self.budget), "budget")
        if self.planned_rounds and self.budget is not None:
            raise InputError("planned_rounds: follow from the budget; leave out one of the two")
        rounds = 0 if self.synthesizer is AUTO else self.synthesizer.rounds
        check_planned(self.planned_rounds, "round", rounds, "method", resume=self.resume)
        refuse_infinite(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of config.yaml, with plug-ins by name and with every default."""
        automatic = self.synthesizer is AUTO
        plugins: list[Any] = [*([] if automatic else [self.synthesizer]), *self.defenses]
        purification: str = "none"
        if isinstance(self.purification, Purification):
            plugins.append(self.purification)
            purification = plugin_name("purifications", self.purification)
        else:
            purification = self.purification
        settings: dict[str, Any] = {
            "output_dir": Path(self.output_dir).resolve().name,
            "teacher": dataclasses.asdict(self.teacher),
            "student": dataclasses.asdict(self.student),
            "synthesizer": AUTO_NAME if automatic else plugin_name("synthesizers", self.synthesizer),
            "defenses": [plugin_name("defenses", defense) for defense in self.defenses],
            "purification": purification,
            "evaluation": dataclasses.asdict(self.evaluation),
            "trainer": dataclasses.asdict(self.trainer),
            "budget": self.budget,
            "planned_rounds": [list(pair) for pair in self.planned_rounds],
            "seed": self.seed,
        }
        names = [*([] if automatic else [settings["synthesizer"]]), *settings["defenses"]]
        names += [purification] if len(plugins) > len(names) else []
        return settings | {name: dataclasses.asdict(p) for name, p in zip(names, plugins, strict=True)}

    def to_yaml(self, *, shared: bool = False) -> str:
        """Returns ``to_dict`` as YAML for ``abd-hub distill --config``; ``shared`` drops local paths."""
        settings = without_paths(self.to_dict()) if shared else self.to_dict()
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def refuse_infinite(settings: Mapping[str, Any]) -> None:
    """Refuses infinity and NaN anywhere in a configuration.

    Raises:
        InputError: a number is not finite; the message names its field.
    """
    for name, value in _numbers(settings):
        if not math.isfinite(value):
            raise InputError(f"{name}: must be a finite number, got {value}")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yields every float in a configuration with its dotted name."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, name)


def plugin_name(kind: str, plugin: Any) -> str:
    """Returns the registered name of a plug-in, whose settings are given.

    Raises:
        InputError: its class is not registered.
    """
    for entry in registry.catalog(kind):
        if entry.module == type(plugin).__module__ and registry.get(kind, entry.name) is type(plugin):
            return entry.name
    raise InputError(f"{kind}: {type(plugin).__name__} is not registered; decorate it with @register")


def without_paths(value: Any) -> Any:
    """Returns the same nested value with local paths cut to their last part, for records that are shared."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value

    prefix = "local-dir:" if value.startswith("local-dir:") else ""
    path = value.removeprefix(prefix)
    is_path = bool(prefix) or ("/" in path and Path(path).expanduser().exists())
    return prefix + Path(path).name if is_path else value
