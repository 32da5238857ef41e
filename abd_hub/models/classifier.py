"""A classifier with its preprocessing inside: pixels in [0,1] of any size in, logits out.

Everything outside a ``Classifier`` speaks in pixels, so that teacher and student may differ in size and
statistics, and nothing is resized or normalized twice. A whole image is resized: there is no crop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from abd_hub.core.errors import InputError, reason_of
from abd_hub.core.records import DataSpec, ModelRef
from abd_hub.core.seeding import seeded
from abd_hub.hub.pull import MAX_SIZE_GB
from abd_hub.models import loading
from abd_hub.models.preprocessing import INTERPOLATIONS, Options
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
    """Any module from normalized images to logits, behind pixels.

    Args:
        model: takes normalized (N, C, spec.height, spec.width), gives (N, spec.num_classes).
        spec: the images it takes and the labels it gives.
        mean: one number a channel, in pixel units; zeros with ``std`` ones leave pixels as they are.
        std: one positive number a channel, in pixel units.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, for images of another size.
        blocks: names of modules inside ``model`` whose outputs attention transfer may match.
        ref: where the weights come from; by default the class name and a hash over the tensors.

    Raises:
        InputError: mean, std, interpolation or a block's name is wrong.
    """

    mean: Tensor
    """(1, C, 1, 1), in pixel units."""
    std: Tensor
    """(1, C, 1, 1), in pixel units."""

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
                f"interpolation: {interpolation!r} is not offered; use {', '.join(INTERPOLATIONS)}"
            )
        known = {name for name, _ in model.named_modules() if name}
        unknown = [name for name in blocks if name not in known]
        if unknown:
            raise InputError(f"blocks: {unknown[0]!r} is no module of {type(model).__name__}")
        self.model = model
        self.spec = spec
        self.interpolation = interpolation
        self.blocks = tuple(blocks)
        self.ref = ref or _ref_of(model)
        self.frozen = False
        self.architecture = ""
        """timm's name for ``model``; empty when timm cannot build it."""
        self.model_args: dict[str, Any] = {}
        """What timm needs besides the name, class count and channels."""
        self.normalizes = any(m != 0 for m in mean) or any(s != 1 for s in std)
        """False for a model that takes pixels as they are."""
        self.register_buffer("mean", torch.tensor(mean).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) floating pixels in [0,1], any H and W, to (N, classes) logits; differentiable.

        Raises:
            InputError: the shape, the number of channels or the type is wrong.
        """
        logits: Tensor = self.model(self.normalize(pixels))
        return logits

    def forward_with_blocks(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits, and the outputs of ``self.blocks`` in that order as their modules give them.

        Raises:
            InputError: as for ``forward``, or a block is never called.
        """
        with _recorded(self.model, self.blocks) as outputs:
            logits = self(pixels)
        unused = [name for name in self.blocks if name not in outputs]
        if unused:
            raise InputError(f"blocks: {unused[0]!r} takes no part in the forward pass; leave it out")
        return logits, tuple(outputs[name] for name in self.blocks)

    @property
    def image_mean(self) -> Tensor:
        """(1, C, 1, 1), where pixels of images lie: the mean, or 0.5 for a model that takes raw pixels."""
        return self.mean if self.normalizes else torch.full_like(self.mean, 0.5)

    @property
    def image_std(self) -> Tensor:
        """(1, C, 1, 1), how far they spread: the deviation, or 0.25 for a model that takes raw pixels.

        Mean 0 and deviation 1 say nothing about images. A generator that took them for a scale drew most
        of its pixels outside [0, 1], and a student of CIFAR-10 ended at chance after 1,900 rounds.
        """
        return self.std if self.normalizes else torch.full_like(self.std, 0.25)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels as the model takes them: resized, only if their size differs, and normalized."""
        if pixels.ndim != 4 or pixels.shape[1] != self.spec.channels or not pixels.is_floating_point():
            raise InputError(
                f"pixels: {pixels.dtype} of shape {tuple(pixels.shape)}; pass floating pixels in [0, 1]"
                f" of shape (N, {self.spec.channels}, H, W)"
            )
        size = (self.spec.height, self.spec.width)
        if tuple(pixels.shape[-2:]) != size:
            smooth = self.interpolation != "nearest"
            pixels = F.interpolate(pixels, size, mode=self.interpolation, antialias=smooth)
        return (pixels - self.mean) / self.std

    def freeze(self) -> Self:
        """Evaluation mode for good, and no gradients for the weights; images still get theirs."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless frozen."""
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
    """A pretrained classifier, frozen. Nothing that comes with it is run.

    Args:
        source: a timm name; ``hf-hub:org/name[@revision]`` or ``org/name``, of timm or transformers;
            ``local-dir:/path`` or a folder, of timm or transformers; a file with a state dict.
        revision: branch, tag or commit on the Hub; the commit is what gets recorded.
        architecture: timm name, needed for a bare state dict.
        allow_pickle: where there is no safetensors file, read a pickle's tensors with ``weights_only``.
        num_classes: needed only where the head does not tell.
        labels: one name a class; the checkpoint's by default, else the class numbers.
        mean: one number a channel in pixel units, where the checkpoint has none or another is wanted.
        std: likewise.
        input_size: side or (height, width), likewise.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, likewise.
        blocks: names of the modules to match; by default what timm calls the model's stages.
        allow_flagged: use a repository although the Hub's own scan has flagged a file in it.
        max_size_gb: most to download from the Hub, in GB of 10^9 bytes.

    Raises:
        InputError: the source, an option or the checkpoint is wrong, or preprocessing is missing.
    """
    options = Options(
        source=source,
        revision=revision,
        architecture=architecture,
        allow_pickle=allow_pickle,
        num_classes=num_classes,
        labels=labels,
        mean=mean,
        std=std,
        input_size=input_size,
        interpolation=interpolation,
        blocks=blocks,
        allow_flagged=allow_flagged,
        max_size_gb=max_size_gb,
    )
    return load_with(options)


def load_with(options: Options) -> Classifier:
    """The frozen classifier that the options describe; see ``load_classifier``.

    Raises:
        InputError: the source, an option or the checkpoint is wrong, or preprocessing is missing.
    """
    with seeded(0, "load"):  # fresh weights, soon overwritten, must not use up the caller's random numbers
        found = loading.load(options)
    images = found.images
    spec = DataSpec(len(images.mean), *images.size, found.labels)
    classifier = Classifier(
        found.model,
        spec,
        images.mean,
        images.std,
        interpolation=images.interpolation,
        blocks=options.blocks or _stages(found.model),
        ref=found.ref,
    ).freeze()
    classifier.architecture = found.architecture
    classifier.model_args = dict(found.model_args)
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
    """A trainable classifier of any timm architecture, its weights drawn from ``seed`` alone.

    Args:
        architecture: one of ``abd_hub.students`` or any other timm name.
        spec: images and labels.
        mean: one number a channel, in pixel units.
        std: likewise.
        seed: the run's seed; the global random generators stay untouched.
        model_args: further arguments of the architecture, JSON types only.
        pretrained: begin with timm's pretrained weights; a head of another size stays fresh.

    Raises:
        InputError: timm does not know the name, or cannot build it for these images.
    """
    args = dict(model_args or {})
    _check_statistics(spec, mean, std)
    name = architecture.partition(".")[0]  # a tag names weights, not an architecture
    with seeded(seed, "student"):
        model = loading.build_student(architecture, spec, args, pretrained)
    student = Classifier(model, spec, mean, std, blocks=_stages(model), ref=ModelRef(architecture, name))
    student.architecture = name
    student.model_args = args
    student.eval()
    _try_out(student, guessed=True)
    return student.train()


def save_timm_folder(classifier: Classifier, folder: str | Path) -> ModelRef:
    """Writes model.safetensors and config.json, which timm's ``local-dir:`` and ``hf-hub:`` reload.

    The number of classes stays out of ``model_args``: transformers passes it itself and fails when it comes
    twice.

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
            "mean": _shortest(classifier.mean),
            "std": _shortest(classifier.std),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }
    args = {
        key: value for key, value in classifier.model_args.items() if key not in ("num_classes", "in_chans")
    }
    if known.get("fixed_input_size"):
        args["img_size"] = [spec.height, spec.width]  # timm knows it from input_size, transformers does not
    if spec.channels != 3:
        args["in_chans"] = spec.channels  # likewise
    return config | ({"model_args": args} if args else {})


def _shortest(numbers: Tensor) -> list[float]:
    """The shortest decimals that are these float32 numbers again: 0.1, not 0.10000000149011612."""
    return [float(str(number)) for number in numbers.flatten().float().cpu().numpy()]


def _check_statistics(spec: DataSpec, mean: Sequence[float], std: Sequence[float]) -> None:
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) != spec.channels:
            raise InputError(
                f"{name}: {len(numbers)} numbers for {spec.channels} channels; pass one a channel"
            )
    if not all(number > 0 for number in std):
        raise InputError(f"std: {list(std)} has a number that is not positive; pass deviations above 0")


def _ref_of(model: nn.Module) -> ModelRef:
    name = type(model).__qualname__
    return ModelRef(name, name, sha256=weights_sha256(model))


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of the named modules while the model runs."""
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [model.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _stages(model: nn.Module) -> tuple[str, ...]:
    """The stages that timm names, less a first one that is only a stem: at most one weight matrix."""
    info = getattr(model, "feature_info", None)
    if info is None or getattr(model, "output_fmt", "NCHW") != "NCHW":
        return ()
    modules = dict(model.named_modules())
    names = [entry["module"] for entry in info]
    if not names or any(name not in modules for name in names):
        return ()
    matrices = [weight for weight in modules[names[0]].parameters() if weight.ndim > 1]
    return tuple(names if len(matrices) > 1 else names[1:])


@torch.no_grad()
def _try_out(classifier: Classifier, *, guessed: bool) -> None:
    """One black image shows whether size, classes and blocks are right, before anything is built on them."""
    spec = classifier.spec
    pixels = torch.zeros(1, spec.channels, spec.height, spec.width)
    try:
        with _recorded(classifier.model, classifier.blocks) as outputs:
            logits = classifier(pixels)
    except Exception as error:  # whatever the architecture raises at sizes that it cannot take
        size = f"{spec.channels}x{spec.height}x{spec.width}"
        raise InputError(
            f"input_size: {classifier.ref.id} does not take {size}: {reason_of(error)}"
        ) from error
    if tuple(logits.shape) != (1, spec.num_classes):
        shape = tuple(logits.shape)
        raise InputError(
            f"labels: {spec.num_classes} for {classifier.ref.id}, whose logits have shape {shape};"
            " pass one label a class"
        )
    maps = all(name in outputs and outputs[name].ndim == 4 for name in classifier.blocks)
    if guessed and not maps:
        classifier.blocks = ()  # tokens, not maps: nothing to match by position
