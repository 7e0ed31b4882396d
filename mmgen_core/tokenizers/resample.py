"""Area resampling on every device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def area_resample(x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the windows that each output pixel covers, [B, C, *size]."""
    if x_BChw.device.type != "mps":
        return F.interpolate(x_BChw, size=size, mode="area")
    # On MPS torch pools only where the sizes divide (pytorch issue 96056).
    rows, columns = (
        window_weights(old, new).to(x_BChw)
        for old, new in zip(x_BChw.shape[-2:], size, strict=True)
    )
    return rows @ x_BChw @ columns.T


def window_weights(old: int, new: int) -> Tensor:
    """Matrix [new, old] of adaptive pooling: row i averages floor(i old / new) up to
    ceil((i + 1) old / new)."""
    at, out = torch.arange(old), torch.arange(new)[:, None]
    inside = (at >= out * old // new) & (at < -((out + 1) * old // -new))
    return inside.float() / inside.sum(1, keepdim=True)
