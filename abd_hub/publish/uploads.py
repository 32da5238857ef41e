"""The files of a folder that go to the Hub, checked first: of a student, a teacher, an image bank or a Space.

Of a run or a bank, only files that abd-hub itself wrote are sent, never a checkpoint or a note beside them. A
Space is sent whole, without its hidden files.
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
from abd_hub.core.record_file import any_record_from_json
from abd_hub.core.records import RunRecord, TeacherRecord
from abd_hub.hub.listing import stays_inside
from abd_hub.publish.card_file import (
    CARD_FILE,
    FinishedRun,
    pictures_of,
    read_finished,
    refuse_edited,
    with_own_parts,
)
from abd_hub.publish.front_matter import TAG, front_matter, split_card, tags
from abd_hub.publish.own_parts import free_text, is_untouched
from abd_hub.report.evidence import EVIDENCE_FILE, IMAGES_FILE

Kind = Literal["student", "teacher", "image bank", "Space"]
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
_SHARD = re.compile(r"data/train-\d{5}-of-\d{5}\.parquet")
_NUMBERS = (".safetensors", ".parquet", ".png")
"""Files that no person has written into."""
_SPACE_HINT = re.compile(r"Check out the configuration reference at https://\S+\s*")
"""All that a new Space says below its front matter."""
_TOKEN = re.compile(rb"\bhf_(oauth_)?[A-Za-z0-9]{30,}")
_MOST_FILES = 1000


@dataclass(frozen=True)
class Existing:
    """What a repository of ours holds now, as far as the next push depends on it."""

    card: str | None = None
    """Its README.md."""
    record: str | None = None
    """Its metrics.json."""
    names: Collection[str] = ()
    """Its files."""


@dataclass(frozen=True)
class Upload:
    """The content of a folder, checked."""

    kind: Kind
    folder: Path
    files: Mapping[str, Path]
    """By name in the repository; all but the card of a model or an image bank."""
    run: FinishedRun | None
    """Of a student or teacher."""
    card: str | None
    """README.md of an image bank."""
    sdk: str | None = None
    """Of a Space."""

    @property
    def repo_type(self) -> str:
        """model, dataset or space."""
        return {"image bank": "dataset", "Space": "space"}.get(self.kind, "model")

    @property
    def poisoned(self) -> bool:
        """Whether it is a teacher that was poisoned on purpose."""
        return self.run is not None and getattr(self.run.record, "poison", None) is not None

    def contents(
        self, repo_id: str, there: Existing, *, license_id: str | None = None, force: bool = False
    ) -> dict[str, Path | bytes]:
        """Every file as it will stand in the repository.

        The user's own text in the card and the license come from the local card, or where it has none from
        the card in the repository.

        Args:
            repo_id: ``owner/name``.
            there: what it holds now.
            license_id: the Hub's name of the license.
            force: replace cards that were edited outside the place for own text.

        Raises:
            InputError: a card was edited there, or the repository holds something else.
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
        """Files of an earlier push that this one does not have: old pictures, old parts of the images."""
        ours = set()
        if self.kind == "image bank":
            ours = {name for name in there.names if _SHARD.fullmatch(name)}
        elif self.run and there.record:
            ours = {*_EVIDENCE, *_pictures(there.record, self.run.spec.labels)}
        return sorted(ours & set(there.names) - set(self.files))


def read_upload(folder: str | Path, token: str | None = None) -> Upload:
    """Reads and checks a folder before it is pushed; nothing is written.

    Args:
        folder: that of a run, an image bank or a Space.
        token: that will be used to push, which no file may hold; None for the one in use here.

    Raises:
        InputError: it is neither a finished run nor an image bank nor a Space, or something in it is wrong.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"folder: there is no folder {folder}; give the output folder of a finished run")
    if (path / RECORD_FILE).is_file():
        found = _model(path)
    elif (path / CONFIG_FILE).is_file():
        raise InputError(f"folder: the run in {folder} is not finished; continue it with --resume true")
    else:
        found = _bank_or_space(path)
    for name, file in found.files.items():
        _check_file(name, file, token)
    return found


def _model(path: Path) -> Upload:
    run = read_finished(path)
    names = [name for name in _MODEL if (path / name).exists()]
    names += [file for file, _ in run.pictures()]
    kind: Kind = "student" if isinstance(run.record, RunRecord) else "teacher"
    return Upload(kind, path, {name: path / name for name in names}, run, None)


def _bank_or_space(path: Path) -> Upload:
    card = path / CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = front_matter(text)
    if "sdk" in front:
        return Upload("Space", path, _space(path, text), None, None, str(front["sdk"]))
    shards = sorted((path / "data").glob("*.parquet"))
    names = [f"data/{file.name}" for file in shards]
    if TAG in tags(text) and names and all(map(_SHARD.fullmatch, names)):
        _check_shards(path, shards)
        return Upload("image bank", path, dict(zip(names, shards, strict=True)), None, text)
    raise InputError(
        f"folder: {path} is neither a finished run nor an image bank of abd-hub export-bank nor a Space "
        "(README.md with sdk in its front matter); name another"
    )


def _space(path: Path, card: str) -> dict[str, Path]:
    files = (file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
    names = sorted(file.relative_to(path).as_posix() for file in files)
    shown = [name for name in names if not any(_is_left_out(part) for part in name.split("/"))]
    if len(shown) > _MOST_FILES:
        raise InputError(
            f"folder: {path} holds {len(shown)} files, too many for a Space; name its own folder"
        )
    start = front_matter(card).get("app_file", "app.py")
    if start not in shown:
        raise InputError(f"folder: {path} has no {start!r}, which its README.md names as app_file; add it")
    if TAG not in tags(card):
        raise InputError(
            f"folder: tags of {path / CARD_FILE} lack {TAG!r}; add it, or push it by other means"
        )
    return {name: path / name for name in shown}


def _is_left_out(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__" or part.endswith(".pyc")


def _check_shards(path: Path, shards: Iterable[Path]) -> None:
    import pyarrow
    import pyarrow.parquet

    found = list(shards)
    stated = {int(file.stem.rpartition("-")[2]) for file in found}
    numbers = [int(file.stem.split("-")[1]) for file in found]
    if stated != {len(found)} or numbers != list(range(len(found))):
        raise InputError(f"folder: parts of the images in {path / 'data'} are missing; export the bank again")
    for file in found:
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
        raise InputError(f"folder: {name!r} is no name for a file on the Hub; rename it")
    if not name.endswith(_NUMBERS):
        refuse_tokens(file, file.read_bytes(), token)


def refuse_tokens(file: Path, content: bytes, token: str | None = None) -> None:
    """Refuses content with a token of the Hub in it: the one in use here, or whatever looks like one.

    Raises:
        InputError: naming the file, never the token.
    """
    used = [known.encode() for known in (token, get_token()) if known]
    if _TOKEN.search(content) or any(known in content for known in used):
        raise InputError(f"folder: {file} holds what looks like a token of the Hub; remove it and revoke it")


def check_kind(kind: Kind, repo_id: str, there: Existing) -> None:
    """Refuses a repository that abd-hub did not fill, or filled with something else.

    A repository with nothing but the files that the Hub's own page makes counts as empty.

    Raises:
        InputError: naming it.
    """
    if set(there.names) <= {".gitattributes", CARD_FILE} and _is_bare(there.card):
        return
    if TAG not in tags(there.card or ""):
        raise InputError(
            f"repo_id: {repo_id} holds files that abd-hub did not push; choose another name, or empty it"
        )
    if kind not in ("student", "teacher"):
        return
    found = _kind_of(there.record)
    if found != kind:
        what = f"a {found}" if found else "no metrics.json that can be read"
        raise InputError(f"repo_id: {repo_id} holds {what}, not a {kind}; choose another name")


def _check_same(run: FinishedRun, repo_id: str, there: str | None) -> None:
    """Refuses to replace a run with another teacher, architecture or trigger."""
    if there is None:
        return
    for name, now, before in zip(
        ("teacher", "architecture", "trigger"), _about(run.record), _told(there), strict=True
    ):
        if before is not None and now != before:
            raise InputError(
                f"repo_id: {repo_id} holds a {run.kind} with {name} {before!r}, not {now!r}; choose another "
                "name, or give --force to replace it"
            )


def _about(record: RunRecord | TeacherRecord) -> tuple[str | None, str, str | None]:
    """Teacher, architecture and what it was poisoned with."""
    if isinstance(record, RunRecord):
        return record.teacher.id, record.student.architecture, None
    return None, record.model.architecture, record.poison.trigger if record.poison else "no trigger"


def _told(record: str) -> tuple[str | None, str | None, str | None]:
    """The same of an earlier record; None for all where it cannot be read."""
    try:
        return _about(any_record_from_json(json.loads(record)))
    except (InputError, ValueError, RecursionError):
        return None, None, None


def _kind_of(record: str | None) -> str | None:
    try:
        data = json.loads(record or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or "schema_version" not in data:
        return None
    return "teacher" if data.get("kind") == "teacher" else "student"


def _pictures(record: str, labels: tuple[str, ...]) -> list[str]:
    """The pictures of an earlier run; none where its record is another version's."""
    try:
        found = any_record_from_json(json.loads(record))
        return [file for file, _ in pictures_of(found, labels)]
    except (InputError, ValueError, RecursionError, IndexError):
        return []


def _refuse_two_texts(here: str | None, there: str | None, file: Path, repo_id: str) -> None:
    """The user's own text may stand in the local card or in the one on the Hub, not differ in both."""
    ours, theirs = free_text(here or ""), free_text(there or "")
    if ours and theirs and ours != theirs:
        raise InputError(
            f"{file}: your own text differs from your own text in the card of {repo_id}; put what you want "
            "to keep into this file and give --force"
        )


def _is_bare(card: str | None) -> bool:
    """No card, or one of nothing but front matter, as the Hub's page makes it."""
    text = card or ""
    body = split_card(text)[1] if front_matter(text) else text
    return not _SPACE_HINT.sub("", body).strip() and TAG not in tags(text)
