"""The configuration of a run: one set of dataclasses for Python, YAML and the command line.

In YAML and on the command line a plug-in is chosen by its registered name, and its settings stand in a
group of that name (``synthesizer: zskt`` and ``zskt: {rounds: 600}``). In Python the plug-in's dataclass is
given itself (``synthesizer=Zskt(rounds=600)``). Field docstrings are the command line's help.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from abd_hub.core import registry
from abd_hub.core.contracts import SynthesisMethod
from abd_hub.core.errors import InputError
from abd_hub.core.settings import Count, CountOrNone, CountOrZero, Settings


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where a classifier comes from. What its checkpoint states need not be given."""

    id: str
    """timm name, hf-hub:org/name[@revision], local-dir:FOLDER, a transformers checkpoint (Hub id or folder),
    or a file of weights for ``architecture``."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; it is pinned to a commit and recorded."""
    architecture: str | None = None
    """timm name of the network that a bare file of weights belongs to."""
    allow_pickle: bool = False
    """Read .pth, .pt and .bin files too, tensors only (torch's weights_only)."""
    allow_flagged: bool = False
    """Use a repository although the Hub's own scan has flagged a file in it; the record says so."""
    max_size_gb: float = 5.0
    """Most to download from the Hub, in GB of 10^9 bytes."""
    num_classes: int | None = None
    """Number of classes, where the checkpoint does not say."""
    labels: list[str] | None = None
    """Names of the classes, where the checkpoint does not say."""
    mean: list[float] | None = None
    """Mean of each channel in pixel units, where the checkpoint does not say; 0 for no normalization."""
    std: list[float] | None = None
    """Standard deviation of each channel in pixel units, where the checkpoint does not say; 1 for none."""
    input_size: int | None = None
    """Height and width of the input in pixels, where the checkpoint does not say."""
    interpolation: str | None = None
    """bilinear, bicubic or nearest, for images of another size."""
    blocks: list[str] = field(default_factory=list)
    """Modules whose outputs are compared by attention transfer, where the architecture does not say."""


@dataclass(frozen=True, kw_only=True)
class StudentOptions:
    """The network that is trained."""

    architecture: str = "wrn_16_1"
    """timm name, or one of abd-hub's own: see abd-hub list students."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the architecture."""
    pretrained: bool = False
    """Begin with timm's pretrained weights."""


@dataclass(frozen=True, kw_only=True)
class TriggerOptions:
    """One attack to measure."""

    name: str
    """Registered name: see abd-hub list triggers."""
    target: int
    """Class that the backdoor leads to."""
    options: dict[str, Any] = field(default_factory=dict)
    """The trigger's own fields."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Settings, place="evaluation"):
    """What teacher and student are measured on. No choice in a run depends on it."""

    dataset: str | None = None
    """Hub id, local folder, or digits (comes with scikit-learn); without it nothing is measured."""
    dataset_config: str | None = None
    """Configuration of the data set, where it has several."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    split: str = "test"
    """Split to measure on."""
    image_column: str | None = None
    """Column of the images, where it is not the only one."""
    label_column: str | None = None
    """Column of the labels, where it is not the only one."""
    triggers: list[TriggerOptions] = field(default_factory=list)
    """Attacks to measure; those with the same trigger and several targets cost one forward pass."""
    control: ModelOptions | None = None
    """A model without the backdoor (a clean teacher, or a student that learned from clean data): how often
    it chooses the target on the same triggered images stands beside every ASR."""
    corrupted_splits: list[str] = field(default_factory=list)
    """Further splits of the same data set, for example corrupted ones: clean accuracy on each."""
    per_class: bool = False
    """Count for each true class as well."""
    limit: CountOrNone = None
    """Use only so many images from the start of the split."""
    image_size: CountOrNone = None
    """Resize every image to so many pixels in height and width, for data sets of several sizes."""
    batch_size: Count = 256
    """Images at a time."""
    every: CountOrZero = 0
    """Rounds between measurements while the student learns, for its curves in log.jsonl; 0 for none. They
    look at the same data as the last measurement, so nothing in a run depends on them."""
    every_images: Count = 1000
    """Most images of these measurements, evenly spread over the split."""

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
    """Backends of torch.compile that need no package beyond torch."""
    return ["aot_eager", *(name for name in torch.compiler.list_backends() if name not in ("openxla", "tvm"))]


@dataclass(frozen=True, kw_only=True)
class TrainerOptions(Settings, place="trainer"):
    """How a run is carried out; what it computes is the method's and the defenses' matter."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """no, bf16 or fp16. KL divergences and self-retrospection stay in float32."""
    dynamo_backend: str = "no"
    """Of torch.compile for the networks' passes in the student's steps: no, aot_eager or one of
    torch.compiler.list_backends(), such as inductor. Self-retrospection and the images' losses stay as they
    are."""
    checkpoint_every: CountOrZero = 500
    """Rounds between checkpoints; 0 writes none."""
    checkpoint_limit: Count = 2
    """Newest checkpoints that are kept."""
    log_every: Count = 20
    """Rounds between lines of log.jsonl; each line holds means over these rounds."""
    trackers: list[str] = field(default_factory=list)
    """Trackers of accelerate to report to as well, for example trackio or tensorboard."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Asked only where it is used: torch takes 1.5 s to list its compilers.
        if self.dynamo_backend != "no" and self.dynamo_backend not in _compilers():
            raise InputError(
                f"trainer.dynamo_backend: must be no or one of {', '.join(_compilers())}, got "
                f"{self.dynamo_backend!r}"
            )


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Whether and where to a finished run is pushed; no part of what it computes, so of no record."""

    push_to_hub: bool = False
    """Push the finished folder to the Hub; whether that is possible is looked at before the work begins."""
    hub_model_id: str | None = None
    """Repository owner/name; by default the name of output_dir under the account of the token."""
    hub_private_repo: bool = False
    """Make the repository private; one that is there and public is refused."""

    def __post_init__(self) -> None:
        for name in ("hub_model_id", "hub_private_repo"):
            if getattr(self, name) and not self.push_to_hub:
                raise InputError(f"{name}: is only used with push_to_hub; set push_to_hub or leave it out")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(PushOptions):
    """One distillation, from a teacher to an output folder."""

    output_dir: str
    """Folder of the run; must be new, or the folder of the same run with resume."""
    teacher: ModelOptions
    """The classifier to distil."""
    student: StudentOptions = field(default_factory=StudentOptions)
    """The network to train."""
    synthesizer: SynthesisMethod
    """The method that draws the images; in YAML its name."""
    defenses: Sequence[Any] = ()
    """Defenses; in YAML a list of names."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    """What to measure in the end."""
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    """How to carry the run out."""
    seed: int = 0
    """Of every random draw."""
    resume: bool = False
    """Continue the run in output_dir from its newest checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_infinite(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The configuration as it stands in config.yaml: plug-ins by name, with every default."""
        plugins: list[Any] = [self.synthesizer, *self.defenses]
        settings: dict[str, Any] = {
            "output_dir": Path(self.output_dir).resolve().name,
            "teacher": dataclasses.asdict(self.teacher),
            "student": dataclasses.asdict(self.student),
            "synthesizer": plugin_name("synthesizers", self.synthesizer),
            "defenses": [plugin_name("defenses", defense) for defense in self.defenses],
            "evaluation": dataclasses.asdict(self.evaluation),
            "trainer": dataclasses.asdict(self.trainer),
            "seed": self.seed,
        }
        names = [settings["synthesizer"], *settings["defenses"]]
        return settings | {n: dataclasses.asdict(p) for n, p in zip(names, plugins, strict=True)}

    def to_yaml(self, *, shared: bool = False) -> str:
        """``to_dict`` as YAML, which ``abd-hub distill --config`` reads; ``shared`` without local paths."""
        settings = without_paths(self.to_dict()) if shared else self.to_dict()
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def refuse_infinite(settings: Mapping[str, Any]) -> None:
    """Refuses infinity and NaN anywhere in a configuration.

    Raises:
        InputError: naming the field.
    """
    for name, value in _numbers(settings):
        if not math.isfinite(value):
            raise InputError(f"{name}: must be a finite number, got {value}")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every float in a configuration with its dotted name."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, name)


def plugin_name(kind: str, plugin: Any) -> str:
    """The registered name of a plug-in's settings.

    Raises:
        InputError: its class is not registered.
    """
    for entry in registry.catalog(kind):
        if entry.module == type(plugin).__module__ and registry.get(kind, entry.name) is type(plugin):
            return entry.name
    raise InputError(f"{kind}: {type(plugin).__name__} is not registered; decorate it with @register")


def without_paths(value: Any) -> Any:
    """The same nested value with local paths reduced to their last part: records are made to be shared."""
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
