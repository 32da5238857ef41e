"""This module rewrites the card of a finished folder from its record, after it has checked the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abd_hub.core.errors import InputError
from abd_hub.core.files import CONFIG_FILE, RECORD_FILE, write_text
from abd_hub.core.folder import check_file
from abd_hub.core.purifications import REPORT_FILE
from abd_hub.core.record_file import read_any_record, read_purified_record
from abd_hub.core.records import (
    DataSpec,
    EvalReport,
    ModelRef,
    PurifiedRecord,
    RunRecord,
    TeacherRecord,
)
from abd_hub.models.classifier import load_classifier
from abd_hub.publish.card import check_names, render_card, run_pictures
from abd_hub.publish.front_matter import license_of
from abd_hub.publish.own_parts import (
    free_text,
    is_untouched,
    own_metadata,
    with_free_text,
    with_own_metadata,
)
from abd_hub.publish.purified_card import purified_pictures, render_purified_card
from abd_hub.publish.teacher_card import render_teacher_card, teacher_pictures

CARD_FILE = "README.md"
Kind = Literal["student", "teacher", "purified model"]
Record = RunRecord | TeacherRecord | PurifiedRecord
_KINDS: dict[type, Kind] = {
    RunRecord: "student",
    TeacherRecord: "teacher",
    PurifiedRecord: "purified model",
}


@dataclass(frozen=True)
class RebuiltCard:
    """Reports the result of ``rebuild_card``."""

    file: Path
    kind: str
    """Holds "student", "teacher" or "purified model"."""
    changed: bool
    """Is True if the content of the file has changed."""
    own_text: bool
    """Is True if the card holds the user's own text, which is kept."""


def rebuild_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    license_id: str | None = None,
    force: bool = False,
) -> RebuiltCard:
    """Rewrites README.md of a finished run from its record alone and keeps the user's own text.

    After an error the card is unchanged.

    Args:
        folder: output folder of ``distill``, ``poison_teacher`` or ``abd-hub purify``.
        repo_id: the model's repository on the Hub; None shows how to load the folder.
        license_id: the Hub's name of the license; None keeps the card's license.
        force: replace a card that was edited outside the place for the user's own text.

    Raises:
        InputError: the folder holds no finished run, model and record disagree, or the card was edited.
    """
    check_names(repo_id, license_id)
    _check_folder(Path(folder))
    run = read_finished(folder)
    if not force:
        refuse_edited(run.card, str(run.card_file))
    text = run.render(repo_id, license_id, run.card)
    if text != run.card:
        _write(run.card_file, text)
    return RebuiltCard(run.card_file, run.kind, text != run.card, bool(free_text(text)))


@dataclass(frozen=True)
class FinishedRun:
    """Holds the folder of a finished run whose model and record agree."""

    folder: Path
    record: Record
    spec: DataSpec
    """Holds the size and channels of the model's images, and its label names."""
    card: str | None
    """Holds the present README.md; it is None where there is none."""

    @property
    def card_file(self) -> Path:
        """Returns the path of README.md."""
        return self.folder / CARD_FILE

    @property
    def kind(self) -> Kind:
        """Returns "student", "teacher" or "purified model"."""
        return _KINDS[type(self.record)]

    def pictures(self) -> list[tuple[str, str]]:
        """Returns (file relative to the folder, caption) of the pictures in the folder."""
        listed = pictures_of(self.record, self.spec.labels)
        return [(file, text) for file, text in listed if (self.folder / file).is_file()]

    def render(self, repo_id: str | None, license_id: str | None, *cards: str | None) -> str:
        """Returns a new card, made from the record and the user's own parts of earlier cards.

        Args:
            repo_id: the model's repository on the Hub.
            license_id: the Hub's name of the license.
            cards: earlier cards; each own part comes from the first card that has it.
        """
        licenses = (license_id, *map(license_of, cards))
        options: dict[str, Any] = {"repo_id": repo_id, "license_id": next(filter(None, licenses), None)}
        options["channels"] = self.spec.channels
        if isinstance(self.record, RunRecord):
            new = render_card(self.record, labels=self.spec.labels, pictures=self.pictures(), **options)
        elif isinstance(self.record, PurifiedRecord):
            new = render_purified_card(self.record, self.spec.labels, self.pictures(), **options)
        else:
            new = render_teacher_card(self.record, self.spec.labels, self.pictures(), **options)
        return with_own_parts(new, *cards)


def with_own_parts(new: str, *cards: str | None) -> str:
    """Returns a new card with the user's own text and metadata; an earlier argument wins over a later one."""
    earlier = [card for card in cards if card]
    text = with_free_text(new, next(filter(None, map(free_text, earlier)), ""))
    assert text is not None, "a card that was just made has its marks"
    for card in earlier:
        text = with_own_metadata(text, own_metadata(card))
    return text


def read_finished(folder: str | Path) -> FinishedRun:
    """Returns the finished run in a folder; a purified copy counts as one.

    Raises:
        InputError: the folder holds no finished run that can be read, or model and record disagree.
    """
    path = Path(folder)
    record = read_purified_record(path) if holds_purified(path) else read_any_record(path)
    spec = check_model(path, record)
    return FinishedRun(path, record, spec, _read_card(path / CARD_FILE))


def holds_purified(path: Path) -> bool:
    """Returns whether a folder is of ``abd-hub purify``; a distillation writes a file of the same name."""
    run = any((path / name).is_file() for name in (RECORD_FILE, CONFIG_FILE))
    return (path / REPORT_FILE).is_file() and not run


def pictures_of(record: Record, labels: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns (file, caption) of every picture that the run of this record may write."""
    if isinstance(record, RunRecord):
        return run_pictures(record, labels)
    if isinstance(record, PurifiedRecord):
        return purified_pictures(record, labels)
    return teacher_pictures(record, labels)


def refuse_edited(card: str | None, name: str) -> None:
    """Refuses a card that would lose edits if it were made anew.

    Raises:
        InputError: the card was edited; ``name`` begins the message.
    """
    if card is not None and not is_untouched(card):
        raise InputError(
            f"{name}: was edited outside the place for your own text, or another program made it; "
            "move your edits to that place and use --force"
        )


def check_model(path: Path, record: Record) -> DataSpec:
    """Loads the model of a finished run and compares it with the record.

    Returns:
        The size and channels of the model's images, and its label names.

    Raises:
        InputError: the model cannot be loaded, or the record describes another model.
    """
    try:
        classifier = load_classifier(f"local-dir:{path}")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_weights(path, record, classifier.ref)
    if not isinstance(record, PurifiedRecord):
        _check_labels(path, classifier.spec, _report(record))
    return classifier.spec


def _model(record: Record) -> ModelRef:
    return record.student if isinstance(record, RunRecord) else record.model


def _report(record: RunRecord | TeacherRecord) -> EvalReport | None:
    return record.student_report if isinstance(record, RunRecord) else record.report


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"folder: there is no folder {path}; use the output folder of a finished run")
    check_file(path / CARD_FILE, "folder", remedy="copy the run to another folder")


def _check_weights(path: Path, record: Record, loaded: ModelRef) -> None:
    recorded, place = _model(record), REPORT_FILE if isinstance(record, PurifiedRecord) else RECORD_FILE
    architecture = recorded.architecture.partition(".")[0]
    if loaded.architecture != architecture:
        raise InputError(
            f"{path / 'config.json'}: architecture is {loaded.architecture!r} but {architecture!r} in "
            f"{place}; restore the files of one run"
        )
    if loaded.sha256 != recorded.sha256:
        raise InputError(
            f"{path / 'model.safetensors'}: sha256 is {loaded.sha256} but {recorded.sha256} in {place},"
            " so the numbers belong to other weights; restore the file or run again"
        )


def _check_labels(path: Path, spec: DataSpec, report: EvalReport | None) -> None:
    if report is None:
        return
    for attack in report.triggers:
        if not 0 <= attack.target < spec.num_classes:
            raise InputError(
                f"{path / RECORD_FILE}: target {attack.target} is no label of the model, which has "
                f"{spec.num_classes}; restore the files of one run"
            )

    names = None if report.per_class is None else tuple(row.name for row in report.per_class)
    if names is not None and names != spec.labels:
        raise InputError(
            f"{path / 'config.json'}: its labels differ from {RECORD_FILE}; restore the files of one run"
        )


def _read_card(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8") if file.exists() else None
    except UnicodeDecodeError:
        return ""  # another program wrote it, so it is not replaced without force
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give it read permission") from error


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror}); free some space or give write permission"
        ) from error
