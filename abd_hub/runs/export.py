"""Writes a classifier into one file that runs without this package, with its preprocessing inside.

The file takes pixels in [0, 1] of the input's size, as many images at a time as one likes, and gives logits.
It is kept only if it gives the classifier's own answers to patches of photographs.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from abd_hub.core import files, seeding
from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.folder import check_file
from abd_hub.core.records import DataSpec
from abd_hub.models.classifier import Classifier, load_classifier
from abd_hub.runs.inspect import default_images

CHECKED = 64
"""Images on which the file is compared with the classifier."""
TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of the largest logit; other kernels round differently."""
NEEDED_BY_ONNX = ("onnx", "onnxscript", "onnxruntime")
"""Packages that write an ONNX file and run it; ``abd-hub[onnx]`` installs them."""


Facts = dict[str, str]
"""Type of what stands in the file beside the network: names of the classes, input and output."""


@dataclass(frozen=True)
class Exported:
    """Describes the file that was written."""

    file: str
    format: str
    bytes: int
    """Holds the size of the file."""
    input: tuple[int, int, int]
    """Holds channels, height and width of the pixels that it takes."""
    classes: int
    images: int
    """Counts the images on which it was compared with the classifier."""
    largest_difference: float
    """Holds the largest difference of a logit, as a share of the largest logit."""


class Deployed(nn.Module):
    """Computes the logits of pixels of the input's size, without checks and without other sizes.

    Args:
        classifier: gives network and preprocessing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model = classifier.model
        self.flip_channels = classifier.flip_channels
        self.register_buffer("mean", classifier.mean.detach().clone())
        self.register_buffer("std", classifier.std.detach().clone())

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (N, C, H, W) in [0, 1] to logits (N, classes)."""
        normalized = (pixels - self.mean) / self.std
        logits: Tensor = self.model(normalized.flip(1) if self.flip_channels else normalized)
        return logits


Writer = Callable[[Deployed, Tensor, Facts, Path], None]
"""Type of a function that writes a network, made for an example of its input, with facts into a file."""


def export_model(source: str, file: str | Path, format: str = "torch-export") -> Exported:
    """Writes a classifier as one file, and compares its answers.

    Args:
        source: folder or id, as for ``load_classifier``.
        file: the file to write; an existing one is replaced. It ends in .pt2 or .onnx.
        format: ``torch-export`` or ``onnx``.

    Returns:
        What was written, and how far its answers are from the classifier's.

    Raises:
        InputError: the format is unknown or needs a package that is absent, the classifier cannot be loaded
            or exported, the file cannot be written, or its answers differ.
    """
    check_format(format, file)
    classifier = load_classifier(source).freeze()
    images = _images(classifier.spec)
    expected = classifier(images)

    suffix, write, answer = FORMATS[format]
    with files.atomic_path(Path(file)) as temporary:
        # The writers of both formats look at the end of the name.
        part = temporary.with_name(f"{temporary.name}{suffix}")
        try:
            _written(write, classifier, part)
            share = _difference(_tried(lambda: answer(part, images)), expected)
            if not share <= TOLERANCE:
                raise InputError(
                    f"format: the {format} file answers differently by {share:.2g} of the largest logit; "
                    "use the other format"
                )
            part.replace(temporary)
        finally:
            part.unlink(missing_ok=True)

    spec = classifier.spec
    size = (spec.channels, spec.height, spec.width)
    return Exported(str(file), format, Path(file).stat().st_size, size, spec.num_classes, len(images), share)


def check_format(format: str, file: str | Path) -> None:
    """Refuses what cannot be written, before anything is loaded.

    Raises:
        InputError: the format is unknown or needs a package that is absent, or the file cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format: must be {' or '.join(FORMATS)}, got {format!r}")
    absent = [name for name in NEEDED_BY_ONNX if not importlib.util.find_spec(name)]
    if format == "onnx" and absent:
        raise InputError(f'format: onnx needs {", ".join(absent)}; run pip install "abd-hub[onnx]"')
    check_file(file, "file", suffix=FORMATS[format][0])


def _written(write: Writer, of: Classifier, file: Path) -> None:
    spec = of.spec
    example = torch.full((2, spec.channels, spec.height, spec.width), 0.5)
    facts = {
        "labels": json.dumps(list(spec.labels)),
        "input": f"pixels in [0, 1], (N, {spec.channels}, {spec.height}, {spec.width})",
        "output": f"logits, (N, {spec.num_classes})",
    }
    _tried(lambda: write(Deployed(of).eval(), example, facts, file))


def _tried(step: Callable[[], Any]) -> Any:
    """Runs a step of a library that raises many kinds of errors for what it cannot trace or run."""
    try:
        return step()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"format: this network cannot be exported ({reason_of(error)}); use the other format"
        ) from error


def _images(spec: DataSpec) -> Tensor:
    """Returns patches of photographs, or noise for channels that photographs lack."""
    if spec.channels in (1, 3):
        return default_images(spec, most=CHECKED).float() / 255
    shape = (CHECKED, spec.channels, spec.height, spec.width)
    return torch.rand(shape, generator=seeding.generator(0, "export"))


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def _program(network: Deployed, example: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: batch}})


def _write_torch(network: Deployed, example: Tensor, facts: Facts, file: Path) -> None:
    torch.export.save(_program(network, example), file, extra_files=facts)


def _answer_torch(file: Path, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = torch.export.load(file).module()(images)
    return logits


def _write_onnx(network: Deployed, example: Tensor, facts: Facts, file: Path) -> None:
    program = _program(network, example)
    with _quiet():
        made = torch.onnx.export(
            program,
            input_names=["pixels"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    assert made is not None, "the exporter of programs returns one"
    made.model.metadata_props.update(facts)
    made.save(file, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's words about its own parts from the terminal."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _answer_onnx(file: Path, images: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": images.numpy()})
    return torch.from_numpy(logits)


FORMATS: dict[str, tuple[str, Writer, Callable[[Path, Tensor], Tensor]]] = {
    "torch-export": (".pt2", _write_torch, _answer_torch),
    "onnx": (".onnx", _write_onnx, _answer_onnx),
}
"""Holds the end of the file's name, and the functions that write it and ask it."""
