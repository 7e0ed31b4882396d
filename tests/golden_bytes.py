"""Pictures that a reference saved as bytes."""

from __future__ import annotations

import torch


def cut_off(value: torch.Tensor, recorded: torch.Tensor, slack: float) -> torch.Tensor:
    """Values in 0..255 as the reference's bytes, which are cut off, not rounded: where a value lies
    as near to a whole number as the case's tolerance for the floats, either byte is right."""
    low, high = (value - slack).clamp(0).floor(), (value + slack).clamp(max=255).floor()
    within = (low <= recorded) & (recorded <= high)
    return torch.where(within, recorded.float(), value.floor()).to(torch.uint8)
