"""The parts that every long training shares: the accelerator, the processes, requests to stop."""

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
_STOPPING = b"\nabd-hub: stopping after this step; a second Ctrl-C ends at once\n"


def make_accelerator(options: TrainerOptions, folder: Path | None = None) -> Accelerator:
    """Returns an accelerator for the options; accelerate selects the device.

    Raises:
        InputError: a tracker is not installed, or the precision is not possible here.
    """
    # accelerate itself would silently leave such a tracker out.
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
        raise InputError("trainer.mixed_precision: fp16 does not run on the CPU; use bf16 or no")
    return accelerator


def device_type() -> str:
    """Returns the type of the device on which a run will be, before there is an accelerator."""
    forced = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    found = None if forced or _several_on_the_cpu() else torch.accelerator.current_accelerator(True)
    return "cpu" if found is None else found.type


def _several_on_the_cpu() -> bool:
    """Returns whether a launcher has started several processes on a machine without an accelerator.

    Without ``cpu=True``, accelerate would run each process alone, and all would write the same folder.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def check_processes(accelerator: Accelerator, mixed_precision: str, batch_size: int) -> None:
    """Refuses a kind of launch, a precision or a batch that the processes cannot share.

    Args:
        accelerator: has the number and the kind of processes.
        mixed_precision: precision of the run.
        batch_size: images in a batch of all processes together.

    Raises:
        InputError: the launch, the precision or the batch size does not fit; the message names the field.
    """
    processes = accelerator.num_processes
    if batch_size % processes:
        raise InputError(
            f"batch_size: {processes} processes cannot share {batch_size} images equally; "
            f"use a multiple of {processes}"
        )

    if batch_size < 2:
        raise InputError(
            f"batch_size: must be at least 2 for batch normalization, got {batch_size}; use 2 or more"
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
        raise InputError("trainer.mixed_precision: fp16 works with one process only; use bf16 or no")


def in_main_process(accelerator: Accelerator, action: Callable[[], T]) -> T | None:
    """Runs ``action`` in the main process; its InputError ends every process.

    Returns:
        The result in the main process, None in the others.

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
    """Claims the output folder in one process for all; if the claim fails, every process ends.

    Args:
        output_dir: path of the folder.
        resume: whether an unfinished run in it may go on.
        config_yaml: configuration of the run.
        accelerator: says which process is the main one.

    Returns:
        A context in which the folder belongs to this run, see ``OutputFolder``.

    Raises:
        InputError: the run may not use the folder.
    """
    claim = in_main_process(
        accelerator, lambda: OutputFolder.open(output_dir, resume=resume, config_yaml=config_yaml)
    )
    return claim or nullcontext()


def any_process(flag: bool, device: torch.device) -> bool:
    """Returns whether the flag is set in any process, so that all leave a loop after the same step."""
    if distributed.world()[1] == 1:
        return flag
    votes = torch.tensor([float(flag)], device=device)
    distributed.average_([votes])
    return bool(votes.item() > 0)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, which end the loop after a round; the second signal ends it at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received:  # a second signal does not wait for the end of the round
            raise KeyboardInterrupt
        received.append(number)
        if number == signal.SIGINT and os.environ.get("LOCAL_RANK", "0") == "0":
            os.write(2, _STOPPING)  # print could meet itself here

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread can set a handler
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def device_name(device: torch.device) -> str:
    """Returns the name of the device for the record."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return f"{device.type} ({name(device)})" if name else device.type
