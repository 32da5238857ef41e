"""This module writes the evidence of defenses into a run's folder, numbers as JSON and images as PNG.

``samples/evidence.json`` holds the numbers, and ``samples/synthetic_images.png`` holds their images, pixel
for pixel. Both are read with bounds, because a folder may be a stranger's.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from abd_hub.core.contracts import Synthesizer
from abd_hub.core.errors import InputError
from abd_hub.core.evidence import Divergence, Evidence
from abd_hub.core.files import atomic_path, read_json, write_json
from abd_hub.core.record_file import from_json, to_json
from abd_hub.learning import distributed
from abd_hub.report.figures import save_divergence
from abd_hub.report.grids import save_marked, save_mosaic, save_pattern

logger = logging.getLogger(__name__)

EVIDENCE_FILE = "samples/evidence.json"
IMAGES_FILE = "samples/synthetic_images.png"
SCHEMA_VERSION = 1
_MOST_IMAGES, _FEWEST_IMAGES = 256, 32
_MOST_VALUES = 8_000_000
"""Limits the values of the judged images; 256 of 3x32x32 have 0.8 million, 53 of 3x224x224 have 8 million."""
_MOST_PIXELS = 1_000_000
"""Limits the pixels of the picture of these images, to 256 of 32x32 or 19 of 224x224."""
_CARD_IMAGES = 32
_LARGEST_FILE = 1_000_000
_MOST_READ, _MOST_PATTERNS, _LARGEST_SIDE, _LARGEST_KL = 4096, 8, 4096, 1e6
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class ShownImages:
    """Describes the layout of ``samples/synthetic_images.png``, row by row without gaps."""

    count: int
    """Counts its images, which are the first of the judged images."""
    columns: int
    height: int
    """Gives the height of one image in pixels."""
    width: int


@dataclass(frozen=True)
class FoundPattern:
    """Describes a perturbation or direction, drawn in ``samples/pattern_DEFENSE.png``."""

    defense: str
    largest: float
    """Holds the largest absolute value in pixel units; white stands for it, black for its negative."""
    norm: float
    """Holds the L2 norm over all channels and pixels, in pixel units."""


@dataclass(frozen=True)
class RunEvidence:
    """Holds the content of ``samples/evidence.json``."""

    divergence: Divergence | None
    """Holds the divergence of the shuffling vaccine; it is None without this defense."""
    images: ShownImages | None
    """Describes the picture of the images; it is None without a divergence."""
    patterns: tuple[FoundPattern, ...]
    schema_version: int


def pattern_file(defense: str) -> str:
    """Returns the file of a defense's pattern, relative to the run's folder."""
    return f"samples/pattern_{defense}.png"


def gather_images(
    synthesizer: Synthesizer, drawn: Callable[[Tensor], Tensor], rounds: int, *, real: bool
) -> Tensor:
    """Returns images of a finished run, beginning with the last round; all processes must call it.

    Earlier rounds follow until there are enough images. Their draws go through the finished synthesizer.

    Args:
        synthesizer: the synthesizer of the finished run, which must not learn any more.
        drawn: the defenses' hook for new images.
        rounds: the number of rounds of the run.
        real: whether the images are somebody's data; then only 32 are kept.

    Returns:
        (N, C, H, W), at most 256 images of all processes together.
    """
    parts: list[Tensor] = []
    have, wanted = 0, _FEWEST_IMAGES
    for index in reversed(range(rounds)):
        synthesizer.begin_round(index)
        pixels = synthesizer.sample(0)
        assert pixels is not None, "a synthesizer gives pixels for step 0"
        parts.append(distributed.gather_rows(drawn(pixels)))
        have += len(parts[-1])
        if not real:
            wanted = min(_MOST_IMAGES, max(_FEWEST_IMAGES, _MOST_VALUES // parts[-1][0].numel()))
        if have >= wanted:
            break
    return torch.cat(parts)[:wanted]


def write_evidence(folder: Path, images: Tensor, found: Sequence[tuple[str, Evidence]]) -> None:
    """Writes the finite evidence of the defenses; writes nothing where there is none.

    Args:
        folder: the folder of the run.
        images: (N, C, H, W), the images that the defenses judged.
        found: (name, evidence) of each defense.
    """
    divergence = next((left.divergence for _, left in found if left.divergence), None)
    patterns = [(name, left.pattern) for name, left in found if left.pattern is not None]
    patterns = [(name, pattern) for name, pattern in patterns if bool(pattern.isfinite().all())]
    if divergence and not all(map(math.isfinite, (*divergence.kl, divergence.threshold))):
        logger.warning("evidence: a divergence is not finite and is left out")
        divergence = None
    if not divergence and not patterns:
        return

    shown = _write_images(folder, images, divergence) if divergence else None
    for name, pattern in patterns:
        with atomic_path(folder / pattern_file(name)) as temporary:
            save_pattern(pattern, temporary)
    measured = tuple(
        FoundPattern(name, float(pattern.abs().max()), float(pattern.norm())) for name, pattern in patterns
    )
    evidence = RunEvidence(divergence, shown, measured, SCHEMA_VERSION)
    write_json(folder / EVIDENCE_FILE, to_json(evidence, "evidence"))


def _write_images(folder: Path, images: Tensor, divergence: Divergence) -> ShownImages:
    height, width = images.shape[2:]
    count = max(1, min(len(images), _MOST_PIXELS // (height * width)))
    shown = ShownImages(count, math.ceil(math.sqrt(count)), height, width)
    with atomic_path(folder / IMAGES_FILE) as temporary:
        save_mosaic(images[:count], temporary, shown.columns)
    few = slice(0, min(count, _CARD_IMAGES))
    with atomic_path(folder / "samples" / "suspicious.png") as temporary:
        marks = [divergence.warns and bad for bad in divergence.suspicious[few]]
        save_marked(images[few], marks, divergence.kl[few], temporary)
    with atomic_path(folder / "samples" / "divergence.png") as temporary:
        save_divergence(divergence, temporary)
    return shown


def read_evidence(folder: str | Path) -> RunEvidence | None:
    """Returns the evidence of a run's defenses; None where there is none.

    Raises:
        InputError: the file is malformed or too large.
    """
    file = Path(folder) / EVIDENCE_FILE
    if not file.is_file():
        return None
    if file.stat().st_size > _LARGEST_FILE:
        raise InputError(f"{file}: is larger than {_LARGEST_FILE // 1_000_000} MB; restore the file")
    data = read_json(file)
    try:
        evidence: RunEvidence = from_json(RunEvidence, data)
        _check(evidence)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return evidence


def _check(evidence: RunEvidence) -> None:
    if evidence.schema_version != SCHEMA_VERSION:
        raise InputError(f"schema_version: {evidence.schema_version} is unknown; use {SCHEMA_VERSION}")
    if (evidence.divergence is None) != (evidence.images is None):
        raise InputError("images: belong to a divergence; set both or none")
    if evidence.divergence and evidence.images:
        _check_divergence(evidence.divergence)
        _check_images(evidence.images, len(evidence.divergence.kl))
    names = [pattern.defense for pattern in evidence.patterns]
    if len(names) > _MOST_PATTERNS or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise InputError(f"patterns: must be at most {_MOST_PATTERNS}, each of a different registered name")
    if any(pattern.largest < 0 or pattern.norm < 0 for pattern in evidence.patterns):
        raise InputError("patterns: a norm is negative; restore the file")


def _check_divergence(found: Divergence) -> None:
    n = len(found.kl)
    if not 1 <= n <= _MOST_READ or len(found.suspicious) != n:
        raise InputError(f"divergence: kl and suspicious must both hold the same 1 to {_MOST_READ} images")
    if not all(0 <= value <= _LARGEST_KL for value in (*found.kl, found.threshold)):
        raise InputError(f"divergence: a value is not within 0 to {_LARGEST_KL:g}; restore the file")


def _check_images(shown: ShownImages, judged: int) -> None:
    sides = all(1 <= side <= _LARGEST_SIDE for side in (shown.height, shown.width))
    if not sides or not 1 <= shown.count <= judged or not 1 <= shown.columns <= shown.count:
        raise InputError(f"images: {shown} is no layout of up to {judged} images; restore the file")
