"""A classifier contains its preprocessing: it takes pixels in [0, 1] of any size and returns logits.

All code outside a ``Classifier`` works with pixels. So teacher and student may differ in size and statistics,
and no image is resized or normalized twice. The whole image is resized, without a crop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.files import give_usual_mode
from abd_hub.core.records import DataSpec, ModelRef
from abd_hub.core.seeding import seeded
from abd_hub.hub.pull import MAX_SIZE_GB
from abd_hub.models import loading
from abd_hub.models.preprocessing import INTERPOLATIONS, Options, shortest_decimals
from abd_hub.models.stages import recorded, stages_of
from abd_hub.models.weights import file_sha256, load_state_dict_into, weights_sha256

__all__ = [
    "Classifier",
    "create_student",
    "load_classifier",
    "load_state_dict_into",
    "save_timm_folder",
    "weights_sha256",
]


class Classifier(nn.Module):
    """Wraps a network of normalized images so that it takes pixels.

    Args:
        model: takes normalized (N, C, spec.height, spec.width), returns (N, spec.num_classes).
        spec: the size and channels of its images, and its labels.
        mean: one number a channel, in pixel units; zeros, with ones for ``std``, leave pixels unchanged.
        std: one positive number a channel, in pixel units.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, for images of another size.
        blocks: names of modules inside ``model`` whose outputs attention transfer may match.
        ref: the origin of the weights; by default the class name and a hash over the tensors.

    Raises:
        InputError: mean, std, interpolation or the name of a block is wrong.
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
        blocks: Sequence[str] = (),
        ref: ModelRef | None = None,
    ) -> None:
        super().__init__()
        _check_statistics(spec, mean, std)
        if interpolation not in INTERPOLATIONS:
            raise InputError(
                f"interpolation: {interpolation!r} is not offered; use one of {', '.join(INTERPOLATIONS)}"
            )
        _check_blocks(model, blocks)

        self.model = model
        self.spec = spec
        self.interpolation = interpolation
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
            pixels: (N, C, H, W) floating, in [0, 1], of any H and W.

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

    def normalize(self, pixels: Tensor) -> Tensor:
        """Returns normalized images, (N, C, spec.height, spec.width); only another size is resized."""
        if pixels.ndim != 4 or pixels.shape[1] != self.spec.channels or not pixels.is_floating_point():
            raise InputError(
                f"pixels: are {pixels.dtype} of shape {tuple(pixels.shape)}; pass floating pixels in [0, 1]"
                f" of shape (N, {self.spec.channels}, H, W)"
            )

        size = (self.spec.height, self.spec.width)
        if tuple(pixels.shape[-2:]) != size:
            smooth = self.interpolation != "nearest"
            pixels = F.interpolate(pixels, size, mode=self.interpolation, antialias=smooth)
        return (pixels - self.mean) / self.std

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
    blocks: Sequence[str] = (),
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
        input_size: side or (height, width); by default the checkpoint's.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``; by default the checkpoint's.
        blocks: names of the modules to match; by default timm's stages of the model.
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
        interpolation=images.interpolation,
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

    Raises:
        InputError: timm has no such architecture, or cannot build it for these images.
    """
    args = dict(model_args or {})
    _check_statistics(spec, mean, std)
    name = architecture.partition(".")[0]  # a tag names weights, not an architecture

    with seeded(seed, "student"):
        model = loading.build_student(architecture, spec, args, pretrained)
    student = Classifier(model, spec, mean, std, blocks=stages_of(model), ref=ModelRef(architecture, name))
    student.architecture = name
    student.model_args = args

    student.eval()
    _try_out(student, guessed=True)
    return student.train()


def save_timm_folder(classifier: Classifier, folder: str | Path) -> ModelRef:
    """Writes model.safetensors and config.json, which timm's ``local-dir:`` and ``hf-hub:`` reload.

    ``model_args`` in config.json leaves out the number of classes. transformers passes that number itself and
    fails when it gets the number twice.

    Returns:
        The folder's name, the architecture and the hash of model.safetensors.

    Raises:
        InputError: timm cannot build this architecture again.
    """
    if not classifier.architecture:
        name = type(classifier.model).__name__
        raise InputError(f"architecture: timm cannot rebuild {name}; save a student made by create_student")

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in classifier.model.state_dict().items()
    }
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    give_usual_mode(place / "model.safetensors")

    config = json.dumps(_timm_config(classifier), indent=2, ensure_ascii=False)
    (place / "config.json").write_text(config + "\n", encoding="utf-8")
    digest = file_sha256([place / "model.safetensors"])
    return ModelRef(place.resolve().name, classifier.architecture, sha256=digest)


def _timm_config(classifier: Classifier) -> dict[str, Any]:
    spec, model = classifier.spec, classifier.model
    known = model.pretrained_cfg
    assert isinstance(known, dict)
    config: dict[str, Any] = {
        "architecture": classifier.architecture,
        "num_classes": spec.num_classes,
        "num_features": model.num_features,
        "label_names": list(spec.labels),
        "pretrained_cfg": {
            "num_classes": spec.num_classes,
            "input_size": [spec.channels, spec.height, spec.width],
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
            "interpolation": classifier.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": shortest_decimals(classifier.mean),
            "std": shortest_decimals(classifier.std),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }

    args = {
        key: value for key, value in classifier.model_args.items() if key not in ("num_classes", "in_chans")
    }
    # timm derives both from input_size; transformers does not.
    if known.get("fixed_input_size"):
        args["img_size"] = [spec.height, spec.width]
    if spec.channels != 3:
        args["in_chans"] = spec.channels
    return config | ({"model_args": args} if args else {})


def _check_statistics(spec: DataSpec, mean: Sequence[float], std: Sequence[float]) -> None:
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != spec.channels:
            raise InputError(
                f"{name}: has {len(numbers)} numbers for {spec.channels} channels; pass one a channel"
            )
    if not all(number > 0 for number in std):
        raise InputError(f"std: {list(std)} has a number that is not positive; pass deviations above 0")


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
    if not logits.isfinite().all():
        raise InputError(
            f"weights: {classifier.ref.id} answers a black image with NaN or infinity; check mean and std, or"
            " use an undamaged checkpoint"
        )

    maps = all(name in outputs and outputs[name].ndim == 4 for name in classifier.blocks)
    if guessed and not maps:
        classifier.blocks = ()  # tokens have no positions that could be matched
