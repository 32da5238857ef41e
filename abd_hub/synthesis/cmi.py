"""Contrastive Model Inversion (Fang et al., IJCAI 2021, arXiv 2105.08584).

Each round a fresh generator G and its noise z are fitted to one batch of images x = G(z) of drawn classes c.
With the global view g = crop(x) and the local view l = resized box(x) they minimize

    w_t CE(T(g), c) + w_s R(g) - w_a mean(m KL(T(g) || S(g))) + w_c L,

R of DeepInversion (``batch_norm``), m = 1 where teacher T and student S choose the same class, else 0. L
tells every image from all others. An image is described by the means, over height and width, of what T's
BatchNorm layers see of it; e(.) is what a small network, the head, makes of these. The local view asks for
the global view of the same image among those of the batch and of earlier images:

    L = mean_i -log(exp(cos(e(l_i), e(g_i)) / tau) / sum_j exp(cos(e(l_i), e(g_j)) / tau)),

once with i over the batch, which shapes the images, plus once with i over the earlier images, which trains
the head alone; j runs over both, and e(g) passes no gradient on. The batch that had the lowest loss within
the round goes into the bank, from which the student learns.

Rounds, steps and tau are those of runs that start from nothing and that later work compares with; the script
of the authors for CIFAR-10 goes 40 epochs of 2,000 student steps on a bank that was filled beforehand.
"""

from __future__ import annotations

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
    """Contrastive Model Inversion: batches fitted to the teacher, each image told from all earlier ones."""

    citation: ClassVar[str] = """@inproceedings{fang2021cmi,
  title     = {Contrastive Model Inversion for Data-Free Knowledge Distillation},
  author    = {Fang, Gongfan and Song, Jie and Wang, Xinchao and Shen, Chengchao and Wang, Xingen and
               Song, Mingli},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year      = {2021},
  note      = {arXiv:2105.08584}
}"""

    rounds: int = 200
    """Rounds of ``generator_steps``, which make one batch of images, and ``student_steps`` on the bank."""
    batch_size: int = 128
    """Images in a student step, over all processes together."""
    student_steps: int = 400
    """Student steps in a round, each on its own batch."""
    learning_rate: float = 0.1
    """Of the student's optimizer at the start; cosine to zero unless there are drops."""
    clip_norm: float = 0.0
    """Largest gradient norm of student and generator; 0 switches clipping off."""
    temperature_squared: bool = True
    """Multiply the student's KL divergence by T squared, which keeps its gradient's size."""
    attention_weight: float = 0.0
    """Weight of attention transfer; 0 switches it off."""
    generator_steps: Count = 200
    """Steps that fit a batch of images."""
    generator_learning_rate: Positive = 1e-3
    """Of Adam on generator and noise, and of that on the head."""
    z_dim: Count = 256
    """Length of the noise vector."""
    generator_channels: Annotated[int, Range(least=2)] = 128
    """Feature maps of the generator's first half; its second half has half as many."""
    one_hot_weight: NotNegative = 1.0
    """Weight of the teacher's cross-entropy with the drawn classes."""
    batch_norm_weight: NotNegative = 1.0
    """Weight of the distance to the BatchNorm layers' running statistics."""
    adversarial_weight: NotNegative = 0.5
    """Weight of the divergence between teacher and student where both choose the same class."""
    contrast_weight: NotNegative = 0.8
    """Weight of the contrastive loss."""
    contrast_temperature: Positive = 0.1
    """tau of the contrastive loss."""
    local_area: PositiveShare = 0.25
    """Smallest share of an image's area that its local view shows, in (0, 1]."""
    embedding_dim: Count = 256
    """Length of what the head makes of an image."""
    negatives: Count = 4_096
    """Earlier images in a step of the generator."""
    feature_bank_size: Count = 40_960
    """Earlier images whose embeddings are kept."""
    bank_size: int = 51_200
    """Images kept for the student; further ones replace the oldest."""
    crop_padding: int = 4
    """Pixels of padding before random crops, for the global view and for the student; 0 for none."""
    flip: bool = True
    """Mirror half of the images in both views and in the student's batches."""

    def build(
        self, teacher: Teacher, accelerator: Accelerator, seed: int, images: Tensor | None = None
    ) -> CmiSynthesizer:
        """Head and banks, on the accelerator's device; the generator is drawn anew each round."""
        return CmiSynthesizer(self, teacher, accelerator, seed)


@dataclass(frozen=True)
class _Made:
    """One step's images and what was found in them, all detached."""

    loss: Tensor
    """(), over all processes."""
    pixels: Tensor
    local: Tensor
    """(N, width), embeddings of the local views before the head."""
    whole: Tensor
    """Likewise of the global views."""

    def lower(self, other: _Made) -> _Made:
        """The one with the lower loss, this one where they are equal; chosen on the device."""
        better = other.loss < self.loss
        names = [field.name for field in fields(self)]
        return _Made(*[torch.where(better, getattr(other, name), getattr(self, name)) for name in names])


class CmiSynthesizer(BankSynthesizer):
    """CMI at work."""

    method: Cmi

    def __init__(self, method: Cmi, teacher: Teacher, accelerator: Accelerator, seed: int) -> None:
        assert isinstance(teacher, nn.Module), "what is given here is a frozen network"
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

        Only generator, noise and head get gradients: teacher and student pass the gradient on to the
        images without computing their own weights'.
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

        assert best is not None, "there is at least one step"
        self.keep(best.pixels, targets)
        self.features.add(distributed.gather_rows(best.local), distributed.gather_rows(best.whole))
        return {"lowest_loss": best.loss, **figures}

    def _loss(
        self, pixels: Tensor, targets: Tensor, networks: Networks, step: int
    ) -> tuple[Tensor, _Made, dict[str, Tensor]]:
        method = self.method
        chance, share = self.chance("views", step, seeding.LEGACY_RANK), distributed.world()
        view = networks.view(views.cropped(pixels, method.crop_padding, method.flip, chance, share))
        with self.statistics.recording():
            teacher_logits = view.teacher_logits()
        distance = self.statistics.loss()
        whole = self.statistics.embeddings().detach()

        local_view = networks.view(views.resized(pixels, method.local_area, method.flip, chance, share))
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
        """The contrastive loss of the embeddings before the head, (N, width) each.

        The keys are those of all processes. Earlier images, a few thousand rows of a small head, go through
        it on every process alike.
        """
        earlier_local, earlier_whole = self.features.draw(
            self.method.negatives, self.chance("negatives", step)
        )
        # Not under no_grad: autocast would keep the head's weights without their gradient for the queries.
        keys, earlier_keys = self._own_first(self.head(whole).detach()), self.head(earlier_whole).detach()
        tau = self.method.contrast_temperature
        loss = info_nce(self.head(local), torch.cat([keys, earlier_keys]), tau).mean()
        if len(self.features) == 0:
            return loss
        return loss + info_nce(self.head(earlier_local), torch.cat([earlier_keys, keys]), tau).mean()

    def _own_first(self, rows: Tensor) -> Tensor:
        """The rows of all processes, beginning with those of this one."""
        return distributed.gather_rows(rows).roll(-distributed.world()[0] * rows.shape[0], dims=0)

    def _descend(
        self, loss: Tensor, weights: list[nn.Parameter], noise: Tensor, optimizer: torch.optim.Optimizer
    ) -> None:
        head = list(self.head.parameters())
        self.accelerator.backward(loss, inputs=[*weights, noise, *head])
        distributed.average_gradients([*weights, *head])
        distributed.own_gradient(noise)
        if self.method.clip_norm:
            # Without the noise, of which each process has its own: the shared weights would move apart.
            torch.nn.utils.clip_grad_norm_(weights, self.method.clip_norm)
        for one in (optimizer, self.head_optimizer):
            one.step()
            one.zero_grad()

    def _fresh(self) -> tuple[Generator, Tensor]:
        """A generator with the paper's starting weights, and the noise of this process's images."""
        method, like = self.method, self.teacher.image_mean
        with seeding.seeded(self.seed, "cmi", "generator", self.index):  # PyTorch draws first, in vain
            generator = Generator(self.spec, method.z_dim, method.generator_channels, "pixels")
        _reset(generator, self.chance("generator"))
        generator.to(like.device, like.dtype).to(memory_format=torch.channels_last)
        noise = torch.randn(method.synthesis_batch_size, method.z_dim, generator=self.chance("z"))
        own = distributed.own_rows(noise).to(like.device, like.dtype)
        return generator, own.requires_grad_()

    def state_dict(self) -> dict[str, Any]:
        """Banks and head; generator and noise follow from seed and round."""
        return {
            **super().state_dict(),
            "features": self.features.state_dict(),
            "head": self.head.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        self.features.load_state_dict(state["features"])
        self.head.load_state_dict(state["head"])
        checkpoint.restore_optimizer(self.head_optimizer, state["head_optimizer"])


@torch.no_grad()
def _reset(generator: nn.Module, chance: torch.Generator) -> None:
    """DCGAN's starting weights (arXiv 1511.06434), as CMI takes them: deviation 0.02, about 0 or, in
    BatchNorm, about 1; biases 0."""
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            center = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            module.weight.normal_(center, 0.02, generator=chance)
            if module.bias is not None:
                module.bias.zero_()
