"""Implements Contrastive Model Inversion (Fang et al., IJCAI 2021, arXiv 2105.08584).

Each round fits a fresh generator G and its noise z to one batch of images x = G(z) of drawn classes c. With
the global view g = crop(x) and the local view l = resized box(x), G and z minimize

    w_t CE(T(g), c) + w_s R(g) - w_a mean(m KL(T(g) || S(g))) + w_c L.

R is the distance of DeepInversion (``batch_norm``). m is 1 where teacher T and student S choose the same
class, else 0. L separates every image from all others. The inputs of T's BatchNorm layers, averaged over
height and width, describe an image. A small network, the head, maps this description to the embedding e(.).
The local view has to match the global view of the same image better than any other global view:

    L = mean_i -log(exp(cos(e(l_i), e(g_i)) / tau) / sum_j exp(cos(e(l_i), e(g_j)) / tau)).

L is computed twice and summed. With i over the batch it shapes the images. With i over the earlier images it
trains the head alone. j runs over both, and e(g) passes no gradient on. The batch with the lowest loss of the
round goes into the bank, from which the student learns.

Rounds, steps and tau follow the runs that start from nothing, which later work compares with. The authors'
script for CIFAR-10 runs 40 epochs of 2,000 student steps on a bank that was filled before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from abd_hub.core import seeding
from abd_hub.core.contracts import Networks, Teacher
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, NotNegative, Positive, PositiveShare, Range
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.losses import agreed_divergence, cross_entropy, info_nce
from abd_hub.learning.modes import in_eval_mode
from abd_hub.synthesis import views
from abd_hub.synthesis.bank_synthesizer import BankMethod, BankSynthesizer
from abd_hub.synthesis.batch_norm import BatchNormStatistics
from abd_hub.synthesis.feature_bank import FeatureBank
from abd_hub.synthesis.generator import Generator


@register("synthesizers", "cmi")
@dataclass(frozen=True, kw_only=True)
class Cmi(BankMethod):
    """Contrastive Model Inversion: fits batches to the teacher, with each image unlike all earlier ones."""

    citation: ClassVar[str] = """@inproceedings{fang2021cmi,
  title     = {Contrastive Model Inversion for Data-Free Knowledge Distillation},
  author    = {Fang, Gongfan and Song, Jie and Wang, Xinchao and Shen, Chengchao and Wang, Xingen and
               Song, Mingli},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year      = {2021},
  note      = {arXiv:2105.08584}
}"""

    rounds: int = 200
    """Sets the number of rounds. Each makes a batch in ``generator_steps`` and takes ``student_steps``."""
    batch_size: int = 128
    """Sets the images per student step; the processes share them."""
    student_steps: int = 400
    """Sets the student steps per round; each has its own batch."""
    learning_rate: float = 0.1
    """Sets the student's learning rate; from here it follows a cosine to zero unless there are drops."""
    clip_norm: float = 0.0
    """Limits the gradient norms of student and generator; 0 switches clipping off."""
    temperature_squared: bool = True
    """Multiplies the student's KL divergence by T squared, which keeps its gradient's size."""
    attention_weight: float = 0.0
    """Weighs attention transfer; 0 switches it off."""
    generator_steps: Count = 200
    """Sets the steps that fit a batch."""
    generator_learning_rate: Positive = 1e-3
    """Sets the generator's learning rate; it also holds for the noise and for the head."""
    z_dim: Count = 256
    """Sets the noise vector's length."""
    generator_channels: Annotated[int, Range(least=2)] = 128
    """Sets the generator's feature maps; its second half has half as many."""
    one_hot_weight: NotNegative = 1.0
    """Weighs the teacher's cross-entropy with the drawn classes."""
    batch_norm_weight: NotNegative = 1.0
    """Weighs the BatchNorm distance, the term that matches the teacher's statistics."""
    adversarial_weight: NotNegative = 0.5
    """Weighs the divergence between teacher and student where both choose the same class."""
    contrast_weight: NotNegative = 0.8
    """Weighs the contrastive loss."""
    contrast_temperature: Positive = 0.1
    """Sets tau, the temperature of the contrastive loss."""
    local_area: PositiveShare = 0.25
    """Sets the smallest share of an image's area that its local view shows, in (0, 1]."""
    embedding_dim: Count = 256
    """Sets the length of the embedding that the head computes."""
    negatives: Count = 4_096
    """Sets the earlier images per step of the generator."""
    feature_bank_size: Count = 40_960
    """Limits the earlier images whose embeddings are kept."""
    bank_size: int = 51_200
    """Limits the images kept for the student; further ones replace the oldest."""
    crop_padding: int = 4
    """Pads images before random crops, by so many pixels, for global view and student; 0 for none."""
    flip: bool = True
    """Mirrors half of the images in both views and in the student's batches."""

    @classmethod
    def frugal(cls) -> dict[str, Any]:
        """Returns a quarter of the images, a seventh of the generator steps, and half the generator."""
        small = {"batch_size": 64, "synthesis_batch_size": 64, "generator_steps": 30, "student_steps": 30}
        return small | {"generator_channels": 64, "negatives": 512}

    def timed(self) -> tuple[Cmi, float]:
        """Times two steps of the generator."""
        return dataclasses.replace(self, generator_steps=2), self.generator_steps / 2

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> CmiSynthesizer:
        """Returns CMI at work, with head and banks on the accelerator's device.

        Raises:
            InputError: the teacher has no BatchNorm, or the processes cannot share the batches.
        """
        return CmiSynthesizer(self, teacher, accelerator, seed)


@dataclass(frozen=True)
class _Made:
    """Holds one step's images with their loss and embeddings, all detached."""

    loss: Tensor
    """Is a 0-d tensor, the mean over all processes."""
    pixels: Tensor
    """Has shape (N, C, H, W)."""
    local: Tensor
    """Holds the embeddings of the local views before the head, (N, width)."""
    whole: Tensor
    """Holds the embeddings of the global views before the head, (N, width)."""

    def lower(self, other: _Made) -> _Made:
        """Returns the step with the lower loss, this one where both are equal; the device chooses."""
        better = other.loss < self.loss
        names = [field.name for field in fields(self)]
        return _Made(*[torch.where(better, getattr(other, name), getattr(self, name)) for name in names])


class CmiSynthesizer(BankSynthesizer):
    """Runs CMI."""

    method: Cmi

    def __init__(self, method: Cmi, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        assert isinstance(teacher, nn.Module), "every teacher is a module"
        self.statistics = BatchNormStatistics(teacher, "cmi")
        super().__init__(method, teacher, accelerator, seed)

        width, like = self.statistics.width, teacher.image_mean
        self.features = FeatureBank(width, method.feature_bank_size, like)

        with seeding.seeded(seed, "cmi", "head"):
            head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, method.embedding_dim))
        self.head = head.to(like.device, like.dtype)
        self.head_optimizer = torch.optim.Adam(self.head.parameters(), lr=method.generator_learning_rate)

    def update(self, networks: Networks) -> dict[str, Tensor]:
        """Fits a fresh generator and keeps the best of its batches with their classes.

        Only generator, noise and head get gradients. Teacher and student pass the gradient on to the images,
        without gradients for their own weights.

        Returns:
            ``lowest_loss`` and the unweighted terms of the last step, 0-d tensors.
        """
        generator, noise = self._fresh()
        optimizer = torch.optim.Adam(
            [*generator.parameters(), noise], lr=self.method.generator_learning_rate, betas=(0.5, 0.999)
        )
        targets = self.drawn_classes()
        best: _Made | None = None
        figures: dict[str, Tensor] = {}

        with in_eval_mode(networks.student):
            for step in range(self.method.generator_steps):
                with self.accelerator.autocast():
                    pixels = generator(noise).to(self.teacher.image_mean.dtype)
                    loss, made, figures = self._loss(pixels, targets, networks, step)
                best = made if best is None else best.lower(made)
                self._descend(loss, [*generator.parameters()], noise, optimizer)

        assert best is not None, "generator_steps is at least 1"
        self.keep(best.pixels, targets)
        self.features.add(distributed.gather_rows(best.local), distributed.gather_rows(best.whole))
        return {"lowest_loss": best.loss, **figures}

    def _loss(
        self, pixels: Tensor, targets: Tensor, networks: Networks, step: int
    ) -> tuple[Tensor, _Made, dict[str, Tensor]]:
        """Returns the weighted loss of a step, its images, and the unweighted terms by name."""
        method = self.method
        draws, share = self.chance("views", step, seeding.LEGACY_RANK), distributed.world()
        view = networks.view(views.cropped(pixels, method.crop_padding, method.flip, draws, share))
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()
        distance = self.statistics.loss()
        whole = self.statistics.embeddings().detach()

        local_view = networks.view(views.resized(pixels, method.local_area, method.flip, draws, share))
        with self.statistics.recording(images_only=True):
            local_view.teacher_logits()
        local = self.statistics.embeddings()

        terms = {
            "one_hot": cross_entropy(teacher_logits, targets),
            "batch_norm": distance,
            "agreed_divergence": agreed_divergence(teacher_logits, view.student_logits()),
            "contrast": self._contrast(local, whole, step),
            "penalty": view.penalty(teacher_logits, step == method.generator_steps - 1),
        }
        loss = (
            method.one_hot_weight * terms["one_hot"]
            + method.batch_norm_weight * terms["batch_norm"]
            - method.adversarial_weight * terms["agreed_divergence"]
            + method.contrast_weight * terms["contrast"]
            + terms["penalty"]
        )

        shared = loss.detach().clone()
        distributed.average_([shared])
        made = _Made(shared, pixels.detach(), local.detach(), whole)
        return loss, made, {name: term.detach() for name, term in terms.items()}

    def _contrast(self, local: Tensor, whole: Tensor, step: int) -> Tensor:
        """Returns the contrastive loss of embeddings before the head, each (N, width).

        The keys come from all processes. Every process passes all earlier images through the head, because a
        few thousand rows cost little there.
        """
        earlier_local, earlier_whole = self.features.draw(
            self.method.negatives, self.chance("negatives", step)
        )
        # Not under no_grad, where autocast would cache the head's weights without a gradient for the queries.
        keys, earlier_keys = self._own_first(self.head(whole).detach()), self.head(earlier_whole).detach()

        tau = self.method.contrast_temperature
        loss = info_nce(self.head(local), torch.cat([keys, earlier_keys]), tau).mean()
        if len(self.features) == 0:
            return loss
        return loss + info_nce(self.head(earlier_local), torch.cat([earlier_keys, keys]), tau).mean()

    def _own_first(self, rows: Tensor) -> Tensor:
        """Returns the rows of all processes, beginning with this process's rows."""
        return distributed.gather_rows(rows).roll(-distributed.world()[0] * rows.shape[0], dims=0)

    def _descend(
        self, loss: Tensor, weights: list[nn.Parameter], noise: Tensor, optimizer: torch.optim.Optimizer
    ) -> None:
        """Averages the gradients over the processes, clips them and steps both optimizers."""
        head = list(self.head.parameters())
        self.accelerator.backward(loss, inputs=[*weights, noise, *head])
        distributed.average_gradients([*weights, *head])
        distributed.own_gradient(noise)
        if self.method.clip_norm:
            # The noise is left out: it differs between processes, so the shared weights would move apart.
            torch.nn.utils.clip_grad_norm_(weights, self.method.clip_norm)

        for each in (optimizer, self.head_optimizer):
            each.step()
            each.zero_grad()

    def _fresh(self) -> tuple[Generator, Tensor]:
        """Returns a generator with the paper's starting weights, and the noise of this process's images."""
        method, like = self.method, self.teacher.image_mean
        with seeding.seeded(
            self.seed, "cmi", "generator", self.index
        ):  # PyTorch draws weights that ``_reset`` replaces
            generator = Generator(self.spec, method.z_dim, method.generator_channels, "pixels")
        _reset(generator, self.chance("generator"))
        generator.to(like.device, like.dtype).to(memory_format=torch.channels_last)

        noise = torch.randn(method.synthesis_batch_size, method.z_dim, generator=self.chance("z"))
        own = distributed.own_rows(noise).to(like.device, like.dtype)
        return generator, own.requires_grad_()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of banks and head; generator and noise follow from seed and round."""
        return {
            **super().state_dict(),
            "features": self.features.state_dict(),
            "head": self.head.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that ``state_dict`` returned."""
        super().load_state_dict(state)
        self.features.load_state_dict(state["features"])
        self.head.load_state_dict(state["head"])
        checkpoint.restore_optimizer(self.head_optimizer, state["head_optimizer"])


@torch.no_grad()
def _reset(generator: nn.Module, draws: torch.Generator) -> None:
    """Draws the starting weights of DCGAN (arXiv 1511.06434), as CMI uses them.

    The deviation is 0.02. The mean is 1 in BatchNorm and 0 elsewhere, and biases are 0.
    """
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            center = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            module.weight.normal_(center, 0.02, generator=draws)
            if module.bias is not None:
                module.bias.zero_()
