"""Where the host may look at a value within a step."""

from __future__ import annotations

import torch


def may_ask(device: torch.device) -> bool:
    """Return whether a look at a value costs nothing; elsewhere than on a CPU the host would wait for the device."""
    return device.type == "cpu"
