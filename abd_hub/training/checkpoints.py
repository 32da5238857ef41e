"""The checkpoints of one run: when one is due, which process writes it, where a resumed run begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from abd_hub.config.options import TrainerOptions
from abd_hub.core.errors import InputError
from abd_hub.learning import checkpoint


class Checkpoints:
    """Writes and reads the folder ``checkpoints`` of a run; only the main process writes there.

    Args:
        folder: folder of the run; None keeps no checkpoints.
        accelerator: says which process is the main one.
        options: how often a checkpoint is due, and how many are kept.
    """

    def __init__(self, folder: Path | None, accelerator: Accelerator, options: TrainerOptions) -> None:
        self.folder = None if folder is None else folder / "checkpoints"
        self.accelerator = accelerator
        self.options = options
        self.newest_index = -1
        """Holds the index of the checkpoint that this run wrote or read last; -1 before the first."""

    def refuse_present(self) -> None:
        """Refuses to start a new run in a folder with checkpoints of another run.

        Raises:
            InputError: the folder holds checkpoints.
        """
        if self.folder is not None and checkpoint.checkpoints(self.folder):
            raise InputError(
                f"resume: {self.folder.parent.name} holds checkpoints of another run; resume that run or use "
                "another folder"
            )

    def is_due(self, done: int, total: int) -> bool:
        """Returns whether a checkpoint is due after ``done`` of ``total`` rounds."""
        every = self.options.checkpoint_every
        return bool(every) and (done == total or done % every == 0)

    def save(self, index: int, state: Callable[[], dict[str, Any]]) -> None:
        """Writes a checkpoint, unless the newest one has this index.

        Args:
            index: rounds or steps done.
            state: returns the content of the checkpoint; called in the main process only.
        """
        if self.folder is None or not self.accelerator.is_main_process or index == self.newest_index:
            return
        checkpoint.save(self.folder, index, state(), self.options.checkpoint_limit)
        self.newest_index = index

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns index and state of the newest checkpoint, with tensors on the CPU; None without one.

        Raises:
            InputError: the checkpoint cannot be read.
        """
        present = [] if self.folder is None else checkpoint.checkpoints(self.folder)
        if not present:
            return None
        self.newest_index, state = checkpoint.load(present[-1])
        return self.newest_index, state


def scaler_state(accelerator: Accelerator) -> dict[str, Any] | None:
    """Returns the state of fp16's loss scale; None in other precisions."""
    scaler = accelerator.scaler
    return None if scaler is None else scaler.state_dict()


def restore_scaler(accelerator: Accelerator, state: dict[str, Any] | None) -> None:
    """Restores the state from ``scaler_state``; does nothing where either run has no scale."""
    if state is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state)
