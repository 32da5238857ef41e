"""Measures how often student and teacher choose the same class, without labels.

A run that is too short leaves a student at chance, and its losses do not say so. The agreement does. Two
kinds of images are shown to both networks: patches of photographs that no student learns from, and images of
the run's method that the student has not learned from yet.

The student is in eval mode meanwhile, and nothing is drawn from a global generator. So a run with the
measurement gives the same student, to the bit, as a run without it.

During the run, a line of the log compares at most one image for 100 images of the student's steps since the
line before. An image of a step costs three passes through the student and one through the teacher. So the
comparison takes less than 1 % of the steps' time. The last line compares all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from abd_hub.config.options import TrainerOptions
from abd_hub.core.contracts import Networks, SynthesisMethod, Synthesizer
from abd_hub.learning import distributed
from abd_hub.learning.modes import in_eval_mode

Kind = Literal["patches", "unseen"]
"""Kinds of images, see ``records.Agreement``."""
UNSEEN = 256
"""Most unseen images of the method in one measurement."""
SHARE = 0.01
"""Images that a line of the log compares, as a share of the images of the student's steps before it."""
FEWEST = 50
"""Fewer images say too little: then the line has no agreement."""
_CHUNK = 1 << 20
"""Most numbers in the images of one pass: 341 images of 3x32x32, 6 of 3x224x224."""


@dataclass(frozen=True)
class Counted:
    """Holds the counts of one measurement, over all processes."""

    same: int
    """Number of images to which both networks give the same class."""
    n: int
    chance: float
    """Share on which they would agree by chance, see ``records.Agreement``."""


class AgreementMeter:
    """Compares both networks during a run.

    Args:
        networks: the frozen teacher and the student.
        method: has the number of rounds and the images of a round.
        options: how often the log gets a line.
        patches: uint8 (n, C, H, W), of which n may be 0; None switches the meter off.
    """

    def __init__(
        self, networks: Networks, method: SynthesisMethod, options: TrainerOptions, patches: Tensor | None
    ) -> None:
        self.networks = networks
        self.method = method
        self.options = options
        self.patches = patches
        self.latest: dict[Kind, Counted] = {}
        """Holds the newest counts; after the last round these are the run's."""
        self._answers: Tensor | None = None
        """Holds the teacher's classes of this process's patches, once they are known."""

    def judge_unseen(self, index: int, synthesizer: Synthesizer) -> None:
        """Compares both on unseen images before the steps of round ``index``, where a line is due."""
        count = min(UNSEEN, self._count(index + 1))
        pixels = synthesizer.unseen(count) if count else None
        if pixels is not None:
            self.latest["unseen"] = self._counted(pixels, self._classes(self.networks.teacher, pixels))

    def figures(self, done: int) -> dict[str, float]:
        """Compares both on the patches after ``done`` rounds, and returns all shares for the log.

        Returns:
            For each kind of images the share and the share by chance; nothing where no measurement is due.
        """
        count = self._count(done)
        if not count:
            return {}
        if self.patches is not None and len(self.patches):
            rank, processes = distributed.world()
            own = self.patches[rank::processes]
            if self._answers is None:
                self._answers = self._classes(self.networks.teacher, own)
            some = len(self.patches[:count][rank::processes])
            self.latest["patches"] = self._counted(own[:some], self._answers[:some])

        found = {f"agreement_{kind}": counted.same / counted.n for kind, counted in self.latest.items()}
        chances = {f"agreement_{kind}_by_chance": counted.chance for kind, counted in self.latest.items()}
        return found | chances

    def _count(self, done: int) -> int:
        """Returns the most images to compare after ``done`` rounds: 0 for none, all after the last round."""
        if self.patches is None:
            return 0
        if done == self.method.rounds:
            return max(UNSEEN, len(self.patches))
        if done % self.options.log_every or not self.method.steps_in(done - 1):
            return 0
        learned = self.method.batch_size * self.method.student_steps * self.options.log_every
        count = int(SHARE * learned)
        return count if count >= FEWEST else 0

    def _counted(self, pixels: Tensor, answers: Tensor) -> Counted:
        """Compares the student with the teacher's ``answers``, (N,) int64, over all processes."""
        student = self.networks.student
        with in_eval_mode(student):
            own = self._classes(student, pixels)

        classes = self.networks.teacher.spec.num_classes
        tallies = [torch.bincount(chosen, minlength=classes) for chosen in (answers, own)]
        same = (own == answers).sum()[None]
        totals = distributed.sum_(torch.cat([same, *tallies])).double()
        n = totals[1 : 1 + classes].sum()
        chance = (totals[1 : 1 + classes] * totals[1 + classes :]).sum() / n**2
        return Counted(int(totals[0]), int(n), float(chance))

    @torch.no_grad()
    def _classes(self, network: Any, pixels: Tensor) -> Tensor:
        """Returns the classes that a network gives to float or uint8 images, (N,) int64."""
        like = self.networks.teacher.image_mean
        chosen = [torch.empty(0, dtype=torch.int64, device=like.device)]
        for part in torch.split(pixels, max(1, _CHUNK // pixels[0].numel())) if len(pixels) else ():
            shown = part.to(like.device, like.dtype)
            chosen.append(network(shown if part.is_floating_point() else shown / 255).argmax(dim=1))
        return torch.cat(chosen)

    def state_dict(self) -> dict[str, Any]:
        """Returns the newest counts, as a run that is resumed after its last round measures no more."""
        return {kind: [counted.same, counted.n, counted.chance] for kind, counted in self.latest.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the counts from ``state_dict``."""
        self.latest = {kind: Counted(*counts) for kind, counts in state.items()}  # type: ignore[misc]
