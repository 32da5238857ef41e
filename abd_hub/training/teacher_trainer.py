"""The training loop of a teacher, without worker processes for the data.

The device holds the whole set as uint8 and augments the images. Every draw depends on the seed, the epoch and
the step. A checkpoint is written after an epoch. A run of a single process also writes one within an epoch
when it gets a stop signal. A resumed run on the same CPU gives the same bits.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from abd_hub.config.options import TrainerOptions
from abd_hub.config.recipe import TeacherRecipe
from abd_hub.core import seeding
from abd_hub.core.errors import InputError, Interrupted
from abd_hub.learning import checkpoint, distributed
from abd_hub.learning.augment import crop_and_flip
from abd_hub.learning.global_batch import global_batch
from abd_hub.learning.schedules import warmup_cosine
from abd_hub.models.classifier import Classifier
from abd_hub.training.checkpoints import Checkpoints, restore_scaler, scaler_state
from abd_hub.training.pace import Pace
from abd_hub.training.remaining import Remaining
from abd_hub.training.run_log import RunClock, RunLog
from abd_hub.training.running import any_process, check_processes, make_accelerator, stop_requests

logger = logging.getLogger(__name__)


def train_teacher(
    classifier: Classifier, images: Tensor, labels: Tensor, recipe: TeacherRecipe, seed: int
) -> Classifier:
    """Trains in place with SGD and cross-entropy, without a folder and without a bar.

    Args:
        classifier: has fresh weights; changed in place.
        images: (n, C, H, W) uint8.
        labels: (n,) int64.
        recipe: schedule and augmentation.
        seed: seed of order, augmentation and dropout.

    Returns:
        The same classifier, frozen.

    Raises:
        InputError: there are fewer images than a batch holds, or the training diverges.
    """
    options = TrainerOptions(checkpoint_every=0, progress=False)
    return TeacherTrainer(classifier, images, labels, recipe, options, seed=seed).fit()


class TeacherTrainer:
    """Trains one teacher.

    Args:
        classifier: to be trained; changed in place.
        images: (n, C, H, W) uint8; augmented, never changed.
        labels: (n,) int64.
        recipe: schedule and augmentation.
        options: how the run is carried out; ``checkpoint_every`` and ``log_every`` count epochs.
        seed: seed of every draw.
        folder: folder for log.jsonl and checkpoints/; None writes nothing.
        accelerator: from ``make_accelerator``.

    Raises:
        InputError: there are fewer images than a batch holds, or the processes cannot share a batch.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        recipe: TeacherRecipe,
        options: TrainerOptions | None = None,
        *,
        seed: int = 0,
        folder: Path | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.options = options or TrainerOptions(checkpoint_every=10, log_every=1)
        self.accelerator = accelerator or make_accelerator(self.options, folder)
        check_processes(self.accelerator, self.options.mixed_precision, recipe.batch_size)
        if len(labels) < recipe.batch_size:
            count = len(labels)
            raise InputError(
                f"batch_size: {recipe.batch_size} is more than the {count} images; use {count} or less"
            )

        device = self.accelerator.device
        self.classifier = classifier.to(device)
        self.images, self.labels = images.to(device), labels.to(device)
        self.recipe, self.seed = recipe, seed
        self.optimizer = self._optimizer()
        # An incomplete last batch is left out, because a batch of one has no BatchNorm statistics.
        self.steps = len(labels) // recipe.batch_size
        self.epoch, self.step = 0, 0

        self.clock = RunClock()
        self.log = RunLog(folder, self.accelerator, self.options, "epoch")
        self.checkpoints = Checkpoints(folder, self.accelerator, self.options)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.logged_epoch = 0
        self.pace, self.remaining = Pace(recipe.epochs), Remaining()  # a run may put others here
        self.stopped = False
        """Says whether a stop signal came in the last epoch, too late to interrupt the run."""
        self.generator_state: Tensor | None = None
        """Holds the state of the epoch's generator where a run resumes within an epoch."""

    @property
    def seconds(self) -> float:
        """Returns the seconds of the steps so far, checkpoints included."""
        return self.clock.seconds

    @property
    def images_per_second(self) -> float:
        """Returns the mean over the whole run so far, checkpoints included."""
        done = (self.epoch * self.steps + self.step) * self.recipe.batch_size
        return done / self.seconds if self.seconds else 0.0

    @property
    def _all_steps(self) -> int:
        return self.pace.totals[-1][1] * self.steps

    def fit(self, resume: bool = False) -> Classifier:
        """Trains to the last epoch and returns the frozen classifier.

        Args:
            resume: continue from the newest checkpoint if there is one.

        Raises:
            Interrupted: a SIGINT or SIGTERM came, and the checkpoint is written.
            InputError: the loss is no longer finite.
        """
        if resume:
            self._resume()

        self._keep_pace()
        self.log.begin(self.epoch, self.recipe.epochs, self.seed)
        self.classifier.train()
        self.clock.start()

        done = self.epoch * self.steps + self.step
        bar = self.log.bar(self._all_steps, done, "step", self.remaining.left, "teacher")
        self.remaining.begin()
        with stop_requests() as stop, bar, torch.random.fork_rng(devices=[]):
            while self.epoch < self.recipe.epochs:
                self._epoch(stop, bar)
        return self.classifier.freeze()

    def _keep_pace(self) -> None:
        """Takes over the number of all epochs on which the schedule counts from here on."""
        self.recipe = dataclasses.replace(self.recipe, epochs=self.pace.total(self.epoch))

    def timed_step(self) -> float:
        """Returns the seconds of a step, the second of two; this trainer is of no use afterwards."""
        draws = seeding.generator(self.seed, "teacher", 0)
        batch = torch.arange(self.recipe.batch_size)
        self.classifier.train()
        with torch.random.fork_rng(devices=[]):
            self._step(batch, draws)
            began = time.monotonic()
            self._step(batch, draws)
            float(self.sums[0])  # waits for the device
        return time.monotonic() - began

    def _epoch(self, stop: list[int], bar: Any) -> None:
        draws = seeding.generator(self.seed, "teacher", self.epoch)
        order = torch.randperm(len(self.labels), generator=draws)
        batches = order[: self.steps * self.recipe.batch_size].view(self.steps, -1)
        if self.generator_state is not None:
            draws.set_state(self.generator_state)
            self.generator_state = None

        while self.step < self.steps:
            self._step(batches[self.step], draws)
            self.step += 1
            bar.update()
            self.remaining.after_round(self.epoch * self.steps + self.step, self._all_steps)
            self.clock.read()
            if self.step < self.steps and stop and distributed.world()[1] == 1:
                self._interrupt(draws)

        # Several processes stop here only, because a common decision costs a reduction.
        distributed.average_statistics(self.classifier)
        distributed.average_([self.sums])

        self.epoch, self.step = self.epoch + 1, 0
        self._keep_pace()
        self._after_epoch(bar)
        self.clock.read()
        self.stopped = any_process(bool(stop), self.accelerator.device)
        if self.stopped and self.epoch < self.recipe.epochs:
            self._interrupt(None)

    def _step(self, batch: Tensor, draws: torch.Generator) -> None:
        # Dropout draws from the global generator: see global_batch.
        seed = seeding.derive_seed(self.seed, "teacher", self.epoch, self.step, seeding.LEGACY_RANK)
        torch.manual_seed(seed)
        self._set_learning_rate()

        recipe = self.recipe
        augmented = crop_and_flip(self.images[batch], recipe.crop_padding, recipe.flip, draws)
        pixels = distributed.own_rows(augmented).float() / 255
        truth = distributed.own_rows(self.labels[batch])

        with global_batch(), self.accelerator.autocast():
            logits = self.classifier(pixels)
            loss = F.cross_entropy(logits, truth, label_smoothing=recipe.label_smoothing)

        self.accelerator.backward(loss)
        distributed.average_gradients(self.classifier.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()

        right = (logits.detach().argmax(1) == truth).double().mean()
        self.sums += torch.stack([loss.detach().double(), right])

    def _optimizer(self) -> Any:
        recipe = self.recipe
        return self.accelerator.prepare(
            torch.optim.SGD(
                self.classifier.parameters(),
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                nesterov=recipe.nesterov,
            )
        )

    def _set_learning_rate(self) -> None:
        done = self.epoch + self.step / self.steps
        rate = warmup_cosine(self.recipe.learning_rate, done, self.recipe.epochs, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _after_epoch(self, bar: Any) -> None:
        if self.log.is_due(self.epoch, self.recipe.epochs):
            self._log(bar)
        if self.checkpoints.is_due(self.epoch, self.recipe.epochs):
            self._save(None)

    def _log(self, bar: Any) -> None:
        means = self.sums / (self.steps * (self.epoch - self.logged_epoch))
        self.sums, self.logged_epoch = torch.zeros_like(self.sums), self.epoch
        loss, accuracy = means.tolist()
        self.log.refuse_diverged(self.epoch, {"loss": loss})

        bar.set_postfix_str(
            f"epoch {self.epoch}/{self.recipe.epochs}, loss {loss:.3f}, accuracy {accuracy:.3f}"
        )

        rate = self.optimizer.param_groups[0]["lr"]
        figures = {"loss": loss, "training_accuracy": accuracy, "learning_rate": rate}
        self.log.write(self.epoch, figures, self.seconds)

    def _interrupt(self, draws: torch.Generator | None) -> None:
        if self.checkpoints.folder is None:  # no checkpoint from which a run could go on
            raise KeyboardInterrupt
        self._save(draws)
        raise Interrupted(f"stopped in epoch {self.epoch + 1} of {self.recipe.epochs}")

    def _save(self, draws: torch.Generator | None) -> None:
        self.checkpoints.save(self.epoch * self.steps + self.step, lambda: self.state_dict(draws))

    def _resume(self) -> None:
        newest = self.checkpoints.newest()
        if newest is not None:
            self.load_state_dict(newest[1])
            logger.info("resumed in epoch %d", self.epoch + 1)

    def state_dict(self, chance: torch.Generator | None = None) -> dict[str, Any]:
        """Returns everything that the finished steps have changed.

        Args:
            chance: generator of the present epoch; None after a finished one.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "chance": chance.get_state() if chance is not None else None,
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seconds": self.seconds,
            "sums": self.sums,
            "logged_epoch": self.logged_epoch,
            "scaler": scaler_state(self.accelerator),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from ``state_dict``, whose tensors may be on the CPU."""
        self.epoch, self.step, self.clock.seconds = state["epoch"], state["step"], state["seconds"]
        self.generator_state, self.logged_epoch = state["chance"], state["logged_epoch"]
        self.classifier.load_state_dict(state["classifier"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        self.sums = state["sums"].to(self.accelerator.device)
        restore_scaler(self.accelerator, state["scaler"])
