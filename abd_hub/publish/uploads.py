"""This module checks and collects the files of a model, an image bank or a Space for the Hub.

Of a run or a bank, only files of abd-hub itself are sent, never a checkpoint or a user's note. A Space is
sent whole, without its hidden files and with the package that its code imports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import get_token

from abd_hub.core.errors import InputError
from abd_hub.core.files import CONFIG_FILE, RECORD_FILE
from abd_hub.core.purifications import REPORT_FILE
from abd_hub.core.record_file import any_record_from_json
from abd_hub.core.records import PURIFIED, PurifiedRecord, RunRecord
from abd_hub.hub.listing import stays_inside
from abd_hub.models.saving import PROCESSOR_FILE
from abd_hub.publish.card_file import (
    CARD_FILE,
    FinishedRun,
    Record,
    holds_purified,
    pictures_of,
    read_finished,
    refuse_edited,
    with_own_parts,
)
from abd_hub.publish.front_matter import TAG, front_matter, split_card, tags
from abd_hub.publish.own_parts import free_text, is_untouched
from abd_hub.publish.space import outdated_package, space_files
from abd_hub.report.evidence import EVIDENCE_FILE, IMAGES_FILE

Kind = Literal["student", "teacher", "purified model", "image bank", "Space"]
_EVIDENCE = (EVIDENCE_FILE, IMAGES_FILE)
_MODEL = (
    "config.json",
    "model.safetensors",
    RECORD_FILE,
    CONFIG_FILE,
    "log.jsonl",
    "poison.json",
    *_EVIDENCE,
)
_PURIFIED = ("config.json", "model.safetensors", PROCESSOR_FILE, REPORT_FILE)
_SHARD = re.compile(r"data/train-\d{5}-of-\d{5}\.parquet")
_NUMBERS = (".safetensors", ".parquet", ".png")
"""Lists the endings of files without text, which are not searched for tokens."""
_SPACE_HINT = re.compile(r"Check out the configuration reference at https://\S+\s*")
"""Matches the only text of a new Space below its front matter."""
_TOKEN = re.compile(rb"\bhf_(oauth_)?[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class Existing:
    """Holds the present content of a repository, as far as the next push depends on it."""

    card: str | None = None
    """Holds the text of README.md."""
    record: str | None = None
    """Holds the text of metrics.json, or else of purification.json."""
    names: Collection[str] = ()
    """Holds the names of all files."""


@dataclass(frozen=True)
class Upload:
    """Holds the checked content of a folder."""

    kind: Kind
    folder: Path
    files: Mapping[str, Path]
    """Holds the files by name in the repository, without the card of a model or an image bank."""
    run: FinishedRun | None
    """Holds the run of a student or teacher, or a purified model."""
    card: str | None
    """Holds README.md of an image bank."""
    sdk: str | None = None
    """Holds the SDK of a Space."""

    @property
    def repo_type(self) -> str:
        """Returns the Hub's kind of repository: model, dataset or space."""
        return {"image bank": "dataset", "Space": "space"}.get(self.kind, "model")

    @property
    def poisoned(self) -> bool:
        """Returns whether the content is a teacher that was poisoned on purpose."""
        return self.run is not None and getattr(self.run.record, "poison", None) is not None

    def contents(
        self, repo_id: str, there: Existing, *, license_id: str | None = None, force: bool = False
    ) -> dict[str, Path | bytes]:
        """Returns the new content of the repository by file name.

        The license and the user's own text come from the local card. Where it has none, they come from the
        card in the repository.

        Args:
            repo_id: ``owner/name``.
            there: the present content of the repository.
            license_id: the Hub's name of the license.
            force: replace cards that were edited outside the place for own text.

        Raises:
            InputError: a card was edited, or the repository has other content.
        """
        if license_id is not None and self.run is None:
            raise InputError(f"license: write the license of this {self.kind} into its README.md instead")
        check_kind(self.kind, repo_id, there)
        if self.run and not force:
            _check_same(self.run, repo_id, there.record)

        card = self._card(repo_id, there.card, license_id, force)
        if card is None:
            return dict(self.files)
        refuse_tokens(self.folder / CARD_FILE, card.encode("utf-8"))
        return {**self.files, CARD_FILE: card.encode("utf-8")}

    def _card(self, repo_id: str, there: str | None, license_id: str | None, force: bool) -> str | None:
        if self.kind == "Space":
            return None
        here = self.run.card if self.run else self.card
        if not force:
            refuse_edited(here, str(self.folder / CARD_FILE))
            refuse_edited(None if _is_bare(there) else there, f"{CARD_FILE} of {repo_id}")
            _refuse_two_texts(here, there, self.folder / CARD_FILE, repo_id)

        if self.run:
            return self.run.render(repo_id, license_id, here, there)
        assert here is not None, "an image bank has a card"
        return with_own_parts(here, here, there) if is_untouched(here) else here

    def stale(self, there: Existing) -> list[str]:
        """Returns the outdated files of an earlier push: old pictures, parts of the images, and modules."""
        ours = set()
        if self.kind == "image bank":
            ours = {name for name in there.names if _SHARD.fullmatch(name)}
        elif self.kind == "Space":
            ours = outdated_package(self.files, there.names)
        elif self.run and there.record:
            ours = {*_EVIDENCE, *_pictures(there.record, self.run.spec.labels)}
        return sorted(ours & set(there.names) - set(self.files))


def read_upload(folder: str | Path, token: str | None = None) -> Upload:
    """Reads and checks a folder before it is pushed; nothing is written.

    Args:
        folder: the folder of a finished run, an image bank or a Space.
        token: the token of the push, which no file may hold; None for the account of this machine.

    Raises:
        InputError: the folder is none of these, or one of its files is wrong.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"folder: there is no folder {folder}; use the output folder of a finished run")

    if (path / RECORD_FILE).is_file() or holds_purified(path):
        upload = _model(path)
    elif (path / CONFIG_FILE).is_file():
        raise InputError(f"folder: the run in {folder} is not finished; continue it with --resume")
    else:
        upload = _bank_or_space(path)

    for name, file in upload.files.items():
        _check_file(name, file, token)
    return upload


def _model(path: Path) -> Upload:
    run = read_finished(path)
    listed = _PURIFIED if run.kind == "purified model" else _MODEL
    names = [name for name in listed if (path / name).exists()]
    names += [file for file, _ in run.pictures()]
    return Upload(run.kind, path, {name: path / name for name in names}, run, None)


def _bank_or_space(path: Path) -> Upload:
    card = path / CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = front_matter(text)
    if "sdk" in front:
        return Upload("Space", path, space_files(path, text), None, None, str(front["sdk"]))

    shards = sorted((path / "data").glob("*.parquet"))
    names = [f"data/{file.name}" for file in shards]
    if TAG in tags(text) and names and all(map(_SHARD.fullmatch, names)):
        _check_shards(path, shards)
        return Upload("image bank", path, dict(zip(names, shards, strict=True)), None, text)
    raise InputError(
        f"folder: {path} is neither a finished run nor an image bank nor a Space; use an output folder of "
        "abd-hub, or set sdk in the README.md of a Space"
    )


def _check_shards(path: Path, shards: Iterable[Path]) -> None:
    import pyarrow
    import pyarrow.parquet

    files = list(shards)
    stated_counts = {int(file.stem.rpartition("-")[2]) for file in files}
    numbers = [int(file.stem.split("-")[1]) for file in files]
    if stated_counts != {len(files)} or numbers != list(range(len(files))):
        raise InputError(f"folder: parts of the images in {path / 'data'} are missing; export the bank again")

    for file in files:
        try:
            columns = pyarrow.parquet.read_schema(file).names
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"folder: {file} is no Parquet file; export the bank again") from error
        if set(columns) != {"image", "label"}:
            raise InputError(f"folder: {file} has the columns {columns}; export the bank again")


def _check_file(name: str, file: Path, token: str | None) -> None:
    if file.is_symlink() or not file.is_file():
        raise InputError(f"folder: {file} is a link or a special file; put the file itself there")
    if not stays_inside(name):
        raise InputError(f"folder: {name!r} is no name for a file on the Hub; rename the file")
    if not name.endswith(_NUMBERS):
        refuse_tokens(file, file.read_bytes(), token)


def refuse_tokens(file: Path, content: bytes, token: str | None = None) -> None:
    """Refuses content with a token of the Hub: the token in use here, or any text of that form.

    Raises:
        InputError: there is a token; the message names the file, never the token.
    """
    tokens = [used.encode() for used in (token, get_token()) if used]
    if _TOKEN.search(content) or any(used in content for used in tokens):
        raise InputError(f"folder: {file} seems to hold a token of the Hub; remove the token and revoke it")


def check_kind(kind: Kind, repo_id: str, there: Existing) -> None:
    """Refuses a repository that abd-hub did not fill, or that holds another kind of content.

    A repository with only the files of a new one on the Hub counts as empty.

    Raises:
        InputError: the repository is one of these.
    """
    if set(there.names) <= {".gitattributes", CARD_FILE} and _is_bare(there.card):
        return
    if TAG not in tags(there.card or ""):
        raise InputError(
            f"repo_id: {repo_id} holds files that abd-hub did not push; use another repository, or empty it"
        )
    if kind in ("image bank", "Space"):
        return

    present = _kind_of(there.record)
    if present != kind:
        content = f"a {present}" if present else "no record that can be read"
        raise InputError(f"repo_id: {repo_id} holds {content}, not a {kind}; use another repository")


def _check_same(run: FinishedRun, repo_id: str, there: str | None) -> None:
    """Refuses to replace a run with another teacher, architecture or trigger."""
    if there is None:
        return
    names = ("teacher", "architecture", "trigger")
    for name, now, before in zip(names, _identity(run.record), _identity_in(there), strict=True):
        if before is not None and now != before:
            raise InputError(
                f"repo_id: {repo_id} holds a {run.kind} with {name} {before!r}, not {now!r}; use another "
                "repository, or use --force to replace this run"
            )


def _identity(record: Record) -> tuple[str | None, str, str | None]:
    """Returns the teacher, the architecture and the trigger of a poisoned teacher."""
    if isinstance(record, RunRecord):
        return record.teacher.id, record.student.architecture, None
    if isinstance(record, PurifiedRecord):
        return record.teacher.id, record.model.architecture, None
    return None, record.model.architecture, record.poison.trigger if record.poison else "no trigger"


def _identity_in(record: str) -> tuple[str | None, str | None, str | None]:
    """Returns the identity in the text of an earlier record; all None where it cannot be read."""
    try:
        return _identity(any_record_from_json(json.loads(record)))
    except (InputError, ValueError, RecursionError):
        return None, None, None


def _kind_of(record: str | None) -> str | None:
    try:
        data = json.loads(record or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or "schema_version" not in data:
        return None
    return {"teacher": "teacher", PURIFIED: "purified model"}.get(str(data.get("kind")), "student")


def _pictures(record: str, labels: tuple[str, ...]) -> list[str]:
    """Returns the pictures of an earlier run; none for a record of another version."""
    try:
        earlier = any_record_from_json(json.loads(record))
        return [file for file, _ in pictures_of(earlier, labels)]
    except (InputError, ValueError, RecursionError, IndexError):
        return []


def _refuse_two_texts(here: str | None, there: str | None, file: Path, repo_id: str) -> None:
    """Refuses two different own texts, in the local card and in the card on the Hub."""
    ours, theirs = free_text(here or ""), free_text(there or "")
    if ours and theirs and ours != theirs:
        raise InputError(
            f"{file}: your own text differs from the card of {repo_id}; put the text to keep into this file "
            "and use --force"
        )


def _is_bare(card: str | None) -> bool:
    """Returns whether there is no card, or only the front matter that the Hub writes into a new card."""
    text = card or ""
    body = split_card(text)[1] if front_matter(text) else text
    return not _SPACE_HINT.sub("", body).strip() and TAG not in tags(text)
