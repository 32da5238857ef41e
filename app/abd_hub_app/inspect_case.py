"""Keeps an inspection in a folder: the report, the triggers, the images, and the model's answers to them.

A run that goes on from the inspected model reads the same folder.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abd_hub import Classifier, FoundTrigger, InspectionReport
from abd_hub_app.answers import ModelAnswer, answer_of
from abd_hub_app.attention import look_into
from abd_hub_app.images import to_picture

REPORT, TENSORS = "inspection.json", "triggers.safetensors"
ANSWERS = "answers.json"
SHOWN = "shown.json"
OUTCOME = "outcome.json"
MOST_SHOWN = 3
"""Limits the images on which the page shows the recovered trigger."""
MOST_TRIGGERS = 4
"""Limits the pictures of triggers; each suspect has one a family."""
_IMAGES = "images"
_PARTS = ("mask", "pattern", "delta")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Holds an inspected model's report with its triggers, and some images."""

    report: InspectionReport
    images: Tensor
    """Holds images as the model takes them, (n, C, H, W) in [0, 1]."""
    chosen: tuple[int, ...]
    """Names the images that the page shows."""

    @property
    def trigger(self) -> FoundTrigger | None:
        """Returns the trigger of the first suspect, or of the leading class, that is clearest."""
        found = [trigger for trigger in self.report.triggers if has_tensors(trigger)]
        first = [trigger for trigger in found if trigger.label == found[0].label]
        return min(first, key=_share, default=None)


def has_tensors(trigger: FoundTrigger) -> bool:
    """Returns whether a trigger was found; a class that no trigger reached has none."""
    return trigger.delta is not None or (trigger.mask is not None and trigger.pattern is not None)


def choose_images(classifier: Classifier, images: Tensor, label: int) -> tuple[int, ...]:
    """Returns the places of images of other classes than the trigger's, each of another class if possible."""
    answers = _classes(classifier, images)
    others = [place for place, answer in enumerate(answers) if answer != label]
    first = sorted({answers[place]: place for place in reversed(others)}.values())
    rest = [place for place in others if place not in first]
    return tuple([*first, *rest][:MOST_SHOWN])


def write_case(case: Case, facts: dict[str, Any], folder: Path) -> None:
    """Writes a case and its pictures; ``facts`` goes into the file that is written last."""
    from safetensors.torch import save_file

    report = case.report
    tensors = {_IMAGES: (case.images * 255).round().to(torch.uint8).cpu().contiguous()}
    for place, trigger in enumerate(report.triggers):
        for part in _PARTS:
            values = getattr(trigger, part)
            if values is not None:
                tensors[f"{place}.{part}"] = values.detach().float().cpu().contiguous()
    save_file(tensors, folder / TENSORS)
    (folder / REPORT).write_text(json.dumps(report.to_json()), encoding="utf-8")

    shown = [place for place, one in enumerate(report.triggers) if has_tensors(one)][:MOST_TRIGGERS]
    for place in shown:
        for name, pixels in zip(("trigger", "amount"), report.triggers[place].shown(), strict=True):
            to_picture(pixels, side=1).save(folder / f"{name}_{place}.png")
    _save_images(case, folder)
    label = None if case.trigger is None else case.trigger.label
    told = {"chosen": list(case.chosen), "triggers": shown, "label": label, **facts}
    (folder / SHOWN).write_text(json.dumps(told), encoding="utf-8")


def read_case(folder: Path) -> Case:
    """Reads what ``write_case`` has written."""
    from safetensors.torch import load_file

    tensors = load_file(folder / TENSORS)
    report = InspectionReport.from_json(json.loads((folder / REPORT).read_text(encoding="utf-8")))
    found = [
        dataclasses.replace(trigger, **{part: tensors.get(f"{place}.{part}") for part in _PARTS})
        for place, trigger in enumerate(report.triggers)
    ]
    told = json.loads((folder / SHOWN).read_text(encoding="utf-8"))
    return Case(
        report=dataclasses.replace(report, triggers=tuple(found)),
        images=tensors[_IMAGES].float() / 255,
        chosen=tuple(told["chosen"]),
    )


@torch.inference_mode()
def write_answers(classifier: Classifier, case: Case, file: Path) -> None:
    """Writes a model's answers to the shown images without and with the trigger, and how many it moves."""
    trigger = case.trigger
    if trigger is None:
        file.write_text(json.dumps({"rows": [], "moved": 0, "others": 0}), encoding="utf-8")
        return

    triggered = trigger(case.images)
    before, after = _classes(classifier, case.images), _classes(classifier, triggered)
    others = [place for place, answer in enumerate(before) if answer != trigger.label]
    moved = sum(after[place] == trigger.label for place in others)

    with torch.inference_mode(False):
        look = look_into(classifier)
        pairs = [torch.stack([case.images[place], triggered[place]]).clone() for place in case.chosen]
        rows = [dataclasses.asdict(answer_of("", "", classifier, look, pair)) for pair in pairs]
    text = json.dumps({"rows": rows, "moved": moved, "others": len(others)})
    file.write_text(text, encoding="utf-8")


def read_answers(file: Path) -> tuple[tuple[ModelAnswer, ...], int, int]:
    """Returns the answers to each shown image, the number of images that moved, and of all that could."""
    told = json.loads(file.read_text(encoding="utf-8"))
    return tuple(ModelAnswer(**row) for row in told["rows"]), told["moved"], told["others"]


def _save_images(case: Case, folder: Path) -> None:
    trigger = case.trigger
    if trigger is None:
        return
    for number, place in enumerate(case.chosen):
        pixels = case.images[place]
        to_picture(pixels, side=1).save(folder / f"before_{number}.png")
        to_picture(trigger(pixels[None])[0], side=1).save(folder / f"after_{number}.png")


@torch.inference_mode()
def _classes(classifier: Classifier, images: Tensor) -> list[int]:
    found: list[int] = classifier(images).argmax(dim=1).tolist()
    return found


def _share(trigger: FoundTrigger) -> float:
    return trigger.size / trigger.ordinary_size if math.isfinite(trigger.ordinary_size) else 0.0
