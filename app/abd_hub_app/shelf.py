"""Loads the models to show, as classifiers with their records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from abd_hub import (
    Classifier,
    EvalReport,
    InputError,
    PurifiedRecord,
    RunRecord,
    TeacherRecord,
    is_pickle,
    load_classifier,
    read_any_record,
    read_purified_record,
)

BUNDLED = Path(__file__).parent / "models"
"""Holds the models of ``recipes/bundle.py``, which take photographs of 32x32 pixels."""
BUNDLED_NAMES = ("teacher", "purified", "plain", "protected")
RECORDS = ("metrics.json", "purification.json")
"""Names the files of which the first that a folder holds has its record."""
MOST_MODELS = 12
_MOST_TRIED = 10
_LARGEST_RECORD = 20_000_000
Record = RunRecord | TeacherRecord | PurifiedRecord


@dataclass(frozen=True, kw_only=True)
class ShownModel:
    """Holds a model to show."""

    name: str
    """Names the folder, with as many parent folders as make the name unique."""
    folder: Path
    classifier: Classifier
    record: Record | None
    """Holds the record, or None for a folder without one."""

    @property
    def sha256(self) -> str | None:
        """Returns the hash of the weights file."""
        return self.classifier.ref.sha256


@dataclass(frozen=True, kw_only=True)
class RunAttack:
    """Holds a trigger of a record with its target."""

    trigger: str
    options: Mapping[str, object]
    target: int


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """Holds all models to show, which have the same labels."""

    models: tuple[ShownModel, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Returns the names of the classes, which may come from strangers."""
        return self.models[0].classifier.spec.labels

    @property
    def size(self) -> tuple[int, int]:
        """Returns height and width for the triggers, from the model with the smallest input."""
        spec = self.smallest.spec
        return spec.height, spec.width

    @property
    def smallest(self) -> Classifier:
        """Returns the model with the smallest input, which prepares the pictures for all.

        A large teacher enlarges the images of its small student, and a trigger is put on before this step.
        """
        classifiers = [model.classifier for model in self.models]
        return min(classifiers, key=lambda classifier: classifier.spec.height * classifier.spec.width)

    @property
    def attacks(self) -> tuple[RunAttack, ...]:
        """Returns every attack in the records, in their order and without repetition."""
        attacks: list[RunAttack] = []
        for model in self.models:
            report = self.report(model)
            for measured in report.triggers if report else ():
                attack = RunAttack(
                    trigger=measured.trigger, options=dict(measured.options), target=measured.target
                )
                if attack not in attacks and 0 <= attack.target < len(self.labels):
                    attacks.append(attack)
        return tuple(attacks)

    def report(self, model: ShownModel) -> EvalReport | None:
        """Returns a model's measurements from its own record or, for a teacher, from a student's record."""
        if isinstance(model.record, TeacherRecord | PurifiedRecord):
            return model.record.report
        if model.record is not None:
            return model.record.student_report
        taught = self._taught(model)
        return taught.teacher_report if taught else None

    def kind(self, model: ShownModel) -> str:
        """Describes the model in a short phrase."""
        if isinstance(model.record, TeacherRecord):
            return "teacher, poisoned on purpose" if model.record.poison else "teacher, trained clean"
        if isinstance(model.record, PurifiedRecord):
            return f"copy of {model.record.teacher.id}, purified"
        if model.record is None:
            return "teacher of these students" if self._taught(model) else "model without a record"
        names = [defense.name.replace("_", " ") for defense in model.record.defenses]
        # The page must say if a defense was switched off by its own check.
        states = ["" if defense.active else " (not active)" for defense in model.record.defenses]
        defenses = [name + state for name, state in zip(names, states, strict=True)]
        if learned_from_copy(model.record):
            defenses.insert(0, "a purified teacher")
        defended = " and ".join(defenses)
        return f"student by {model.record.method}, {'with ' + defended if defended else 'no defense'}"

    def _taught(self, teacher: ShownModel) -> RunRecord | None:
        records = (model.record for model in self.models)
        runs = (record for record in records if isinstance(record, RunRecord))
        same = (run for run in runs if teacher.sha256 and run.teacher.sha256 == teacher.sha256)
        return next(same, None)


def learned_from_copy(record: RunRecord) -> bool:
    """Returns whether a student learned from a purified copy of its teacher."""
    return record.purification is not None and record.purification.get("changed") is True


def load_shelf(folders: Sequence[str | Path] = ()) -> Shelf:
    """Loads the given model folders, or the bundled ones.

    Args:
        folders: output folders of ``abd-hub distill``, ``poison`` or ``purify``, or timm or transformers
            folders with safetensors.

    Raises:
        InputError: a folder is missing, holds a pickle or cannot be read, or labels or channels differ.
    """
    paths = [Path(folder).expanduser() for folder in folders] or [BUNDLED / name for name in BUNDLED_NAMES]
    if len(paths) > MOST_MODELS:
        raise InputError(f"FOLDER: {len(paths)} folders are too many to show; give up to {MOST_MODELS}")

    for path in paths:
        _check(path)

    names = _names(paths)
    models = tuple(_load(name, path) for name, path in zip(names, paths, strict=True))
    for model in models[1:]:
        _check_same(models[0], model)
    return Shelf(models=models)


def _check(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"FOLDER: there is no folder {path}; give the output folder of a finished run")
    pickles = sorted(file.name for file in path.iterdir() if is_pickle(file))
    if pickles:
        raise InputError(
            f"FOLDER: {path} holds {pickles[0]!r}, a pickle, which can run code; "
            "give a folder with safetensors only"
        )
    for record in (path / name for name in RECORDS):
        if record.is_file() and record.stat().st_size > _LARGEST_RECORD:
            raise InputError(
                f"FOLDER: {record} is larger than {_LARGEST_RECORD // 1_000_000} MB; restore the file"
            )


def _load(name: str, path: Path) -> ShownModel:
    record = _record(path)
    classifier = load_classifier(f"local-dir:{path}")
    if classifier.spec.channels not in (1, 3):
        raise InputError(
            f"FOLDER: {path} takes images of {classifier.spec.channels} channels; give models of gray or RGB"
        )
    return ShownModel(name=name, folder=path, classifier=classifier, record=record)


def _record(path: Path) -> Record | None:
    trained, purified = (path / name for name in RECORDS)
    if trained.exists():
        return read_any_record(path)
    return read_purified_record(path) if purified.exists() else None


def _check_same(first: ShownModel, other: ShownModel) -> None:
    specs = first.classifier.spec, other.classifier.spec
    if specs[0].labels != specs[1].labels:
        raise InputError(f"FOLDER: {other.folder} has other labels than {first.folder}; show them one by one")
    if specs[0].channels != specs[1].channels:
        raise InputError(
            f"FOLDER: {other.folder} takes images of {specs[1].channels} channels and {first.folder} "
            f"of {specs[0].channels}; show them one by one"
        )


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the last parts of the paths, as many as make them unique; numbers a folder given twice."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, _MOST_TRIED):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(_numbered([part[-1] for part in parts]))


def _numbered(names: Sequence[str]) -> Iterator[str]:
    for place, name in enumerate(names, 1):
        yield f"{name} ({place})"
