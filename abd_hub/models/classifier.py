"""A classifier contains its preprocessing: it takes pixels in [0, 1] of any size and returns logits.

All code outside a ``Classifier`` works with pixels. So teacher and student may differ in size and statistics,
and no image is resized or normalized twice. Images are resized and cropped as the checkpoint states it: the
same image gets the same answer as from timm's or transformers' own pipeline.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.records import DataSpec, ModelRef
from abd_hub.core.seeding import seeded
from abd_hub.hub.pull import MAX_SIZE_GB
from abd_hub.models import loading
from abd_hub.models.preprocessing import Options
from abd_hub.models.resampling import INTERPOLATIONS
from abd_hub.models.stages import recorded, stages_of
from abd_hub.models.view import View, in_channels, timm_view
from abd_hub.models.weights import load_state_dict_into, weights_sha256

__all__ = [
    "Classifier",
    "create_student",
    "load_classifier",
    "load_state_dict_into",
    "weights_sha256",
]


class Classifier(nn.Module):
    """Wraps a network of normalized images so that it takes pixels.

    Args:
        model: takes normalized (N, C, spec.height, spec.width), returns (N, spec.num_classes).
        spec: the size and channels of its images, and its labels.
        mean: one number a channel, in pixel units; zeros, with ones for ``std``, leave pixels unchanged.
        std: one positive number a channel, in pixel units.
        interpolation: filter of Pillow for images of another size: ``nearest``, ``bilinear``, ``bicubic``,
            ``lanczos``, ``box`` or ``hamming``.
        view: makes the pixels of the input from an image of any size, with its own interpolation; by default
            the whole image is resized.
        flip_channels: whether ``model`` takes the channels in reverse order.
        blocks: names of modules inside ``model`` whose outputs attention transfer may match.
        ref: the origin of the weights; by default the class name and a hash over the tensors.

    Raises:
        InputError: mean, std, interpolation, view or the name of a block is wrong.
    """

    mean: Tensor
    """Holds the mean of each channel, (1, C, 1, 1), in pixel units."""
    std: Tensor
    """Holds the deviation of each channel, (1, C, 1, 1), in pixel units."""

    def __init__(
        self,
        model: nn.Module,
        spec: DataSpec,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        interpolation: str = "bilinear",
        view: View | None = None,
        flip_channels: bool = False,
        blocks: Sequence[str] = (),
        ref: ModelRef | None = None,
    ) -> None:
        super().__init__()
        _check_statistics(spec, mean, std)
        _check_blocks(model, blocks)

        self.model = model
        self.spec = spec
        self.view = _checked_view(view, spec, interpolation)
        """Makes the pixels of the input from an image of any size."""
        self.flip_channels = flip_channels
        self.blocks = tuple(blocks)
        self.ref = ref or _ref_of(model)
        self.frozen = False
        self.architecture = ""
        """Holds timm's name for ``model``; it is empty when timm cannot build the model."""
        self.model_args: dict[str, Any] = {}
        """Holds timm's further arguments, without the name, class count and channels."""
        self.normalizes = any(m != 0 for m in mean) or any(s != 1 for s in std)
        """Is False for a model that takes pixels unchanged."""

        self.register_buffer("mean", torch.tensor(mean).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the logits of images, (N, classes), differentiably.

        Args:
            pixels: (N, C, H, W) floating, in [0, 1], of any H and W. Pixels of the input's size go in
                unchanged, as synthesized images have it; others are resized and cropped by ``prepare``.

        Raises:
            InputError: the shape, the number of channels or the type is wrong.
        """
        logits: Tensor = self.model(self.normalize(pixels))
        return logits

    def forward_with_blocks(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the logits and the unchanged outputs of ``self.blocks``, in their order.

        Raises:
            InputError: as for ``forward``, or the model never calls a block.
        """
        with recorded(self.model, self.blocks) as outputs:
            logits = self(pixels)

        unused = [name for name in self.blocks if name not in outputs]
        if unused:
            raise InputError(f"blocks: {unused[0]!r} takes no part in the forward pass; leave it out")
        return logits, tuple(outputs[name] for name in self.blocks)

    @property
    def image_mean(self) -> Tensor:
        """Returns the center of the pixels of images, (1, C, 1, 1).

        It is the mean, or 0.5 for a model that takes raw pixels.
        """
        return self.mean if self.normalizes else torch.full_like(self.mean, 0.5)

    @property
    def image_std(self) -> Tensor:
        """Returns the spread of the pixels of images, (1, C, 1, 1).

        It is the deviation, or 0.25 for a model that takes raw pixels. Mean 0 and deviation 1 do not describe
        images. A generator that used them as a scale drew most of its pixels outside [0, 1]. Its student of
        CIFAR-10 was no better than chance after 1,900 rounds.
        """
        return self.std if self.normalizes else torch.full_like(self.std, 0.25)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Returns the pixels of the input, (N, C, spec.height, spec.width), of whole images.

        Images are resized and cropped as the checkpoint states it, those of the input's size too: timm
        resizes an image of 224 pixels to 256 and cuts 224 out, where crop_pct is 0.875. Gray images are
        repeated for a model of three channels. Color images become gray, by Pillow's weights, for a model of
        one.

        Args:
            pixels: (N, C, H, W) floating, in [0, 1], as a picture file holds them. C is the input's, 1 or 3.

        Raises:
            InputError: the shape, the number of channels or the type is wrong, or an image cannot be resized.
        """
        if pixels.ndim == 4 and pixels.is_floating_point():
            pixels = in_channels(pixels, self.spec.channels)
        self._check(pixels)
        return self.view(pixels)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Returns normalized images, (N, C, spec.height, spec.width); other sizes are prepared first."""
        self._check(pixels)
        if tuple(pixels.shape[-2:]) != self.view.size:
            pixels = self.view(pixels)
        normalized = (pixels - self.mean) / self.std
        return normalized.flip(1) if self.flip_channels else normalized

    def normalise(self, pixels: Tensor) -> Tensor:  # codespell:ignore normalise
        """Returns ``normalize(pixels)``; this is the older spelling, which will go."""
        warnings.warn("use normalize, the newer spelling", DeprecationWarning, stacklevel=2)
        return self.normalize(pixels)

    @property
    def interpolation(self) -> str:
        """Returns the name of the filter for images of another size."""
        return self.view.interpolation

    def _check(self, pixels: Tensor) -> None:
        if pixels.ndim != 4 or pixels.shape[1] != self.spec.channels or not pixels.is_floating_point():
            raise InputError(
                f"pixels: are {pixels.dtype} of shape {tuple(pixels.shape)}; pass floating pixels in [0, 1]"
                f" of shape (N, {self.spec.channels}, H, W)"
            )

    def freeze(self) -> Self:
        """Keeps evaluation mode for good and turns off the gradients of the weights, not of the images."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; a frozen classifier stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self


def load_classifier(
    source: str,
    *,
    revision: str | None = None,
    architecture: str | None = None,
    allow_pickle: bool = False,
    num_classes: int | None = None,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | Sequence[int] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    blocks: Sequence[str] = (),
    model_args: Mapping[str, Any] | None = None,
    allow_flagged: bool = False,
    max_size_gb: float = MAX_SIZE_GB,
) -> Classifier:
    """Returns a pretrained classifier, frozen; no code of the checkpoint is run.

    Args:
        source: a timm name, ``hf-hub:org/name[@revision]``, ``org/name``, ``local-dir:/path``, a folder of
            timm or transformers, or a file with a state dict.
        revision: branch, tag or commit on the Hub; the record holds its commit.
        architecture: timm name, needed for a bare state dict.
        allow_pickle: read a pickle's tensors with ``weights_only`` where there is no safetensors file.
        num_classes: needed only where the last layer does not show the number.
        labels: one name a class; by default the checkpoint's, else the class numbers.
        mean: one number a channel in pixel units; by default the checkpoint's.
        std: one positive number a channel in pixel units; by default the checkpoint's.
        input_size: side or (height, width); by default the checkpoint's. The ratio of resize to crop stays.
        interpolation: a filter of Pillow, such as ``bicubic`` or ``nearest``; by default the checkpoint's.
        crop_pct: the input's side over the side to which an image is resized before the crop; by default the
            checkpoint's, and 1 for a bare state dict.
        crop_mode: ``center`` keeps the shape and cuts what is too long, ``squash`` resizes the whole image,
            and ``border`` adds a margin; by default the checkpoint's, and for a bare state dict ``squash``,
            or ``center`` with crop_pct.
        blocks: names of the modules to match; by default timm's stages of the model.
        model_args: further arguments of timm's architecture; ``stem_pool: True`` keeps a 3x3 stem's max-pool.
        allow_flagged: use a repository although the Hub's scan has flagged a file in it.
        max_size_gb: largest download from the Hub, in GB of 10^9 bytes.

    Raises:
        InputError: the source, an option or the checkpoint is wrong, or preprocessing is missing.
    """
    return load_with(Options(**locals()))  # the arguments are the fields of Options, by name


def load_with(options: Options) -> Classifier:
    """Returns the frozen classifier that the options describe; see ``load_classifier``.

    Raises:
        InputError: the source, an option or the checkpoint is wrong, or preprocessing is missing.
    """
    with seeded(0, "load"):  # fresh weights, soon overwritten, must not use up the caller's random numbers
        loaded = loading.load(options)

    images = loaded.images
    classifier = Classifier(
        loaded.model,
        DataSpec(len(images.mean), *images.size, loaded.labels),
        images.mean,
        images.std,
        view=images.view,
        flip_channels=images.flip_channels,
        blocks=options.blocks or stages_of(loaded.model),
        ref=loaded.ref,
    ).freeze()
    classifier.architecture = loaded.architecture
    classifier.model_args = dict(loaded.model_args)

    _try_out(classifier, guessed=not options.blocks)
    return classifier


def create_student(
    architecture: str,
    spec: DataSpec,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    view: View | None = None,
) -> Classifier:
    """Returns a trainable classifier of any timm architecture; ``seed`` alone decides its fresh weights.

    Args:
        architecture: a student of ``abd_hub.students`` or any other timm name.
        spec: size and channels of its images, and its labels.
        mean: one number a channel, in pixel units.
        std: one positive number a channel, in pixel units.
        seed: the run's seed; the global random generators do not change.
        model_args: further arguments of the architecture, JSON types only.
        pretrained: begin with timm's pretrained weights; a last layer of another size gets fresh weights.
        view: a teacher's, which the student gets in timm's form and for its own size, so that both see the
            same part of an image. By default the shorter side is resized to the input's, and the middle is
            cut out.

    Raises:
        InputError: timm has no such architecture, or cannot build it for these images.
    """
    args = dict(model_args or {})
    _check_statistics(spec, mean, std)
    name = architecture.partition(".")[0]  # a tag names weights, not an architecture

    with seeded(seed, "student"):
        model = loading.build_student(architecture, spec, args, pretrained)
    student = Classifier(
        model,
        spec,
        mean,
        std,
        view=_view_like(view, spec, mean),
        blocks=stages_of(model),
        ref=ModelRef(architecture, name),
    )
    student.architecture = name
    student.model_args = args

    student.eval()
    _try_out(student, guessed=True)
    return student.train()


def _check_statistics(spec: DataSpec, mean: Sequence[float], std: Sequence[float]) -> None:
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != spec.channels:
            raise InputError(
                f"{name}: has {len(numbers)} numbers for {spec.channels} channels; pass one a channel"
            )
    if not all(number > 0 for number in std):
        raise InputError(f"std: {list(std)} has a number that is not positive; pass deviations above 0")


def _checked_view(view: View | None, spec: DataSpec, interpolation: str) -> View:
    """Returns the view; by default it resizes the whole image."""
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"interpolation: {interpolation!r} is not offered; use one of {', '.join(INTERPOLATIONS)}"
        )
    size = (spec.height, spec.width)
    if view is None:
        return timm_view(size, interpolation=interpolation)
    if view.size != size:
        raise InputError(f"view: makes images of {view.size}, but spec has {size}; give both one size")
    return view


def _view_like(view: View | None, spec: DataSpec, mean: Sequence[float]) -> View:
    """Returns timm's view that shows the same part of an image; by default nothing but what is too long is
    cut."""
    size = (spec.height, spec.width)
    if view is None:
        return timm_view(size, 1.0, "center")
    return timm_view(size, view.stated_pct, view.crop_mode, view.interpolation, tuple(mean))


def _check_blocks(model: nn.Module, blocks: Sequence[str]) -> None:
    known = {name for name, _ in model.named_modules() if name}
    unknown = [name for name in blocks if name not in known]
    if unknown:
        raise InputError(
            f"blocks: {unknown[0]!r} is no module of {type(model).__name__}; use a name in named_modules()"
        )


def _ref_of(model: nn.Module) -> ModelRef:
    name = type(model).__qualname__
    return ModelRef(name, name, sha256=weights_sha256(model))


@torch.no_grad()
def _try_out(classifier: Classifier, *, guessed: bool) -> None:
    """Checks size, classes and blocks with one black image; drops guessed blocks that give no maps."""
    spec = classifier.spec
    pixels = torch.zeros(1, spec.channels, spec.height, spec.width)
    try:
        with recorded(classifier.model, classifier.blocks) as outputs:
            logits = classifier(pixels)
    except Exception as error:  # architectures raise many kinds of errors for sizes that they cannot take
        size = f"{spec.channels}x{spec.height}x{spec.width}"
        raise InputError(
            f"input_size: {classifier.ref.id} does not take {size}: {reason_of(error)}"
        ) from error

    if tuple(logits.shape) != (1, spec.num_classes):
        raise InputError(
            f"labels: there are {spec.num_classes} for {classifier.ref.id}, whose logits have shape"
            f" {tuple(logits.shape)}; pass one label a class"
        )
    if not torch.isfinite(logits).all():
        raise InputError(
            f"weights: {classifier.ref.id} gives NaN or infinity for a black image; use another checkpoint"
        )

    maps = all(name in outputs and outputs[name].ndim == 4 for name in classifier.blocks)
    if guessed and not maps:
        classifier.blocks = ()  # tokens have no positions that could be matched
