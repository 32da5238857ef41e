"""This module configures a poisoned (or clean) teacher, for Python, YAML and the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from abd_hub.config.options import (
    DataOptions,
    EvaluationOptions,
    ModelOptions,
    PushOptions,
    TrainerOptions,
    refuse_infinite,
    without_paths,
)
from abd_hub.config.planned import check_planned
from abd_hub.config.recipe import RECIPES, TeacherRecipe
from abd_hub.core.errors import InputError
from abd_hub.core.settings import Count, CountOrZero, Range, Settings, ShareBelowOne


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions(DataOptions, place="data"):
    """Describes the teacher's training data."""

    dataset: str
    """Names the data to train on, a Hub id, a local folder, or digits (from scikit-learn)."""
    split: str = "train"
    """Selects the split to train on."""
    held_out: ShareBelowOne = 0.05
    """Holds out this share of the images, which is neither trained on nor poisoned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset.strip():
            raise InputError("data.dataset: is empty; give a Hub id or folder")


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Describes the teacher's network."""

    architecture: str = "wrn_16_2"
    """Names a timm network or one of abd-hub's own, which abd-hub list students shows."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Passes further arguments to the architecture, such as {base_width: 8}."""
    pretrained: bool = False
    """Starts from timm's pretrained weights."""
    mean: list[float] | None = None
    """Sets the mean of each channel in pixel units; by default the training images give it."""
    std: list[float] | None = None
    """Sets the standard deviation of each channel in pixel units; by default the training images give it."""


@dataclass(frozen=True, kw_only=True)
class PoisonOptions(Settings, place="poison"):
    """Describes the attack. Without a trigger the teacher is clean."""

    trigger: str | None = None
    """Names the trigger of the backdoor, one of abd-hub list triggers; without it the teacher is clean."""
    options: dict[str, Any] = field(default_factory=dict)
    """Sets the trigger's own fields, such as {size: 2}."""
    target: int = 0
    """Sets the number of the class to which the backdoor leads."""
    labels: str = "all_to_one"
    """Selects the labels of poisoned images, all_to_one, all_to_all or clean_label. With all_to_one images of
    other classes get the target label. With all_to_all every image gets the next class. With clean_label
    images of the target class keep their label."""
    rate: float = 0.1
    """Sets the share of poisoned images among all training images."""
    cover_rate: float = 0.0
    """Sets the share of cover images among all training images; they carry the trigger's cover form and keep
    their label."""
    perturbation: Annotated[float, Range(least=0, most=255)] = 0.0
    """Makes clean-label images hard to recognize by changes of at most so many levels of 255 (0 for none)."""
    perturbation_steps: Count = 40
    """Sets the steps of projected gradient ascent for the perturbation."""
    surrogate: ModelOptions | None = None
    """Names the classifier that the perturbation misleads, such as {id: FOLDER}; by default a clean one is
    trained first, the same way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        changed = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != _default(f)]
        if self.trigger is None and changed:
            raise InputError(
                f"poison.{changed[0]}: is set without a trigger; name one in poison.trigger or leave it out"
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
    """Describes how the training is carried out."""

    checkpoint_every: CountOrZero = 10
    """Writes a checkpoint each time after so many epochs (0 for never)."""
    log_every: Count = 1
    """Writes a line of log.jsonl each time after so many epochs."""


@dataclass(frozen=True, kw_only=True)
class PoisonConfig(PushOptions):
    """Describes the making of one teacher, from a data set to an output folder."""

    output_dir: str
    """Names the folder of the run; it must be new, or with ``resume`` hold the same run unfinished."""
    data: TrainingDataOptions
    """Describes the training data."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    """Describes the network to train."""
    poison: PoisonOptions = field(default_factory=PoisonOptions)
    """Describes the attack."""
    recipe: TeacherRecipe = field(default_factory=TeacherRecipe)
    """Describes the schedule; YAML gives its name, paper or fast."""
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    """Describes the measurement at the end. By default it takes the test split of the training data, and the
    trigger of the poisoning."""
    trainer: TeacherTrainerOptions = field(default_factory=TeacherTrainerOptions)
    """Describes how the run is carried out."""
    planned_epochs: list[list[int]] = field(default_factory=list)
    """Lists pairs of an epoch and the number of all epochs on which the schedule counts from there on. A run
    whose epochs were raised writes them, and another run repeats it with them."""
    seed: int = 0
    """Seeds every random draw."""
    resume: bool = False
    """Continues the run in output_dir from its newest checkpoint."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_planned(self.planned_epochs, "epoch", self.recipe.epochs, "recipe", resume=self.resume)
        refuse_infinite(self.to_dict())
        if self.evaluation.every:
            raise InputError(
                "evaluation.every: a teacher is measured in the end only; leave it out (it is for distill)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of config.yaml, with every default."""
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
            "planned_epochs": [list(pair) for pair in self.planned_epochs],
            "seed": self.seed,
        }

    def to_yaml(self, *, shared: bool = False) -> str:
        """Returns ``to_dict`` as YAML for ``abd-hub poison --config``; ``shared`` drops local paths."""
        settings = without_paths(self.to_dict()) if shared else self.to_dict()
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def recipe_name(recipe: TeacherRecipe) -> str:
    """Returns the name of a recipe in YAML."""
    return next(name for name, kind in RECIPES.items() if kind is type(recipe))
