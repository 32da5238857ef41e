"""The checkpoints of one run: when one is due, who writes it, where a resumed run begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from abd_hub.config.options import TrainerOptions
from abd_hub.core.errors import InputError
from abd_hub.learning import checkpoint


class Checkpoints:
    """The folder ``checkpoints`` of a run; the main process alone writes there.

    Args:
        folder: of the run; None keeps no checkpoints.
        accelerator: knows the main process.
        options: how often a checkpoint is due, and how many are kept.
    """

    def __init__(self, folder: Path | None, accelerator: Accelerator, options: TrainerOptions) -> None:
        self.folder = None if folder is None else folder / "checkpoints"
        self.accelerator = accelerator
        self.options = options
        self.newest_index = -1
        """Of the checkpoint that this run wrote or read last."""

    def refuse_present(self) -> None:
        """Refuses a run that begins anew where checkpoints of another one lie.

        Raises:
            InputError: there are some.
        """
        if self.folder is not None and checkpoint.checkpoints(self.folder):
            raise InputError(
                f"resume: {self.folder.parent.name} holds checkpoints; resume or use another folder"
            )

    def is_due(self, done: int, total: int) -> bool:
        """Whether a checkpoint is due after ``done`` of ``total`` rounds."""
        every = self.options.checkpoint_every
        return bool(every) and (done == total or done % every == 0)

    def save(self, index: int, state: Callable[[], dict[str, Any]]) -> None:
        """Writes a checkpoint, unless the newest one has this index.

        Args:
            index: rounds or steps done.
            state: gives what the checkpoint holds; called in the main process only.
        """
        if self.folder is None or not self.accelerator.is_main_process or index == self.newest_index:
            return
        checkpoint.save(self.folder, index, state(), self.options.checkpoint_limit)
        self.newest_index = index

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Index and state of the newest checkpoint, with tensors on the CPU; None where there is none.

        Raises:
            InputError: it cannot be read.
        """
        present = [] if self.folder is None else checkpoint.checkpoints(self.folder)
        if not present:
            return None
        self.newest_index, state = checkpoint.load(present[-1])
        return self.newest_index, state


def scaler_state(accelerator: Accelerator) -> dict[str, Any] | None:
    """What fp16's loss scale is now; None in other precisions."""
    scaler = accelerator.scaler
    return None if scaler is None else scaler.state_dict()


def restore_scaler(accelerator: Accelerator, state: dict[str, Any] | None) -> None:
    """The inverse of ``scaler_state``; does nothing where this run or the one before has no scale."""
    if state is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state)
