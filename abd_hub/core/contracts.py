"""What the modules hand to each other. Imports nothing of ours and nothing heavy.

One contract for images: outside a model they are float NCHW in [0,1] *pixel space*; data sets are uint8.
A synthesizer may leave [0,1], because the papers' generators do: its pixels are ``z * std + mean``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from abd_hub.core.records import DataSpec, DefenseReport
from abd_hub.core.settings import Count, NotNegative, Positive, Range, Settings, ShareBelowOne

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn


@dataclass(frozen=True)
class ImageSource:
    """Real images that a method asks for."""

    dataset: str
    """Hub id or local folder."""
    split: str
    image_size: int | None = None
    """Height and width to resize every image to; None where they are of one size."""


@dataclass(frozen=True)
class Batch:
    """One synthetic batch, computed once and used by every student step on it."""

    pixels: Tensor
    """(N, C, H, W) float, detached."""
    teacher_logits: Tensor
    """(N, classes), detached."""
    teacher_features: tuple[Tensor, ...] = ()
    """Block outputs for attention transfer, each (N, C_i, H_i, W_i), detached; empty when unused."""
    weights: Tensor | None = None
    """(N,), what the samples' losses are multiplied by before they are summed; None for their mean."""


class Trigger(Protocol):
    """A pure function of pixels, usually a frozen dataclass: no state, no random draw while applied."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) in [0,1] to the same shape, dtype, device and range."""
        ...


@dataclass(frozen=True)
class Divergence:
    """How far the shuffled copies of a teacher are from it on synthetic images; one entry an image."""

    kl: tuple[float, ...]
    """KL(T || T~) in nats."""
    suspicious: tuple[bool, ...]
    """Whether the copies still give the teacher's class: what the vaccine's penalty is about."""
    threshold: float
    """Mean - 3 std of log10 KL, as a divergence in nats: the vaccine check counts the images below it."""
    judged: bool
    """Whether the threshold is the one that the check used; else it is that of these very images."""
    draw: int
    """Which draw of permutations."""
    used: bool
    """Whether the run used this draw: not where the check refused it or was never decided."""


@dataclass(frozen=True)
class Evidence:
    """What a defense leaves to be looked at when a run is over."""

    divergence: Divergence | None = None
    pattern: Tensor | None = None
    """(C, H, W) in pixel units: a perturbation or direction that it found."""


@dataclass(frozen=True, kw_only=True)
class PluginFacts:
    """What cards and the page need to know of a plug-in beside its fields; every entry has a default.

    Students and triggers do not extend it, and may have an attribute ``citation`` all the same.
    """

    citation: ClassVar[str] = ""
    """BibTeX of its paper, which the cards of its runs cite; empty where there is none."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns settings with which a run on a CPU gets somewhere within minutes.

        Args:
            rounds: of the run, 1 to some thousands.

        Returns:
            The fields, other than ``rounds``, that differ from their defaults; None where no settings are
            that quick, and the page does not offer the plug-in.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Defense(PluginFacts, Settings):
    """The settings of a defense: a frozen dataclass extends this, and registers itself."""

    evidence_captions: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(file relative to the run's folder, caption) of the pictures drawn from its ``Evidence``. A pattern
    needs no entry: every defense's has the same caption."""

    @classmethod
    def quick(cls, rounds: int) -> dict[str, Any] | None:
        """Returns no setting: the defaults suit a short run unless a defense says otherwise."""
        return {}

    def build(self, teacher: Any, seed: int = 0) -> DefensePlugin:
        """Returns the defense at work.

        Args:
            teacher: a frozen ``Teacher`` on the device, usually a module.
            seed: of every draw.
        """
        raise NotImplementedError


class DefensePlugin:
    """A defense at work. Hooks that a defense does not use stay as they are here: they do nothing.

    A defense sees the teacher, the student and the images the student learns from, never a trigger and never
    the data that the student is measured on.
    """

    name: str = ""

    def check(self, rounds: int) -> None:
        """Refuses, before any work, a run of ``rounds`` rounds that makes no sense with this defense."""

    def begin_round(self, index: int, rounds: int, student: nn.Module) -> None:
        """Called before each of the ``rounds`` pseudo-batches; a loop without rounds may leave it out."""

    def fresh_learning_rate(self, index: int, rounds: int) -> float | None:
        """A learning rate when the student's optimizer must begin anew with this round, else None."""
        return None

    def penalty(self, pixels: Tensor, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """Scalar to add to the loss of whatever draws the images; zero where the defense does nothing.

        ``finished`` is False in all but the last of many steps that fit the same images: what a defense
        learns about images in general, it should not learn from half-made ones.
        """
        return teacher_logits.new_zeros(())

    def drawn(self, pixels: Tensor) -> Tensor:
        """What teacher and student are to see in place of images that a synthesizer has drawn."""
        return pixels

    def sample_weights(self, pixels: Tensor, teacher_logits: Tensor) -> Tensor | None:
        """(N,) weights of the samples' losses where the images are fixed and no ``penalty`` can move them.

        Called once a batch, before the student's steps on it, by methods whose images do not learn.

        Returns:
            None for the mean over the samples, else weights under which the losses are summed.
        """
        return None

    def student_view(self, pixels: Tensor) -> Tensor:
        """What the student is to see in place of ``pixels``; its goal stays the teacher's answer to them."""
        return pixels

    def add_gradients(self, student: nn.Module, batch: Batch) -> None:
        """Adds to ``.grad`` of the student's parameters, between backward and the optimizer's step."""

    def report(self) -> DefenseReport:
        """What has happened so far."""
        raise NotImplementedError

    def evidence(self, images: Tensor) -> Evidence | None:
        """What is worth looking at after the last round; changes nothing and draws nothing.

        Called in one process, without gradients.

        Args:
            images: (N, C, H, W), what the student learned from in the last rounds.

        Returns:
            None for a defense that leaves nothing.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of tensors and JSON values that ``load_state_dict`` restores exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""


@dataclass(frozen=True, eq=False)
class Networks:
    """Teacher and student as a synthesizer may run them: ``view`` is the way to both.

    A synthesizer that runs a network past its views would show it images which no defense has changed.
    """

    teacher: Teacher
    student: nn.Module
    """As it is now. A synthesizer may switch it to eval mode while it works."""
    defense: DefensePlugin

    def view(self, made: Tensor) -> View:
        """The images that both networks see in place of those that a synthesizer has made.

        Args:
            made: (N, C, H, W) pixels; the gradient flows through.
        """
        return View(self.defense.drawn(made), self)


@dataclass(frozen=True, eq=False)
class View:
    """Images after the ``drawn`` of the defenses, and what the networks and the defenses say to them."""

    pixels: Tensor
    """(N, C, H, W), with the gradient to the synthesizer attached."""
    networks: Networks

    def teacher_logits(self) -> Tensor:
        """(N, classes), attached. Each call is a pass."""
        return self.networks.teacher(self.pixels)

    def student_logits(self) -> Tensor:
        """(N, classes), attached. Each call is a pass."""
        logits: Tensor = self.networks.student(self.pixels)
        return logits

    def penalty(self, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """The scalar that the defenses add to the loss of the images; see ``DefensePlugin.penalty``.

        Args:
            teacher_logits: (N, classes), from ``teacher_logits``.
            finished: False in all but the last of many steps that fit the same images.
        """
        return self.networks.defense.penalty(self.pixels, teacher_logits, finished)


class Synthesizer(ABC):
    """Where the student's images come from, at work in a run."""

    @abstractmethod
    def begin_round(self, index: int) -> None:
        """Fixes the random draws of this round."""

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Learns (a generator step, a bank refill); returns figures to log as 0-d tensors.

        Args:
            networks: every pass goes through one of its views, whose ``penalty`` is added to the loss.
        """
        return {}

    @abstractmethod
    def sample(self, step: int) -> Tensor | None:
        """Pixels (N, C, H, W) for student step ``step``, detached; None: the same as the step before."""

    def bank(self) -> ImageBank | None:
        """The images kept for the student; None for a method that draws them anew."""
        return None

    def facts(self) -> Mapping[str, Any]:
        """What the record is to tell about where the images came from; JSON types only."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Nested dict of tensors and JSON values that ``load_state_dict`` restores exactly."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""


class ImageBank(Protocol):
    """Synthetic images that are kept."""

    @property
    def images(self) -> Tensor:
        """(n, C, H, W) uint8."""
        ...

    @property
    def labels(self) -> Tensor:
        """(n,) int64, the class that each image was made for."""
        ...


class Teacher(Protocol):
    """What synthesis and defenses may know of the teacher: a frozen module from pixels to logits."""

    spec: DataSpec

    @property
    def image_mean(self) -> Tensor:
        """(1, C, 1, 1), where the pixels of natural images lie, as far as the teacher tells."""
        ...

    @property
    def image_std(self) -> Tensor:
        """(1, C, 1, 1), how far they spread: the scale of generators and perturbations, in pixel units."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) pixels to (N, classes) logits."""
        ...


@dataclass(frozen=True, kw_only=True)
class SynthesisMethod(PluginFacts, Settings, ABC):
    """A data-free method: how images are drawn, how long, and with which loss the student learns."""

    images: ClassVar[str] = "synthetic images"
    """What the student learns from, in a few words that a card can put after "the teacher's answers to"."""
    data_free: ClassVar[bool] = True
    """Whether it needs no image of the teacher's training data, and no other image in its place."""
    learns_images: ClassVar[bool] = True
    """Whether a loss shapes the images, so that a defense's ``penalty`` can; else it weighs samples."""

    rounds: Count
    """Pseudo-batches in all."""
    batch_size: Count
    """Images in a pseudo-batch, over all processes together."""
    student_steps: Count
    """Student steps in a round."""
    learning_rate: Positive
    """Of the student's optimizer, at the start."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Of the student: adam or sgd."""
    momentum: ShareBelowOne = 0.9
    """Of sgd."""
    weight_decay: NotNegative = 0.0
    """Of the student's optimizer, added to the gradient."""
    learning_rate_drops: tuple[Annotated[float, Range(above=0, below=1)], ...] = ()
    """Shares of the rounds after which the rate falls to a tenth; without any it follows a cosine to zero."""
    clip_norm: NotNegative
    """Largest gradient norm of student and synthesizer; 0 switches clipping off."""
    loss: Literal["kl", "l1"] = "kl"
    """Of the student on the logits: kl, KL(softmax(teacher/T) || softmax(student/T)) summed over classes, or
    l1, the absolute difference averaged over classes; both averaged over samples."""
    temperature: Positive
    """T of the KL divergence."""
    temperature_squared: bool = False
    """Multiply the KL divergence by T squared (Hinton et al., 2015), which keeps its gradient's size."""
    cross_entropy_weight: NotNegative = 0.0
    """Weight of the cross-entropy with the teacher's class as label, added to the loss."""
    attention_weight: NotNegative
    """Weight of attention transfer over matching block outputs; 0 switches it off."""

    def steps_in(self, index: int) -> int:
        """Student steps in round ``index``: ``student_steps``, none while a bank is being filled first."""
        return self.student_steps

    def image_source(self) -> ImageSource | None:
        """Real images that ``build`` must be given; None for a data-free method."""
        return None

    @abstractmethod
    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> Synthesizer:
        """The synthesizer at work, on the accelerator's device.

        Args:
            teacher: frozen, on the device.
            accelerator: gives device, precision and the backward pass.
            seed: of every draw.
            images: (n, C, H, W) uint8, where ``image_source`` asks for them.
        """
