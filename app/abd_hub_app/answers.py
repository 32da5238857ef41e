"""Gets the models' answers to an image with and without a trigger, and shows them as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from abd_hub import Classifier, GradCam, InputError, Trigger
from abd_hub_app.attention import NOTE, as_address, overlay, place_in_words
from abd_hub_app.shelf import Shelf
from abd_hub_app.text import as_html, percent

_ALL_CLASSES = 10
_FEW_CLASSES = 6
_ONE_ROW = 3
"""Counts the cards that fit side by side."""


@dataclass(frozen=True, kw_only=True)
class ModelAnswer:
    """Holds one model's answers to the same image without and with the trigger."""

    name: str
    kind: str
    clean: tuple[float, ...]
    """Holds a probability for each class."""
    triggered: tuple[float, ...]
    clean_class: int
    triggered_class: int
    clean_map: tuple[tuple[float, ...], ...] | None
    """Holds the Grad-CAM of ``clean_class``, as large as the last feature map; None without a feature map."""
    triggered_map: tuple[tuple[float, ...], ...] | None
    """Holds the Grad-CAM of ``triggered_class``."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Holds everything that the page shows of one image."""

    clean: Tensor
    """Holds the image, (C, H, W) in [0, 1]."""
    triggered: Tensor
    """Holds the same image with the trigger, not rounded to 8 bits."""
    trigger: str
    options: Mapping[str, Any]
    target: int
    labels: tuple[str, ...]
    models: tuple[ModelAnswer, ...]

    def as_json(self) -> dict[str, Any]:
        """Returns the numbers without the pixels."""
        channels, height, width = self.clean.shape
        return {
            "image": {"channels": channels, "height": height, "width": width},
            "trigger": self.trigger,
            "options": dict(self.options),
            "target": self.target,
            "labels": list(self.labels),
            "models": [asdict(model) for model in self.models],
        }


def ask(
    shelf: Shelf,
    looks: Sequence[GradCam | None],
    pixels: Tensor,
    trigger: Trigger,
    name: str,
    options: Mapping[str, Any],
    target: int,
) -> Answers:
    """Returns the answers of every model.

    Args:
        shelf: the models.
        looks: the Grad-CAM of each model, or None.
        pixels: (1, C, H, W) in [0, 1].
        trigger: goes onto the image.
        name: of the trigger.
        options: of the trigger.
        target: the class that the trigger is meant to cause.

    Raises:
        InputError: the trigger does not fit the image, or there is no such class.
    """
    if not isinstance(target, int) or not 0 <= target < len(shelf.labels):
        raise InputError(f"target: {str(target)[:20]!r} is no class; use 0 to {len(shelf.labels) - 1}")

    both = torch.cat([pixels, trigger(pixels)])
    models = tuple(
        answer_of(model.name, shelf.kind(model), model.classifier, look, both)
        for model, look in zip(shelf.models, looks, strict=True)
    )
    return Answers(
        clean=pixels[0],
        triggered=both[1],
        trigger=name,
        options=options,
        target=target,
        labels=shelf.labels,
        models=models,
    )


def answer_of(
    name: str, kind: str, classifier: Classifier, look: GradCam | None, both: Tensor
) -> ModelAnswer:
    """Returns one model's answers; ``both`` is (2, C, H, W), without and with the trigger."""
    maps: tuple[Any, ...] = (None, None)
    if look is None:
        with torch.inference_mode():
            logits = classifier(both)
    else:
        seen = look(both)
        logits = seen.logits
        maps = tuple(tuple(map(tuple, one.tolist())) for one in seen.maps)

    shares = logits.softmax(1)
    first, second = (row.tolist() for row in shares)
    best = shares.argmax(1).tolist()

    return ModelAnswer(
        name=name,
        kind=kind,
        clean=tuple(first),
        triggered=tuple(second),
        clean_class=best[0],
        triggered_class=best[1],
        clean_map=maps[0],
        triggered_map=maps[1],
    )


def show(found: Answers) -> str:
    """Returns a card for each model as HTML, with the verdict in words and the probabilities as bars."""
    cards = "".join(_card(found, model) for model in found.models)
    shown = f'<div class="abd-cards">{cards}</div><p class="abd-note abd-legend">{NOTE}</p>'
    return _summary(found) + shown if len(found.models) > _ONE_ROW else shown


def _summary(answers: Answers) -> str:
    """Returns each model's sign and answers in one line, as the cards of many models fill several rows."""
    parts = []
    for model in answers.models:
        mark, tone, words = _verdict(answers, model)
        before, after = (
            as_html(answers.labels[one], 16) for one in (model.clean_class, model.triggered_class)
        )
        parts.append(
            f'<li class="abd-{tone}" title="{words}"><span aria-hidden="true">{mark}</span> '
            f"<b>{as_html(model.name, 24)}</b> {before} → {after}</li>"
        )
    return f'<ul class="abd-summary">{"".join(parts)}</ul>'


def _card(answers: Answers, model: ModelAnswer) -> str:
    mark, tone, words = _verdict(answers, model)
    classes = _classes_shown(answers, model)
    rows = "".join(_row(answers, model, index) for index in classes)
    left_out = len(answers.labels) - len(classes)
    more = f'<p class="abd-note">{left_out} further classes are not shown.</p>' if left_out else ""

    before, after = model.clean_class, model.triggered_class
    return (
        f'<section class="abd-card abd-{tone}"><h3>{as_html(model.name)}</h3>'
        f'<p class="abd-note">{as_html(model.kind, 120)}</p>'
        f'<p class="abd-verdict"><span aria-hidden="true">{mark}</span> {words}</p>'
        f"{_looks(answers, model)}"
        '<table><thead><tr><th scope="col">class</th>'
        f'<th scope="col">clean: <b>{as_html(answers.labels[before], 16)}</b></th>'
        f'<th scope="col">with trigger: <b>{as_html(answers.labels[after], 16)}</b></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{more}</section>"
    )


def _looks(answers: Answers, model: ModelAnswer) -> str:
    """Returns both heat maps, or the reason why there are none."""
    if model.clean_map is None or model.triggered_map is None:
        return '<p class="abd-note">No heat map: this network has no last feature map (no convolutions).</p>'
    shown = (
        ("clean", answers.clean, model.clean_map, model.clean_class),
        ("with trigger", answers.triggered, model.triggered_map, model.triggered_class),
    )
    figures = "".join(_figure(answers, model, *one) for one in shown)
    return f'<div class="abd-looks">{figures}</div>'


def _figure(
    answers: Answers, model: ModelAnswer, when: str, image: Tensor, places: Sequence[Any], read: int
) -> str:
    attention = torch.tensor(places)
    label = as_html(answers.labels[read], 16)
    size = "x".join(map(str, attention.shape))
    alt = f"Heat map of {as_html(model.name)}, {when}, for {label}: {place_in_words(attention)}"
    return (
        f'<figure><img src="{as_address(overlay(image, attention))}" alt="{alt}" title="{size} places" '
        f'width="128"><figcaption>{when}</figcaption></figure>'
    )


def _verdict(answers: Answers, model: ModelAnswer) -> tuple[str, str, str]:
    """Returns a sign, a tone and words, as color alone would not reach every reader."""
    before, after, target = model.clean_class, model.triggered_class, answers.target
    if before == target:
        return "?", "open", "It reads the target even without a trigger; try another image."
    if after == target:
        return "✗", "fooled", "The trigger decides: the model reads the target."
    if after == before:
        return "✓", "steady", "Not moved by this trigger on this image."
    return "~", "open", "The answer changes, but not to the target."


def _classes_shown(answers: Answers, model: ModelAnswer) -> Sequence[int]:
    count = len(answers.labels)
    if count <= _ALL_CLASSES:
        return range(count)
    strongest = sorted(range(count), key=lambda index: -max(model.clean[index], model.triggered[index]))
    always = {model.clean_class, model.triggered_class, answers.target}
    others = [index for index in strongest if index not in always]
    return sorted([*always, *others[: _FEW_CLASSES - len(always)]])


def _row(answers: Answers, model: ModelAnswer, index: int) -> str:
    label = as_html(answers.labels[index], 32)
    target = ' <small class="abd-target">target</small>' if index == answers.target else ""
    return (
        f'<tr><th scope="row"><span class="abd-label">{label}</span>{target}</th>'
        f"{_bar(model.clean[index], 'clean', index == model.clean_class)}"
        f"{_bar(model.triggered[index], 'triggered', index == model.triggered_class)}</tr>"
    )


def _bar(share: float, kind: str, best: bool) -> str:
    shown = f"<b>{percent(share)}</b>" if best else percent(share)
    fill = f'<span class="abd-fill abd-{kind}" style="width:{100 * share:.1f}%"></span>'
    return f'<td><span class="abd-bar">{fill}</span><span class="abd-share">{shown}</span></td>'
