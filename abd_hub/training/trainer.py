"""The distillation loop on accelerate: one synthesizer update, then student steps, round after round.

Every draw depends on the seed and the round alone, so a checkpoint holds weights, optimisers and counters
but no generator state, and a resumed run on the same machine gives the same bits. Nothing in it depends on
the number of processes either: a run begun on one goes on with two, and its student is the same but for the
order in which numbers are added.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from abd_hub.config.options import TrainerOptions
from abd_hub.core import seeding
from abd_hub.core.contracts import Batch, DefensePlugin, Networks, SynthesisMethod, Synthesizer
from abd_hub.core.errors import InputError, Interrupted
from abd_hub.defenses import Combined
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.global_batch import global_batch
from abd_hub.learning.losses import (
    attention_transfer_per_sample,
    cross_entropy_per_sample,
    kl_per_sample,
    l1_per_sample,
)
from abd_hub.learning.schedules import cosine, stepped
from abd_hub.models.classifier import Classifier
from abd_hub.training.running import (
    any_process,
    append_log,
    check_processes,
    make_accelerator,
    rewind_log,
    stop_requests,
)

logger = logging.getLogger(__name__)

Answers = Callable[[Classifier, Tensor, bool], tuple[Tensor, tuple[Tensor, ...]]]
Watch = Callable[[int, Classifier], Mapping[str, float]]
"""Rounds done and the student to figures for the log, none where it is not due; must leave the student and
every generator as they are. All processes call it."""


class Trainer:
    """Distils one student.

    Args:
        teacher: frozen.
        student: to be trained; changed in place.
        method: what draws the images, how long, and with which loss.
        defenses: at work, see ``DefensePlugin``.
        options: how the run is carried out.
        seed: of every draw.
        folder: where log.jsonl and checkpoints/ go; None writes nothing.
        accelerator: from ``make_accelerator``.
        images: uint8 (n, C, H, W), for a method that asks for real images.
        watch: looks at the student after each round; its time does not count as the run's.

    Raises:
        InputError: batch size and processes, or teacher and student, do not fit together.
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
    ) -> None:
        self.options = options or TrainerOptions()
        self.accelerator = accelerator or make_accelerator(self.options, folder)
        # channels_last: a ZSKT round of WRN-16-1 takes 4.8 s instead of 6.5 s on one AVX-512 core.
        device = self.accelerator.device
        self.teacher = teacher.freeze().to(device).to(memory_format=torch.channels_last)
        self.student = student.to(device).to(memory_format=torch.channels_last)
        self.method = method
        self.defenses = list(defenses)
        self.defense = Combined(self.defenses)
        self.networks = Networks(self.teacher, self.student, self.defense)
        self.seed = seed
        self.folder = folder
        self.watch = watch
        self._check()
        self.weights = [weight for weight in self.student.parameters() if weight.requires_grad]
        self._answers = compiled(_answers, self.options.dynamo_backend)
        self.synthesizer: Synthesizer = method.build(self.teacher, self.accelerator, seed, images)
        self.optimizer = self._first_optimizer()
        self.constant_rate: float | None = None
        self.idle_rounds = next((i for i in range(method.rounds) if method.steps_in(i)), 0)
        """Rounds before the student's first step."""
        self.round = 0
        self.seconds = 0.0
        self.processor_seconds = 0.0
        """Seconds of all cores that this process has used: other work on the machine does not count."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        """Rounds in which each figure was summed since the last line of the log."""
        self.saved_round = -1
        self.last_images: Tensor | None = None
        """(N, C, H, W) of the last round, as the teacher saw them; None before the end."""

    def fit(self, resume: bool = False) -> Classifier:
        """Trains to the last round and returns the student.

        Args:
            resume: continue from the newest checkpoint if there is one.

        Raises:
            Interrupted: after SIGINT or SIGTERM, when the checkpoint is written.
        """
        if resume:
            self._resume()
        elif self.folder is not None and checkpoint.checkpoints(self.folder / "checkpoints"):
            raise InputError(f"resume: {self.folder.name} holds checkpoints; resume or use another folder")
        self._begin_log()
        self.student.train()
        began = time.monotonic() - self.seconds
        processor_began = time.process_time() - self.processor_seconds
        with stop_requests() as stop, self._progress() as bar:
            while self.round < self.method.rounds:
                self._round(self.round)
                self.round += 1
                self.seconds = time.monotonic() - began
                self.processor_seconds = time.process_time() - processor_began
                bar.update()
                seconds, processor_seconds = self._look()
                began, processor_began = began + seconds, processor_began + processor_seconds
                self._after_round(bar)
                if any_process(bool(stop), self.accelerator.device):
                    self._save()
                    raise Interrupted(f"stopped after round {self.round} of {self.method.rounds}")
        self._keep_last_images()
        self.student.eval()
        return self.student

    def _round(self, index: int) -> None:
        with global_batch():
            self._learn(index)
        # Every process holds the figures of all: what one of them saves or logs is theirs.
        distributed.average_(self.sums.values())

    def _learn(self, index: int) -> None:
        # For what draws from the global generator, such as dropout in a student: see global_batch. The 0
        # stays: stored results come from draws that ended with the number of their process.
        torch.manual_seed(seeding.derive_seed(self.seed, "round", index, 0))
        self.defense.begin_round(index, self.method.rounds, self.student)
        self._set_learning_rate(index)
        self.synthesizer.begin_round(index)
        self._sum(self.synthesizer.update(self.networks))
        batch: Batch | None = None
        for step in range(self.method.steps_in(index)):
            pixels = self.synthesizer.sample(step)
            if pixels is not None:  # of uint8 images in float32, where the networks may be wider
                batch = self._batch(self.defense.drawn(pixels.to(self.teacher.mean.dtype)))
            assert batch is not None, "a synthesizer gives pixels for step 0"
            self._student_step(batch)
        distributed.average_statistics(self.student)

    def _keep_last_images(self) -> None:
        # Asked for again, because a run that is resumed after its last round has drawn none. All processes.
        self.synthesizer.begin_round(self.method.rounds - 1)
        with global_batch():
            pixels = self.synthesizer.sample(0)
        assert pixels is not None, "a synthesizer gives pixels for step 0"
        self.last_images = distributed.gather_rows(self.defense.drawn(pixels))

    def _student_step(self, batch: Batch) -> None:
        with self.accelerator.autocast():
            loss = self._loss(batch)
        self.accelerator.backward(loss)
        # Before defences add to them, gradients lose fp16's loss scale.
        self.accelerator.unscale_gradients(self.optimizer)
        self.defense.add_gradients(self.student, batch)
        distributed.average_gradients(self.weights)
        if self.method.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.weights, self.method.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._sum({"student_loss": loss.detach()}, 1 / self.method.student_steps)

    def _loss(self, batch: Batch) -> Tensor:
        method = self.method
        view = self.defense.student_view(batch.pixels)
        logits, features = self._answers(self.student, view, bool(method.attention_weight))
        losses = self._divergence(batch.teacher_logits, logits)
        if method.cross_entropy_weight:
            hard = cross_entropy_per_sample(logits, batch.teacher_logits.argmax(dim=1))
            losses = losses + method.cross_entropy_weight * hard
        if method.attention_weight:
            attention = attention_transfer_per_sample(features, batch.teacher_features)
            losses = losses + method.attention_weight * attention
        return losses.mean() if batch.weights is None else (losses * batch.weights).sum()

    def _divergence(self, teacher_logits: Tensor, logits: Tensor) -> Tensor:
        if self.method.loss == "l1":
            return l1_per_sample(teacher_logits, logits)
        temperature = self.method.temperature
        scale = temperature**2 if self.method.temperature_squared else 1.0
        return scale * kl_per_sample(teacher_logits, logits, temperature)

    @torch.no_grad()
    def _batch(self, pixels: Tensor) -> Batch:
        with self.accelerator.autocast():
            logits, features = self._answers(self.teacher, pixels, bool(self.method.attention_weight))
            fixed = not self.method.learns_images
            weights = self.defense.sample_weights(pixels, logits) if fixed else None
        return Batch(pixels, logits, features, weights)

    def _set_learning_rate(self, index: int) -> None:
        for defense in self.defenses:
            fresh = defense.fresh_learning_rate(index, self.method.rounds)
            if fresh is not None:
                self.constant_rate = fresh
                self.optimizer = self._adam(fresh)
        rate = self.constant_rate
        if rate is None:
            rate = self._scheduled_rate(index)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _scheduled_rate(self, index: int) -> float:
        method = self.method
        # Counted from the first round in which the student learns, as where a bank is filled first.
        done, rounds = max(0, index - self.idle_rounds), method.rounds - self.idle_rounds
        drops = method.learning_rate_drops
        if drops:
            return stepped(method.learning_rate, done, rounds, drops)
        return cosine(method.learning_rate, done, rounds)

    def _first_optimizer(self) -> Any:
        method = self.method
        if method.optimizer == "adam":
            return self._adam(method.learning_rate, method.weight_decay)
        return self.accelerator.prepare(
            torch.optim.SGD(
                self.weights,
                lr=method.learning_rate,
                momentum=method.momentum,
                weight_decay=method.weight_decay,
            )
        )

    def _adam(self, rate: float, weight_decay: float = 0.0) -> Any:
        return self.accelerator.prepare(torch.optim.Adam(self.weights, lr=rate, weight_decay=weight_decay))

    def _check(self) -> None:
        check_processes(self.accelerator, self.options.mixed_precision, self.method.batch_size)
        if self.options.dynamo_backend != "no" and self.accelerator.num_processes > 1:
            raise InputError(
                f"trainer.dynamo_backend: {self.options.dynamo_backend} works with one process, and there "
                f"are {self.accelerator.num_processes}; use no"
            )
        for defense in self.defenses:
            defense.check(self.method.rounds)
        if self.teacher.spec.labels != self.student.spec.labels:
            raise InputError("student: its labels differ from the teacher's")
        if self.method.attention_weight:
            self._check_blocks()

    def _check_blocks(self) -> None:
        spec, like = self.teacher.spec, self.teacher.mean
        pixels = torch.zeros(2, spec.channels, spec.height, spec.width, device=like.device, dtype=like.dtype)
        shapes = []
        for model in (self.teacher, self.student):
            was_training = model.training
            with torch.no_grad():
                features = model.eval().forward_with_blocks(pixels)[1]
            model.train(was_training)
            shapes.append([tuple(feature.shape[2:]) for feature in features])
        if not shapes[0] or shapes[0] != shapes[1] or not all(len(shape) == 2 for shape in shapes[0]):
            raise InputError(
                f"attention_weight: attention transfer needs matching blocks, but the teacher's maps are "
                f"{shapes[0] or 'unknown'} and the student's {shapes[1] or 'unknown'}; "
                "set attention_weight to 0 or name the teacher's blocks"
            )

    # --- log and progress ---------------------------------------------------------------------------

    def _sum(self, figures: Mapping[str, Tensor], share: float = 1.0) -> None:
        # Summed on the device: reading a number would stop the device every step.
        for name, value in figures.items():
            part = value.detach() * share
            self.sums[name] = self.sums[name] + part if name in self.sums else part
            self.counts[name] = self.counts.get(name, 0.0) + share

    def _look(self) -> tuple[float, float]:
        """What the watch took, in seconds and in those of the processor.

        Before a checkpoint: a run that goes on from it keeps the row.
        """
        began, processor_began = time.monotonic(), time.process_time()
        figures = self.watch(self.round, self.student) if self.watch else {}
        if figures:
            self.accelerator.log(dict(figures), step=self.round)
            self._append({"round": self.round, **figures})
        return time.monotonic() - began, time.process_time() - processor_began

    def _append(self, row: Mapping[str, float]) -> None:
        if self.folder is not None and self.accelerator.is_main_process:
            append_log(self.folder / "log.jsonl", row)

    def _after_round(self, bar: Any) -> None:
        last = self.round == self.method.rounds
        if last or self.round % self.options.log_every == 0:
            self._log(bar)
        every = self.options.checkpoint_every
        if every and (last or self.round % every == 0):
            self._save()

    def _log(self, bar: Any) -> None:
        means = torch.stack([value.double() / self.counts[name] for name, value in self.sums.items()])
        figures = dict(zip(self.sums, means.tolist(), strict=True))
        for name, value in figures.items():
            if not math.isfinite(value):
                raise InputError(
                    f"{name}: {value} after round {self.round}, the run has diverged; lower learning_rate or "
                    "use mixed_precision no"
                )
        self.sums, self.counts = {}, {}
        bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()})
        figures["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.accelerator.log(figures, step=self.round)
        self._append({"round": self.round, "seconds": round(self.seconds, 3), **figures})

    def _begin_log(self) -> None:
        if self.options.trackers:
            self.accelerator.init_trackers(
                "abd-hub", config={"seed": self.seed, "rounds": self.method.rounds}
            )
        if self.folder is None or not self.accelerator.is_main_process:
            return
        rewind_log(self.folder / "log.jsonl", "round", self.round)

    def _progress(self) -> Any:
        shown = self.options.progress and self.accelerator.is_main_process
        return tqdm(total=self.method.rounds, initial=self.round, disable=not shown, unit="round")

    # --- checkpoints --------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.folder is None or not self.accelerator.is_main_process or self.saved_round == self.round:
            return
        checkpoint.save(
            self.folder / "checkpoints", self.round, self.state_dict(), self.options.checkpoint_limit
        )
        self.saved_round = self.round

    def _resume(self) -> None:
        found = [] if self.folder is None else checkpoint.checkpoints(self.folder / "checkpoints")
        if not found:
            return
        self.round, state = checkpoint.load(found[-1])
        self.load_state_dict(state)
        self.saved_round = self.round
        logger.info("resumed after round %d", self.round)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rounds done have changed."""
        scaler = self.accelerator.scaler
        return {
            "run": self._identity(),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "synthesizer": self.synthesizer.state_dict(),
            "defenses": {defense.name: defense.state_dict() for defense in self.defenses},
            "constant_rate": self.constant_rate,
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "sums": self.sums,
            "counts": self.counts,
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``; the tensors may be on the CPU.

        Raises:
            InputError: the state is of another teacher.
        """
        for name, value in self._identity().items():
            if state["run"][name] != value:
                raise InputError(
                    f"resume: the checkpoint was written with {name} {state['run'][name]}, now it is {value}"
                )
        device = self.accelerator.device
        self.student.load_state_dict(state["student"])
        self.constant_rate = state["constant_rate"]
        if self.constant_rate is not None:  # a defence has begun its own optimiser
            self.optimizer = self._adam(self.constant_rate)
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        self.synthesizer.load_state_dict(state["synthesizer"])
        for defense in self.defenses:
            defense.load_state_dict(checkpoint.to_device(state["defenses"][defense.name], device))
        self.seconds = state["seconds"]
        self.processor_seconds = state["processor_seconds"]
        self.sums = checkpoint.to_device(state["sums"], device)
        self.counts = state["counts"]
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one that wrote the checkpoint."""
        return {"teacher sha256": self.teacher.ref.sha256}


def _answers(model: Classifier, pixels: Tensor, with_blocks: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits, and the maps of the blocks where they are asked for."""
    return model.forward_with_blocks(pixels) if with_blocks else (model(pixels), ())


def compiled(passes: Answers, backend: str) -> Answers:
    """By torch.compile with one of its backends; "no" leaves it as it is."""
    if backend == "no":
        return passes
    made: Answers = torch.compile(passes, backend=backend)
    return made
