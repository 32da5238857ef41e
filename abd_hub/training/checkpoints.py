"""The checkpoints of one run: when one is due, which process writes it, where a resumed run begins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from abd_hub.config.options import TrainerOptions
from abd_hub.core.errors import InputError
from abd_hub.learning import checkpoint
from abd_hub.training.running import in_main_process

logger = logging.getLogger(__name__)


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
        """Returns index and state of the newest whole checkpoint, with tensors on the CPU; None without one.

        The main process chooses it for all processes. Damaged checkpoints after it are put aside, with a line
        in the log.

        Raises:
            InputError: no checkpoint can be read.
        """
        if self.folder is None:
            return None
        chosen = in_main_process(self.accelerator, self._choose)
        name = [chosen[0].name if chosen else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(name)
        if name[0] is None:
            return None
        self.newest_index, state = chosen[1] if chosen else checkpoint.load(self.folder / name[0])
        return self.newest_index, state

    def _choose(self) -> tuple[Path, tuple[int, dict[str, Any]]] | None:
        assert self.folder is not None
        found = checkpoint.newest_whole(self.folder)
        if found is None:
            return None
        path, saved, faults = found
        for fault in faults:
            logger.warning("%s; going on from %s", fault, path.name)
        if faults:
            checkpoint.put_aside(self.folder, path)
        return path, saved


def scaler_state(accelerator: Accelerator) -> dict[str, Any] | None:
    """Returns the state of fp16's loss scale; None in other precisions."""
    scaler = accelerator.scaler
    return None if scaler is None else scaler.state_dict()


def restore_scaler(accelerator: Accelerator, state: dict[str, Any] | None) -> None:
    """Restores the state from ``scaler_state``; does nothing where either run has no scale."""
    if state is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state)
