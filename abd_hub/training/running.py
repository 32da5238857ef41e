"""What every long training shares: the accelerator, the processes, requests to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType, broadcast_object_list

from abd_hub.config.options import TrainerOptions
from abd_hub.core.errors import InputError
from abd_hub.core.folder import OutputFolder
from abd_hub.learning import distributed

T = TypeVar("T")


def make_accelerator(options: TrainerOptions, folder: Path | None = None) -> Accelerator:
    """An accelerator that fits the options; the device is accelerate's choice.

    Raises:
        InputError: a tracker is not installed, or the precision is not possible here.
    """
    # accelerate would go on without it
    absent = set(LoggerType.list()) - {"all", *map(str, get_available_trackers())}
    for name in options.trackers:
        if name in absent:
            raise InputError(f"trainer.trackers: {name} is not installed; install it or leave it out")
    try:
        accelerator = Accelerator(
            cpu=_several_on_the_cpu(),
            mixed_precision=options.mixed_precision,
            log_with=list(options.trackers) or None,
            project_dir=None if folder is None else str(folder),
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise InputError(f"trainer: accelerate refuses these options: {error}") from error
    if options.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("trainer.mixed_precision: fp16 needs an accelerator; use bf16 or no on the CPU")
    return accelerator


def _several_on_the_cpu() -> bool:
    """Whether a launcher has begun several processes on a machine without an accelerator.

    Not told so, accelerate would let each run alone, and all would write the same folder.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def check_processes(accelerator: Accelerator, mixed_precision: str, batch_size: int) -> None:
    """Refuses a kind of launch, a precision or a batch that the processes cannot share.

    Raises:
        InputError: naming the field.
    """
    processes = accelerator.num_processes
    if batch_size % processes:
        raise InputError(
            f"batch_size: {batch_size} images cannot be shared equally by {processes} "
            f"processes; use a multiple of {processes}"
        )

    if batch_size < 2:
        raise InputError(
            f"batch_size: must be at least 2 images, which batch normalization needs, got {batch_size}"
        )

    if accelerator.distributed_type not in (
        DistributedType.NO,
        DistributedType.MULTI_CPU,
        DistributedType.MULTI_GPU,
    ):
        raise InputError(
            f"accelerate: {accelerator.distributed_type} is not supported; use one or more plain "
            "CPU or GPU processes"
        )
    if processes > 1 and mixed_precision == "fp16":
        raise InputError("trainer.mixed_precision: fp16 is for one process; use bf16 on several")


def in_main_process(accelerator: Accelerator, action: Callable[[], T]) -> T | None:
    """Runs ``action`` in the main process; others get None. What it refuses ends every process.

    Raises:
        InputError: ``action`` raised it.
    """
    result: T | None = None
    refusal: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            result = action()
        except InputError as error:
            refusal = [str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise InputError(refusal[0])
    return result


def claimed(output_dir: str, resume: bool, config_yaml: str, accelerator: Accelerator) -> Any:
    """The folder is claimed by one process for all; without a right to it every process ends.

    Returns:
        A context in which the folder is ours, see ``OutputFolder``.

    Raises:
        InputError: the folder may not be used.
    """
    claim = in_main_process(
        accelerator, lambda: OutputFolder.open(output_dir, resume=resume, config_yaml=config_yaml)
    )
    return claim or nullcontext()


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process says so: all must leave a loop after the same step."""
    if distributed.world()[1] == 1:
        return flag
    votes = torch.tensor([float(flag)], device=device)
    distributed.average_([votes])
    return bool(votes.item() > 0)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying: the loop looks after each round."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:  # asked twice: do not wait for the round to end
            raise KeyboardInterrupt
        received.append(number)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where no handler can be set
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def device_name(device: torch.device) -> str:
    """The device as the record names it."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return f"{device.type} ({name(device)})" if name else device.type
