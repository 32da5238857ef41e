"""This page says what a trigger, a method and a defense must offer, in this order.

A student offers nothing of its own: it is a timm model, as ``abd_hub/students/wide_resnet.py`` shows.

Shapes are written (N, C, H, W): N images of C channels, H rows and W columns. Outside a model an image is
float in *pixel space*, the range [0,1]. Data sets hold uint8. Only a model normalizes, inside itself. A
synthesizer may leave [0,1], because the papers' generators do: its pixels are ``z * std + mean``.

One round of a distillation calls its plug-ins in this order:

1. ``begin_round`` and ``fresh_learning_rate`` of the defense, then ``begin_round`` of the synthesizer.
2. ``update`` of the synthesizer, on a ``View`` that applies ``drawn`` and ``penalty`` of the defense.
3. ``sample`` of the synthesizer. With ``drawn`` and ``sample_weights`` of the defense it makes a ``Batch``.
4. Student steps. The defense acts by ``student_view`` before a step, and by ``add_gradients`` within it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from abd_hub.core.evidence import Evidence
from abd_hub.core.plugin_settings import PluginFacts
from abd_hub.core.records import DataSpec, DefenseReport
from abd_hub.core.settings import Count, NotNegative, Positive, Range, Settings, ShareBelowOne

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn


# ------------------------------------------------------------------------------------------------ a trigger


class Trigger(Protocol):
    """Puts an attacker's mark on images; usually a frozen dataclass whose fields are the options.

    A trigger is a pure function: it keeps no state, draws nothing at random while it is applied, and treats
    each image alone. The call gives the form with which an attack is measured.

    Two more methods are optional. Both take and return images as the call does, and draw from ``chance``, a
    ``torch.Generator`` on the CPU:

    - ``training(pixels, chance)`` gives poisoned training images, where the paper's differ from the call's.
    - ``cover(pixels, chance)`` gives cover images, which carry a mark and keep their label.
    """

    def __call__(self, pixels: Tensor) -> Tensor:
        """Takes (N, C, H, W) in [0,1]; returns the same shape, dtype, device and range."""
        ...


# ------------------------------------------------------------------------------------------------- a method


@dataclass(frozen=True)
class ImageSource:
    """Names the real images that a method needs."""

    dataset: str
    """Hub id or local folder."""
    split: str
    image_size: int | None = None
    """Height and width to which every image is squashed; None keeps the images' own size."""


class Teacher(Protocol):
    """Shows synthesis and defenses the teacher: a frozen module from pixels to logits."""

    spec: DataSpec

    @property
    def image_mean(self) -> Tensor:
        """(1, C, 1, 1), the mean of natural images in pixel units, as far as the checkpoint states it."""
        ...

    @property
    def image_std(self) -> Tensor:
        """(1, C, 1, 1), their standard deviation: the scale of generators and perturbations."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Takes (N, C, H, W) pixels; returns (N, classes) logits."""
        ...


@dataclass(frozen=True, kw_only=True)
class SynthesisMethod(PluginFacts, Settings, ABC):
    """Holds a method's settings: how images are made, for how long, and with which loss the student learns.

    A frozen dataclass extends it, registers itself and has ``build``.
    """

    images: ClassVar[str] = "synthetic images"
    """Name of the images on cards, after the words "the teacher's answers to"."""
    data_free: ClassVar[bool] = True
    """Whether the method needs no image of the teacher's training data, and no other image in its place."""
    learns_images: ClassVar[bool] = True
    """Whether a loss shapes the images: then a defense acts by ``penalty``, else by ``sample_weights``."""

    rounds: Count
    """Sets the number of rounds, each with one pseudo-batch of images."""
    batch_size: Count
    """Sets the number of images in a pseudo-batch, over all processes together."""
    student_steps: Count
    """Sets the number of student steps in a round."""
    learning_rate: Positive
    """Sets the learning rate of the student's optimizer at the start."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Selects the student's optimizer, adam or sgd."""
    momentum: ShareBelowOne = 0.9
    """Sets the momentum of sgd."""
    weight_decay: NotNegative = 0.0
    """Sets the weight decay of the student's optimizer, which is added to the gradient."""
    learning_rate_drops: tuple[Annotated[float, Range(above=0, below=1)], ...] = ()
    """Lists shares of the rounds after which the rate falls to a tenth; if empty, a cosine leads to zero."""
    learning_rate_warmup: ShareBelowOne = 0.0
    """Sets the share of the rounds in which the student's rate first rises from zero, linearly."""
    clip_norm: NotNegative
    """Limits the gradient norm of student and synthesizer (0 for no limit)."""
    loss: Literal["kl", "l1"] = "kl"
    """Selects the student's loss on the logits, kl or l1. KL(softmax(teacher/T) || softmax(student/T)) is
    summed over classes, the absolute difference l1 is averaged over them. Both are averaged over samples."""
    temperature: Positive
    """Sets T, the temperature of the KL divergence."""
    temperature_squared: bool = False
    """Multiplies the KL divergence by T squared, which keeps its gradient's size (Hinton et al., 2015)."""
    cross_entropy_weight: NotNegative = 0.0
    """Weights the cross-entropy with the teacher's class as label, which is added to the loss."""
    attention_weight: NotNegative
    """Weights attention transfer over matching block outputs (0 switches it off)."""
    hint_weight: NotNegative = 0.0
    """Weights hints (FitNets, Romero et al., 2015), in which linear maps of the student's block outputs
    predict the teacher's; 0 switches them off."""

    def steps_in(self, index: int) -> int:
        """Returns the student steps of round ``index``: 0 while a bank is still being filled."""
        return self.student_steps

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns settings for a budget that is far too short for the defaults, such as small batches.

        They replace fields that have their default values. By default they are those of ``quick``.
        """
        return cls.quick(1000) or {}

    def timed(self) -> tuple[SynthesisMethod, float]:
        """Returns cheaper settings for timing a round, and how many times as long ``update`` really takes."""
        return self, 1.0

    def image_source(self) -> ImageSource | None:
        """Returns the real images that ``build`` needs; None for a data-free method."""
        return None

    @abstractmethod
    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> Synthesizer:
        """Returns the synthesizer, ready to work on the accelerator's device.

        Args:
            teacher: frozen, on the device.
            accelerator: gives device, precision and the backward pass.
            seed: seeds every draw.
            images: (n, C, H, W) uint8, the images of ``image_source``; None for a data-free method.
        """


class Synthesizer(ABC):
    """Makes the student's images during a run."""

    @abstractmethod
    def begin_round(self, index: int) -> None:
        """Fixes the random draws of round ``index``."""

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Learns, for example by a generator step or by new images for a bank.

        Args:
            networks: every forward pass goes through one of its views. The synthesizer adds the view's
                ``penalty`` to its loss.

        Returns:
            Figures for the log, as 0-d tensors.
        """
        return {}

    @abstractmethod
    def sample(self, step: int) -> Tensor | None:
        """Returns detached pixels (N, C, H, W) for student step ``step``; None repeats the last ones."""

    def unseen(self, count: int) -> Tensor | None:
        """Returns images of the method from which the student has not learned; None where that is costly.

        They show whether the student answers new images as the teacher does. The trainer calls this after
        ``update`` and before the student's steps. It must leave everything as it is: no later draw, weight or
        statistic may depend on it.

        Args:
            count: the most images that are useful, over all processes together.

        Returns:
            Detached pixels of this process alone, (N, C, H, W).
        """
        return None

    def bank(self) -> ImageBank | None:
        """Returns the images kept for the student; None for a method that draws them anew."""
        return None

    def facts(self) -> Mapping[str, Any]:
        """Returns the origin of the images for the record, in JSON types only."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns a nested dict of tensors and JSON values that ``load_state_dict`` restores exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state that ``state_dict`` has returned."""


class ImageBank(Protocol):
    """Keeps synthetic images for the student."""

    @property
    def images(self) -> Tensor:
        """(n, C, H, W) uint8."""
        ...

    @property
    def labels(self) -> Tensor:
        """(n,) int64, the class for which each image was made."""
        ...


@dataclass(frozen=True, eq=False)
class Networks:
    """Gives a synthesizer the teacher and the student; ``view`` is the way to both.

    A synthesizer that ran a network without a view would bypass the defenses.
    """

    teacher: Teacher
    student: nn.Module
    """The student in its present state. A synthesizer may switch it to eval mode while it works."""
    defense: DefensePlugin

    def view(self, made: Tensor) -> View:
        """Passes the images that a synthesizer has made through the defenses.

        Args:
            made: (N, C, H, W) pixels; the gradient flows through.
        """
        return View(self.defense.drawn(made), self)


@dataclass(frozen=True, eq=False)
class View:
    """Holds images that have passed the defenses, and runs both networks on them."""

    pixels: Tensor
    """(N, C, H, W), with the gradient to the synthesizer attached."""
    networks: Networks

    def teacher_logits(self) -> Tensor:
        """Returns (N, classes) with gradient; each call is a forward pass."""
        return self.networks.teacher(self.pixels)

    def student_logits(self) -> Tensor:
        """Returns (N, classes) with gradient; each call is a forward pass."""
        logits: Tensor = self.networks.student(self.pixels)
        return logits

    def penalty(self, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """Returns the defenses' scalar for the loss of the images, as ``DefensePlugin.penalty`` describes."""
        return self.networks.defense.penalty(self.pixels, teacher_logits, finished)


@dataclass(frozen=True)
class Batch:
    """Holds one synthetic batch, computed once and used by every student step on it."""

    pixels: Tensor
    """(N, C, H, W) float, detached."""
    teacher_logits: Tensor
    """(N, classes), detached."""
    teacher_features: tuple[Tensor, ...] = ()
    """Block outputs for attention transfer, each (N, C_i, H_i, W_i), detached; empty when unused."""
    weights: Tensor | None = None
    """(N,), factors of the samples' losses before these are summed; None for the mean of the losses."""


# ------------------------------------------------------------------------------------------------ a defense


@dataclass(frozen=True, kw_only=True)
class Defense(PluginFacts, Settings):
    """Holds a defense's settings: a frozen dataclass extends it, registers itself and has ``build``."""

    evidence_captions: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs (file relative to the run's folder, caption) for the pictures of its ``Evidence``. A pattern
    needs no pair, because all patterns share one caption."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns no setting: the defaults suit a short run unless a defense says otherwise."""
        return {}

    def late_rounds(self) -> int:
        """Returns how many of the last rounds cost more than the others, for a run with a budget."""
        return 0

    def build(self, teacher: Any, seed: int = 0) -> DefensePlugin:
        """Returns the defense, ready to work.

        Args:
            teacher: a frozen ``Teacher`` on the device, usually a module.
            seed: seeds every draw.
        """
        raise NotImplementedError


class DefensePlugin:
    """Acts against the backdoor during a run. A hook that a defense does not override does nothing.

    A defense sees the teacher, the student and the student's images. It never sees a trigger, nor the data on
    which the student is measured.
    """

    name: str = ""

    def check(self, rounds: int) -> None:
        """Raises ``InputError``, before any work, when a run of ``rounds`` rounds makes no sense here."""

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Prepares round ``index`` of ``rounds``; a loop without rounds may leave the call out."""

    def fresh_learning_rate(self, index: int, rounds: int) -> float | None:
        """Returns the learning rate when the student's optimizer must begin anew in this round, else None."""
        return None

    def drawn(self, pixels: Tensor) -> Tensor:
        """Returns the images that both networks see in place of (N, C, H, W) ``pixels`` of a synthesizer."""
        return pixels

    def penalty(self, pixels: Tensor, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """Returns a scalar that the synthesizer adds to its loss; zero where the defense does nothing.

        ``finished`` is False in all but the last of many steps that fit the same images. A defense learns
        nothing about images in general from unfinished ones.
        """
        return teacher_logits.new_zeros(())

    def sample_weights(self, pixels: Tensor, teacher_logits: Tensor) -> Tensor | None:
        """Returns (N,) weights under which the samples' losses are summed; None for their mean.

        The trainer calls it once a batch, before the student's steps, and only for methods whose images do
        not learn. There no ``penalty`` could move the images.
        """
        return None

    def student_view(self, pixels: Tensor) -> Tensor:
        """Returns the images for the student; its goal stays the teacher's answer to ``pixels``."""
        return pixels

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Adds to ``.grad`` of the student's parameters, between backward pass and optimizer step."""

    def report(self) -> DefenseReport:
        """Returns the defense's deeds so far; it must be true about whether any gradient has changed."""
        raise NotImplementedError

    def evidence(self, images: Tensor) -> Evidence | None:
        """Returns findings worth a picture after the last round, or None; changes and draws nothing.

        The student learned from ``images``, (N, C, H, W), last. One process calls it, without gradients.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Returns a nested dict of tensors and JSON values that ``load_state_dict`` restores exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state that ``state_dict`` has returned."""
