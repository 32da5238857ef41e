"""Reads the attacks that a folder's own record names, so that ``abd-hub evaluate FOLDER`` can repeat them.

The record may be a stranger's. It gives triggers with numbers and words. A trigger with a file is left out,
and the data are named by the user alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from abd_hub.config.options import TriggerOptions
from abd_hub.core.errors import InputError, visible_line
from abd_hub.core.files import RECORD_FILE
from abd_hub.core.record_file import read_any_record
from abd_hub.core.records import RunRecord, TriggerReport

MOST_ATTACKS = 1000
_MOST_NAMED, _LONGEST = 3, 80


@dataclass(frozen=True)
class RecordedAttacks:
    """Holds the attacks of a record that can be repeated."""

    folder: str
    triggers: tuple[TriggerOptions, ...]
    trigger_on: Literal["image", "input"]
    left_out: tuple[str, ...]
    """Names the attacks that cannot be repeated with the others."""

    def note(self) -> str:
        """Returns one line about what is measured because the record names it."""
        number = f"{len(self.triggers)} attack{'s' if len(self.triggers) != 1 else ''}"
        told = f"Measures the {number} of the record of {self.folder}; --trigger none leaves them out."
        lacking = f" Not repeated: {_listed(self.left_out)}." if self.left_out else ""
        return told + lacking

    def difference(
        self, name: str, options: Mapping[str, Any], targets: Sequence[int] | None, trigger_on: str
    ) -> str:
        """Returns one line where other attacks are chosen than the record's; "" where they are the same.

        Args:
            name: of the chosen trigger.
            options: its fields.
            targets: class numbers; None for all.
            trigger_on: place of the trigger.
        """
        missed = [
            _worded(one.name, one.options, one.target)
            for one in self.triggers
            if (one.name, one.options, self.trigger_on) != (name, dict(options), trigger_on)
            or (targets is not None and one.target not in targets)
        ]
        if not missed:
            return ""
        return (
            f"The record of {self.folder} names {_listed(missed)}, which these options do not measure; leave "
            "--trigger out to measure what the record names."
        )


def recorded_attacks(model: str) -> RecordedAttacks | None:
    """Returns the attacks of the record in a model's folder; None where it has no record, or no attack."""
    folder = Path(model.removeprefix("local-dir:")).expanduser()
    if not (folder / RECORD_FILE).is_file():
        return None
    try:
        record = read_any_record(folder)
    except InputError:
        return None  # the model may still be measured

    report = record.student_report if isinstance(record, RunRecord) else record.report
    attacks = report.triggers[:MOST_ATTACKS] if report else ()
    if not attacks:
        return None
    places = [attack.trigger_on or "image" for attack in attacks]
    on: Literal["image", "input"] = "input" if places[0] == "input" else "image"
    same = [
        attack for attack, place in zip(attacks, places, strict=True) if place == on and _is_plain(attack)
    ]
    others = [attack for attack in attacks if attack not in same]
    return RecordedAttacks(
        visible_line(folder.name or model, _LONGEST),
        tuple(TriggerOptions(name=one.trigger, target=one.target, options=dict(one.options)) for one in same),
        on,
        tuple(_worded(one.trigger, one.options, one.target) for one in others),
    )


def _is_plain(attack: TriggerReport) -> bool:
    """Returns whether no option names a file or an address."""
    texts = [value for value in attack.options.values() if isinstance(value, str)]
    nested = any(isinstance(value, Mapping) for value in attack.options.values())
    return not nested and all(text.isidentifier() for text in texts) and "file" not in attack.options


def _worded(name: str, options: Mapping[str, Any], target: int) -> str:
    words = ", ".join(f"{key}: {value}" for key, value in options.items())
    return visible_line(f"{name}{f' {{{words}}}' if words else ''} to class {target}", _LONGEST)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
