"""A device has a name for people."""

from __future__ import annotations

import torch


def name_of(device: torch.device) -> str:
    """Returns the name of a card, or the threads of a processor."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    module = torch.get_device_module(device)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else str(device)
