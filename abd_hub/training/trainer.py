"""The distillation loop on accelerate: one synthesizer update, then student steps, round after round.

Every draw depends only on the seed and the round. So a checkpoint holds weights, optimizers and counters but
no generator state, and a resumed run on the same machine gives the same bits. A checkpoint also does not
depend on the number of processes. A run can begin with one process and go on with two. Its student then
differs only by the order in which numbers are added.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from abd_hub.config.options import TrainerOptions
from abd_hub.core import seeding
from abd_hub.core.contracts import Batch, DefensePlugin, Networks, SynthesisMethod, Synthesizer
from abd_hub.core.errors import InputError, Interrupted
from abd_hub.defenses import Combined
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.global_batch import global_batch
from abd_hub.models.classifier import Classifier
from abd_hub.training.agreement import AgreementMeter
from abd_hub.training.checkpoints import Checkpoints, restore_scaler, scaler_state
from abd_hub.training.hints import make_hints
from abd_hub.training.pace import Pace
from abd_hub.training.recovery import Recovery
from abd_hub.training.remaining import Remaining
from abd_hub.training.requirements import check_parts
from abd_hub.training.run_log import RunClock, RunLog, RunningMeans
from abd_hub.training.running import any_process, make_accelerator, stop_requests
from abd_hub.training.student_loss import student_loss
from abd_hub.training.student_optimizer import StudentOptimizer

logger = logging.getLogger(__name__)

Forward = Callable[[Classifier, Tensor, bool], tuple[Tensor, tuple[Tensor, ...]]]
"""Type of a pass through a network: model, pixels and whether to return the maps of the blocks, to (logits,
maps)."""
Watch = Callable[[int, Classifier], Mapping[str, float]]
"""Type of a function from the finished rounds and the student to figures for the log. It returns no figures
where no measurement is due. It must not change the student or any generator. All processes call it."""


class Trainer:
    """Distills one student.

    Args:
        teacher: frozen.
        student: to be trained; changed in place.
        method: settings of the synthesizer, the number of rounds and the loss.
        defenses: the built defenses, see ``DefensePlugin``.
        options: how the run is carried out.
        seed: seed of every draw.
        folder: folder for log.jsonl and checkpoints/; None writes nothing.
        accelerator: from ``make_accelerator``.
        images: uint8 (n, C, H, W), for a method that needs real images.
        watch: measures the student after each round; its time does not count as the run's.
        held_back: uint8 (n, C, H, W), shown to both networks to measure their agreement, beside unseen images
            of the method; n may be 0. None measures no agreement.
        pace: changes the number of rounds during the run; by default the method's number stays.

    Raises:
        InputError: batch size and processes, teacher and student, or defenses and rounds do not fit.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        method: SynthesisMethod,
        defenses: Sequence[DefensePlugin] = (),
        options: TrainerOptions | None = None,
        *,
        seed: int = 0,
        folder: Path | None = None,
        accelerator: Accelerator | None = None,
        images: Tensor | None = None,
        watch: Watch | None = None,
        held_back: Tensor | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.options = options or TrainerOptions()
        self.accelerator = accelerator or make_accelerator(self.options, folder)
        # channels_last: a ZSKT round of WRN-16-1 takes 4.8 s instead of 6.5 s on one AVX-512 core.
        place = {"device": self.accelerator.device, "memory_format": torch.channels_last}
        self.teacher, self.student = teacher.freeze().to(**place), student.to(**place)
        self.method, self.seed, self.watch, self.defenses = method, seed, watch, list(defenses)
        check_parts(self.teacher, self.student, method, self.defenses, self.options, self.accelerator)

        self.defense = Combined(self.defenses)
        self.networks = Networks(self.teacher, self.student, self.defense)
        self.synthesizer: Synthesizer = method.build(self.teacher, self.accelerator, seed, images)
        self.hints = make_hints(method, self.teacher, self.student, seed)
        self.optimizer = StudentOptimizer(method, self.student, self.defenses, self.accelerator, self.hints)
        self.recovery = None if method.learns_images else Recovery(self.student, self.optimizer, self.hints)
        self._forward = compiled(forward, self.options.dynamo_backend)

        self.round, self._answered = 0, False
        self.remaining = Remaining()  # a run may put another one here
        self.pace, self.clock, self.figures = pace or Pace(method.rounds), RunClock(), RunningMeans()
        places = folder, self.accelerator, self.options
        self.log, self.checkpoints = RunLog(*places, "round"), Checkpoints(*places)
        self.agreement = AgreementMeter(self.networks, method, self.options, held_back)
        self.last_images: Tensor | None = None
        """Holds the images of the last round as the teacher saw them, (N, C, H, W); None before the end."""

    @property
    def _with_blocks(self) -> bool:
        """Returns whether a loss reads the maps of the blocks."""
        return bool(self.method.attention_weight or self.method.hint_weight)

    @property
    def seconds(self) -> float:
        """Returns the seconds of the rounds so far, without the time of the watch."""
        return self.clock.seconds

    @property
    def processor_seconds(self) -> float:
        """Returns the seconds of all cores that this process has used for the rounds so far."""
        return self.clock.processor_seconds

    def fit(self, resume: bool = False) -> Classifier:
        """Trains to the last round and returns the student.

        Args:
            resume: continue from the newest checkpoint if there is one.

        Raises:
            Interrupted: a SIGINT or SIGTERM came, and the checkpoint is written.
            InputError: a new run finds old checkpoints, or a figure or the teacher is not finite.
        """
        if resume:
            self._resume()
        else:
            self.checkpoints.refuse_present()

        self.log.begin(self.round, self.method.rounds, self.seed)
        self.student.train()
        self.clock.start()

        left = self.remaining.left
        with stop_requests() as stop, self.log.bar(self.method.rounds, self.round, "round", left) as bar:
            self._keep_pace(bar)
            self.remaining.begin()
            while self.round < self.method.rounds:
                self._round(self.round)
                self.round += 1
                self.clock.read()
                bar.update()
                self._keep_pace(bar)
                self._measure()
                self._after_round(bar)
                self.remaining.after_round(self.round, self.method.rounds)
                if any_process(bool(stop), self.accelerator.device):
                    self._save()
                    raise Interrupted(f"stopped after round {self.round} of {self.method.rounds}")

        self._keep_last_images()
        self.student.eval()
        return self.student

    def _keep_pace(self, bar: Any) -> None:
        """Takes over the number of all rounds where it changes; the line of the log is for people."""
        total = self.pace.total(self.round)
        if total == self.method.rounds:
            return
        self.adopt(dataclasses.replace(self.method, rounds=total))
        bar.total = total
        bar.refresh()
        self.log.write(self.round, {"planned_rounds": total})

    def adopt(self, method: SynthesisMethod) -> None:
        """Goes on with other settings of the same method, of which rounds or student's steps differ."""
        for holder in (self, self.synthesizer, self.optimizer, self.agreement):
            if hasattr(holder, "method"):
                holder.method = method

    def timed_round(self, index: int) -> float:
        """Returns the seconds of one round, for a trainer that is thrown away afterwards."""
        self.student.train()
        began = time.monotonic()
        self._round(index)
        self.figures.take()  # waits for the device
        return time.monotonic() - began

    def _round(self, index: int) -> None:
        with global_batch():
            self._learn(index)
        self.figures.average_over_processes()

    def _learn(self, index: int) -> None:
        # Dropout in a student draws from the global generator: see global_batch.
        torch.manual_seed(seeding.derive_seed(self.seed, "round", index, seeding.LEGACY_RANK))
        self.defense.begin_round(index, self.method.rounds, self.student)
        self.optimizer.begin_round(index)
        self.synthesizer.begin_round(index)
        self.figures.add(self.synthesizer.update(self.networks))
        self.agreement.judge_unseen(index, self.synthesizer)

        batch: Batch | None = None
        for step in range(self.method.steps_in(index)):
            pixels = self.synthesizer.sample(step)
            if pixels is not None:  # float32 from uint8 images, where the networks may be wider
                batch = self._batch(self.networks.view(pixels.to(self.teacher.mean.dtype)).pixels)
            assert batch is not None, "a synthesizer gives pixels for step 0"
            if not self._answered:
                self._check_answers(batch)
            self._student_step(batch)

        distributed.average_statistics(self.student)

    def _check_answers(self, batch: Batch) -> None:
        """Refuses a teacher without finite logits, once, before the student learns from them."""
        if any_process(not bool(batch.teacher_logits.isfinite().all()), self.accelerator.device):
            raise InputError(
                "teacher: gives logits that are not finite; check its weights and normalization, or set "
                "mixed_precision to no"
            )
        self._answered = True

    def _keep_last_images(self) -> None:
        # All processes draw again, because a run that is resumed after its last round has no images.
        self.synthesizer.begin_round(self.method.rounds - 1)
        with global_batch():
            pixels = self.synthesizer.sample(0)
        assert pixels is not None, "a synthesizer gives pixels for step 0"
        self.last_images = distributed.gather_rows(self.networks.view(pixels).pixels)

    @torch.no_grad()
    def _batch(self, pixels: Tensor) -> Batch:
        with self.accelerator.autocast():
            logits, features = self._forward(self.teacher, pixels, self._with_blocks)
            if self.options.dynamo_backend != "no":  # a graph writes its next results over these
                logits, features = logits.clone(), tuple(block.clone() for block in features)
            fixed = not self.method.learns_images
            weights = self.defense.sample_weights(pixels, logits) if fixed else None
        return Batch(pixels, logits, features, weights)

    def _student_step(self, batch: Batch) -> None:
        with self.accelerator.autocast():
            pixels = self.defense.student_view(batch.pixels)
            logits, features = self._forward(self.student, pixels, self._with_blocks)
            loss = student_loss(self.method, batch, logits, features, self.hints)
        self.accelerator.backward(loss)

        # Defenses add gradients without fp16's loss scale.
        self.optimizer.unscale()
        self.defense.add_gradients(self.student, batch)
        self.optimizer.step()
        self.figures.add({"student_loss": loss}, 1 / self.method.student_steps)

    def _measure(self) -> None:
        """Logs the watch's figures before a checkpoint, so that a run that resumes from it keeps them."""
        if self.watch is None:
            return
        with self.clock.paused():
            figures = self.watch(self.round, self.student)
            if figures:
                self.log.write(self.round, figures)

    def _after_round(self, bar: Any) -> None:
        if self.log.is_due(self.round, self.method.rounds):
            figures = self._judged(self.figures.take())
            figures |= self.agreement.figures(self.round)
            bar.set_postfix_str(_words(figures))
            figures["learning_rate"] = self.optimizer.rate
            self.log.write(self.round, figures, self.seconds)

        if self.checkpoints.is_due(self.round, self.method.rounds):
            self._save()

    def _judged(self, figures: dict[str, float]) -> dict[str, float]:
        """Returns the figures of the log; those of rounds that were taken back have the new rate's share."""
        if self.recovery and self.recovery.goes_back(self.round, figures):
            finite = {name: value for name, value in figures.items() if math.isfinite(value)}
            return finite | {"rate_scale": self.optimizer.scale}
        self.log.refuse_diverged(self.round, figures)
        return figures

    def _save(self) -> None:
        self.checkpoints.save(self.round, self.state_dict)

    def _resume(self) -> None:
        newest = self.checkpoints.newest()
        if newest is None:
            return
        self.round, state = newest
        self.load_state_dict(state)
        logger.info("resumed after round %d", self.round)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the finished rounds have changed."""
        return {
            "run": self._identity(),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hints": {} if self.hints is None else self.hints.state_dict(),
            "synthesizer": self.synthesizer.state_dict(),
            "defenses": {defense.name: defense.state_dict() for defense in self.defenses},
            "constant_rate": self.optimizer.constant_rate,
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "sums": self.figures.sums,
            "counts": self.figures.counts,
            "agreement": self.agreement.state_dict(),
            "pace": self.pace.state_dict(),
            "recovery": self.recovery.state_dict() if self.recovery else {},
            "scaler": scaler_state(self.accelerator),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from ``state_dict``, whose tensors may be on the CPU.

        Raises:
            InputError: the state comes from a run with another teacher.
        """
        self._check_identity(state["run"])
        device = self.accelerator.device

        self.student.load_state_dict(state["student"])
        if self.hints is not None:
            self.hints.load_state_dict(state["hints"])
        self.optimizer.load_state_dict(state["optimizer"], state["constant_rate"])
        self.synthesizer.load_state_dict(state["synthesizer"])
        for defense in self.defenses:
            defense.load_state_dict(checkpoint.to_device(state["defenses"][defense.name], device))

        self.clock.seconds = state["seconds"]
        self.clock.processor_seconds = state["processor_seconds"]
        self.figures.sums = checkpoint.to_device(state["sums"], device)
        self.figures.counts = state["counts"]
        self.agreement.load_state_dict(state.get("agreement", {}))  # an older checkpoint lacks it
        self.pace.load_state_dict(state.get("pace", {}))
        if self.recovery:
            self.recovery.load_state_dict(state.get("recovery", {}))
        restore_scaler(self.accelerator, state["scaler"])

    def _identity(self) -> dict[str, Any]:
        """Returns the values that a resumed run must share with the run that wrote the checkpoint."""
        return {"teacher sha256": self.teacher.ref.sha256}

    def _check_identity(self, run: Mapping[str, Any]) -> None:
        for name, value in self._identity().items():
            if run[name] != value:
                raise InputError(
                    f"resume: the checkpoint has {name} {run[name]}, but this run has {value}; resume with "
                    "the first run's teacher or use another folder"
                )


def forward(model: Classifier, pixels: Tensor, with_blocks: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns logits and, if ``with_blocks``, the maps of the blocks; a pass of the type ``Forward``."""
    return model.forward_with_blocks(pixels) if with_blocks else (model(pixels), ())


def compiled(passes: Forward, backend: str) -> Forward:
    """Compiles the pass with a backend of torch.compile; the backend "no" returns it unchanged."""
    if backend == "no":
        return passes
    compiled_pass: Forward = torch.compile(passes, backend=backend)
    return compiled_pass


def _words(figures: Mapping[str, float]) -> str:
    """Returns what people want to read beside the bar: whether the student learns."""
    words = [f"loss {figures['student_loss']:.3g}"] if "student_loss" in figures else []
    if "agreement_patches" in figures:
        words.insert(0, f"agrees on {figures['agreement_patches']:.0%}")
    return ", ".join(words)
