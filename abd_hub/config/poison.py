"""The configuration of a poisoned (or clean) teacher, for Python, YAML and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from abd_hub.config.options import (
    EvaluationOptions,
    ModelOptions,
    PushOptions,
    TrainerOptions,
    refuse_infinite,
    without_paths,
)
from abd_hub.config.recipe import RECIPES, TeacherRecipe
from abd_hub.core.errors import InputError
from abd_hub.core.settings import Count, CountOrNone, CountOrZero, Range, Settings, ShareBelowOne


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions(Settings, place="data"):
    """What the teacher learns from."""

    dataset: str
    """Hub id, local folder, or digits (comes with scikit-learn)."""
    dataset_config: str | None = None
    """Configuration of the data set, where it has several."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    split: str = "train"
    """Split to train on."""
    image_column: str | None = None
    """Column of the images, where it is not the only one."""
    label_column: str | None = None
    """Column of the labels, where it is not the only one."""
    limit: CountOrNone = None
    """Use only so many images from the start of the split."""
    image_size: CountOrNone = None
    """Resize every image to so many pixels in height and width, for data sets of several sizes."""
    held_out: ShareBelowOne = 0.05
    """Share of the images that is not trained on and never poisoned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset.strip():
            raise InputError("data.dataset: is empty; give a Hub id or folder")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network that is trained."""

    architecture: str = "wrn_16_2"
    """timm name, or one of abd-hub's own: see abd-hub list students."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the architecture."""
    pretrained: bool = False
    """Begin with timm's pretrained weights."""
    mean: list[float] | None = None
    """Mean of each channel in pixel units; by default that of the training images."""
    std: list[float] | None = None
    """Standard deviation of each channel in pixel units; by default that of the training images."""


@dataclass(frozen=True, kw_only=True)
class PoisonOptions(Settings, place="poison"):
    """The attack. Without a trigger the teacher is clean."""

    trigger: str | None = None
    """Registered name: see abd-hub list triggers."""
    options: dict[str, Any] = field(default_factory=dict)
    """The trigger's own fields."""
    target: int = 0
    """Class that the backdoor leads to."""
    labels: str = "all_to_one"
    """all_to_one: images of other classes get the target label; all_to_all: images get the next class;
    clean_label: images of the target class keep theirs."""
    rate: float = 0.1
    """Poisoned images as a share of all images trained on."""
    cover_rate: float = 0.0
    """Images that carry the trigger's cover form and keep their label, as a share of all trained on."""
    perturbation: Annotated[float, Range(least=0, most=255)] = 0.0
    """Largest change, of 255, by which clean-label images are first made hard to recognize; 0 for none."""
    perturbation_steps: Count = 40
    """Steps of projected gradient ascent for that."""
    surrogate: ModelOptions | None = None
    """Classifier that the perturbation misleads; by default a clean one is trained first, the same way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        changed = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != _default(f)]
        if self.trigger is None and changed:
            raise InputError(
                f"poison.{changed[0]}: is given, but no trigger; name one in poison.trigger or leave it out"
            )
        if self.perturbation and self.labels != "clean_label":
            raise InputError(
                f"poison.perturbation: is for clean_label attacks, not for {self.labels}; set it to 0"
            )
        if self.surrogate is not None and not self.perturbation:
            raise InputError("poison.surrogate: is only used with poison.perturbation; leave it out")


def _default(field_: dataclasses.Field[Any]) -> Any:
    return {} if field_.default is dataclasses.MISSING else field_.default


@dataclass(frozen=True, kw_only=True)
class TeacherTrainerOptions(TrainerOptions, place="trainer"):
    """How the training is carried out."""

    checkpoint_every: CountOrZero = 10
    """Epochs between checkpoints; 0 writes none."""
    log_every: Count = 1
    """Epochs between lines of log.jsonl."""


@dataclass(frozen=True, kw_only=True)
class PoisonConfig(PushOptions):
    """One teacher, from a data set to an output folder."""

    output_dir: str
    """Folder of the run; must be new, or the folder of the same run with resume."""
    data: TrainingDataOptions
    """What to learn from."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    """The network to train."""
    poison: PoisonOptions = field(default_factory=PoisonOptions)
    """The attack."""
    recipe: TeacherRecipe = field(default_factory=TeacherRecipe)
    """How to train; in YAML its name, paper or fast."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    """What to measure in the end; without a data set the test split of the training data, and without
    triggers the one that was poisoned with."""
    trainer: TeacherTrainerOptions = field(default_factory=TeacherTrainerOptions)
    """How to carry the run out."""
    seed: int = 0
    """Of every random draw."""
    resume: bool = False
    """Continue the run in output_dir from its newest checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_infinite(self.to_dict())
        if self.evaluation.every:
            raise InputError(
                "evaluation.every: a teacher is measured in the end only; leave it out (it is for distill)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as it stands in config.yaml, with every default."""
        name = recipe_name(self.recipe)
        return {
            "output_dir": Path(self.output_dir).resolve().name,
            "data": dataclasses.asdict(self.data),
            "network": dataclasses.asdict(self.network),
            "poison": dataclasses.asdict(self.poison),
            "recipe": name,
            name: dataclasses.asdict(self.recipe),
            "evaluation": dataclasses.asdict(self.evaluation),
            "trainer": dataclasses.asdict(self.trainer),
            "seed": self.seed,
        }

    def to_yaml(self, *, shared: bool = False) -> str:
        """``to_dict`` as YAML, which ``abd-hub poison --config`` reads; ``shared`` without local paths."""
        settings = without_paths(self.to_dict()) if shared else self.to_dict()
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def recipe_name(recipe: TeacherRecipe) -> str:
    """The name of a recipe's kind in YAML."""
    return next(name for name, kind in RECIPES.items() if kind is type(recipe))
