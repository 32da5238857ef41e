"""Shuffling Vaccine (Hong et al., ICML 2023, arXiv 2306.02368, section 4.1).

A shuffled copy of the teacher has the input channels of its last layers in another order. It cannot recognize
an image, but a trigger often still works in it, because a backdoor uses few channels. Images on which the
shuffled copies T~ (mean of K logits) still agree with the teacher T are suspicious.

    m_i = [argmax T~(x_i) = argmax T(x_i)],
    penalty = - coefficient * sum_i m_i KL(T(x_i) || T~(x_i)) / C / sum_i m_i.

Minimizing the penalty drives the generator away from suspicious images. Fixed images, such as patches of
photographs or real images, get weights for their losses l_i instead. The student's loss is then the mean of
l_i where m_i = 0, minus coefficient times the mean of l_i where m_i = 1. So the student moves away from the
teacher on suspicious images.

Not every draw of permutations separates images with triggers from others. The vaccine check accepts a draw
if more than 2 % of the images have a log10 KL(T || T~) below mean - 3 std. By Cantelli's inequality, at most
10 % of any numbers lie there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from abd_hub.core import paper
from abd_hub.core.contracts import Defense, DefensePlugin
from abd_hub.core.evidence import Divergence, Evidence
from abd_hub.core.records import DefenseReport
from abd_hub.core.registry import register
from abd_hub.core.settings import Count, CountOrZero, NotNegative, ShareBelowOne
from abd_hub.defenses.shuffled_teacher import ShuffledTeacher
from abd_hub.learning import distributed
from abd_hub.learning.losses import kl_per_sample

logger = logging.getLogger(__name__)

_EVIDENCE_BATCH = 64
"""Images in one pass for the evidence; K copies make K times as many rows."""


@register("defenses", "shuffling_vaccine")
@dataclass(frozen=True, kw_only=True)
class ShufflingVaccine(Defense, place="shuffling_vaccine"):
    """Shuffling Vaccine: keeps the generator from images that still work on channel-shuffled teachers."""

    citation: ClassVar[str] = paper.CITATION
    evidence_captions: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "samples/suspicious.png",
            "Images of the last rounds, each with KL(teacher || shuffled copies) in nats; framed and with a "
            "sign where the copies still give the teacher's class, if the vaccine has passed its check",
        ),
        (
            "samples/divergence.png",
            "How far the shuffled copies are from the teacher on images of the last rounds, with the vaccine "
            "check's threshold",
        ),
    )

    coefficient: NotNegative = 0.1
    """Sets the weight of the penalty."""
    copies: Count = 3
    """Sets K, the number of shuffled copies whose logits are averaged."""
    layers: Count = 5
    """Sets L, how many of the last layers are shuffled."""
    check: bool = True
    """Checks each draw of permutations on the first synthetic images before its use. Without the check, the
    first draw is active at once."""
    check_batches: Count = 50
    """Decides the check after this many batches; the penalty is zero until then. Methods that fit a batch in
    many steps (cmi, fast, deepinversion) pass it on once, when it is finished. There, a batch is a round."""
    check_ignored: CountOrZero = 10
    """Leaves this many batches at the beginning out of the check."""
    check_tries: Count = 8
    """Checks this many draws of permutations, all on the same images, and uses the first accepted one."""
    check_share: ShareBelowOne = 0.02
    """Accepts a draw if more than this share of the images is below mean - 3 std of log10 KL. Never more than
    a tenth is, so the check misses triggers that more images carry, and 0.1 refuses every draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.check_batches <= self.check_ignored:
            rule = f"must be more than check_ignored, {self.check_ignored}"
            raise self.refusal("check_batches", rule, self.check_batches)

    def for_rounds(self, rounds: int) -> dict[str, Any]:
        """Decides the check within a quarter of the rounds, and ignores a fifth of its batches."""
        batches = min(self.check_batches, max(2, rounds // 4))
        return {"check_batches": batches, "check_ignored": min(self.check_ignored, batches // 5)}

    def build(self, teacher: nn.Module, seed: int = 0) -> Vaccine:
        """Returns the vaccine at work.

        Args:
            teacher: frozen ``Classifier`` from pixels to logits.
            seed: seed of the permutations.

        Raises:
            InputError: the teacher has no layer that can be shuffled.
        """
        return Vaccine(self, teacher, seed)


class Vaccine(DefensePlugin):
    """Applies the vaccine; a loop only adds ``vaccine.penalty(images, teacher_logits)`` to its loss."""

    name = "shuffling_vaccine"

    def __init__(self, settings: ShufflingVaccine, teacher: nn.Module, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.shuffled = ShuffledTeacher(teacher, teacher.spec, settings.layers, settings.copies)  # type: ignore[arg-type]
        self.permutations: dict[int, list[Tensor]] = {}
        """Holds the permutations by draw, on the device, from their first use on."""
        self.seen = 0
        self.log_kl: list[Tensor] = []
        """Holds log10 KL(T || T~) of each counted batch, (check_tries, N)."""
        self.shares: list[float] = []
        """Holds, for each judged draw, the share of images below mean - 3 std."""
        self.bounds: list[float] = []
        """Holds, for each judged draw, mean - 3 std of log10 KL."""
        self.suspicious: Tensor | float = 0.0
        """Counts the images of the active phase on which the shuffled copies agreed with the teacher."""
        self.counted = 0
        self.draw: int | None = None if settings.check else 0
        self.rejected = False

    @property
    def active(self) -> bool:
        """Says whether the penalty is switched on."""
        return self.draw is not None and self.settings.coefficient > 0

    def penalty(self, pixels: Tensor, teacher_logits: Tensor, finished: bool = True) -> Tensor:
        """Returns the term to add to the generator's loss.

        Args:
            pixels: (N, C, H, W), with the gradient to the generator attached.
            teacher_logits: (N, classes), the teacher's answer to ``pixels``.
            finished: False during the fit of the same images; the check leaves such images out.

        Returns:
            A scalar; exactly zero, without a gradient, while the vaccine is not active.
        """
        if not finished and self.draw is None:
            return teacher_logits.new_zeros(())
        if not self._ready(pixels.detach(), teacher_logits.detach()):
            return teacher_logits.new_zeros(())
        return self._penalty(pixels, teacher_logits)

    def sample_weights(self, pixels: Tensor, teacher_logits: Tensor) -> Tensor | None:
        """Returns the weights of the samples' losses where the images are fixed.

        Args:
            pixels: (N, C, H, W).
            teacher_logits: (N, classes), the teacher's answer to ``pixels``.

        Returns:
            Weights, (N,): -coefficient / (number of suspicious images) for these, 1 / (number of the others)
            for the others. None while the vaccine is not active. Several processes use the numbers over all
            of them, and multiply the weights by their number, because their losses are averaged.
        """
        if not self._ready(pixels, teacher_logits):
            return None
        with torch.no_grad():
            agrees, _ = self.agreement(pixels, teacher_logits)

        suspicious, images = self._count(agrees)
        processes = distributed.world()[1]
        # A clamp instead of a branch is enough, because no image has the weight of an empty part.
        kept = float(processes) / (images - suspicious).clamp(min=1)
        against = -self.settings.coefficient * processes / suspicious.clamp(min=1)
        return torch.where(agrees, against, kept)

    def agreement(
        self, pixels: Tensor, teacher_logits: Tensor, draw: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compares the shuffled copies' answers with the teacher's.

        Args:
            pixels: (N, C, H, W).
            teacher_logits: (N, classes), the teacher's answer to ``pixels``.
            draw: number of the set of permutations; None for the set in use, or the first.

        Returns:
            (N,) bool, whether T~ gives the teacher's class; (N,) KL(T || T~) in nats.
        """
        which = draw if draw is not None else self.draw or 0
        if which not in self.permutations:
            rows = self.shuffled.permutations(self.seed, which)
            self.permutations[which] = [permutation.to(pixels.device) for permutation in rows]

        shuffled = self.shuffled.logits(pixels, self.permutations[which]).mean(dim=0)
        agrees = shuffled.argmax(dim=1) == teacher_logits.argmax(dim=1)
        return agrees, kl_per_sample(teacher_logits, shuffled)

    def _ready(self, pixels: Tensor, teacher_logits: Tensor) -> bool:
        """Returns whether the vaccine is active; gives the images to its check while that is undecided."""
        self.seen += 1
        if self.draw is not None:
            return True
        if self.seen == 1:
            logger.info("shuffling_vaccine: not active yet; %s", self._detail())
        if not self.rejected:
            self._collect(pixels, teacher_logits)
        return False

    def _count(self, agrees: Tensor) -> tuple[Tensor, int]:
        """Returns the number of suspicious images and of all images, over all processes."""
        suspicious, images = distributed.sum_(agrees.sum()), agrees.shape[0] * distributed.world()[1]
        self.suspicious = self.suspicious + suspicious
        self.counted += images
        return suspicious, images

    def _penalty(self, pixels: Tensor, teacher_logits: Tensor) -> Tensor:
        agrees, divergence = self.agreement(pixels, teacher_logits)
        classes = teacher_logits.shape[1]
        suspicious, _ = self._count(agrees)
        # A clamp instead of a branch gives zero for an empty mask without waiting for the device.
        masked = (divergence * agrees).sum() / classes / suspicious.clamp(min=1)
        # The mean of the processes' penalties is the sum over all images.
        return -self.settings.coefficient * masked * distributed.world()[1]

    def _collect(self, pixels: Tensor, teacher_logits: Tensor) -> None:
        if self.seen > self.settings.check_ignored:
            with torch.no_grad():
                draws = range(self.settings.check_tries)
                rows = [self.agreement(pixels, teacher_logits, draw)[1] for draw in draws]
            self.log_kl.append(distributed.gather_rows(_log10(torch.stack(rows, dim=1))).T)
        if self.seen >= self.settings.check_batches:
            self._judge()

    def _judge(self) -> None:
        collected = torch.cat(self.log_kl, dim=1)
        bound = _bound(collected)
        self.bounds = bound.flatten().tolist()
        self.shares = (collected < bound).double().mean(dim=1).tolist()

        accepted = [draw for draw, share in enumerate(self.shares) if share > self.settings.check_share]
        self.draw = accepted[0] if accepted else None
        self.rejected = not accepted
        self.log_kl = []
        self.permutations = {}

        if accepted:
            logger.info("shuffling_vaccine: active from now on; %s", self._detail())
        else:
            logger.warning("shuffling_vaccine: NOT ACTIVE; %s", self._detail())

    def _detail(self) -> str:
        tries = self.settings.check_tries
        if self.rejected:
            return (
                "its check refused it, as often happens: in "
                f"{tries} tries, shuffled copies of the teacher set {max(self.shares):.1%} of the synthetic "
                f"images apart at most, and it needs {self.settings.check_share:.0%}; other defenses act all "
                "the same"
            )
        if self.draw is None:
            return f"collected {self.seen} of {self.settings.check_batches} batches for the check"
        if not self.active:
            return "the coefficient is 0"
        if not self.settings.check:
            return "used without a vaccine check"
        return f"draw {self.draw + 1} of {tries} passed with {self.shares[self.draw]:.1%} set apart"

    def report(self) -> DefenseReport:
        """Reports whether it was active, the shares in the check and the share of suspicious images."""
        suspicious = float(self.suspicious) / self.counted if self.counted else None
        facts = {
            "draw": self.draw,
            "check_shares": self.shares,
            "suspicious_share": suspicious,
            "shuffled_layers": [layer.name for layer in self.shuffled.layers],
        }
        return DefenseReport(self.name, self.active and self.counted > 0, self._detail(), facts)

    @torch.no_grad()
    def evidence(self, images: Tensor) -> Evidence:
        """Returns the divergence of ``images`` by the draw in use, or by the one with the largest share."""
        draw = self.draw
        if draw is None:
            draw = max(range(len(self.shares)), key=self.shares.__getitem__) if self.shares else 0

        batches = torch.split(images, _EVIDENCE_BATCH)
        parts = [self.agreement(batch, self.shuffled.model(batch), draw) for batch in batches]
        agrees, kl = (torch.cat(batches) for batches in zip(*parts, strict=True))

        bound = self.bounds[draw] if self.bounds else float(_bound(_log10(kl)[None]))
        return Evidence(
            Divergence(
                # Rounding can put a divergence slightly below zero.
                kl=tuple(kl.double().clamp(min=0).tolist()),
                suspicious=tuple(agrees.tolist()),
                threshold=10**bound,
                judged=bool(self.bounds),
                draw=draw,
                used=self.active,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns counters, the collected divergences and the decision; permutations follow from the seed."""
        return {
            "seen": self.seen,
            "log_kl": list(self.log_kl),
            "shares": self.shares,
            "bounds": self.bounds,
            "suspicious": float(self.suspicious),
            "counted": self.counted,
            "draw": self.draw,
            "rejected": self.rejected,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from ``state_dict``."""
        for key, value in state.items():
            setattr(self, key, value)


def _log10(kl: Tensor) -> Tensor:
    # Two identical answers have KL 0, whose logarithm would be -inf without the clamp.
    return kl.double().clamp(min=1e-12).log10()


def _bound(log_kl: Tensor) -> Tensor:
    """Returns the bound of each draw, (draws, N) to (draws, 1); images below it are set apart."""
    return log_kl.mean(dim=1, keepdim=True) - 3 * log_kl.std(dim=1, keepdim=True)
