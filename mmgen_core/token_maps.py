"""Token maps as pictures and masks: to look at them, and to say which tokens to redraw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_GOLDEN = 0.6180339887498949
_GAP = 4  # pixels between maps


def token_mask(mask_BHW: Tensor, grid: tuple[int, int], coverage: float) -> Tensor:
    """Which tokens to redraw, fp32 [B, h, w] of 0 and 1.

    Args:
        mask_BHW: pixels to redraw, 0..1, of the picture's aspect ratio.
        grid: (h, w) of the finest token map.
        coverage: a token is redrawn if more than this share of its area is masked, 0..1.

    Raises:
        ValueError: another aspect ratio than the tokens, or a mask that redraws nothing.
    """
    height, width = mask_BHW.shape[-2:]
    if height * grid[1] != width * grid[0]:
        raise ValueError(
            f"The mask is {width} x {height}, the picture's tokens are {grid[1]} x {grid[0]}: "
            f"their shapes differ. Scale and crop the mask as the picture was."
        )
    share = F.adaptive_avg_pool2d(mask_BHW[:, None].float(), grid)[:, 0]
    redraw = (share > coverage).float()
    empty = [row for row in range(len(redraw)) if not redraw[row].any()]
    if empty:
        raise ValueError(
            f"The mask (batch row {empty[0]}) covers no token by more than {coverage:.0%}: nothing "
            f"would be redrawn. Paint a larger mask or lower the coverage."
        )
    return redraw


def blend_mask(redraw_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """Where to take redrawn pixels, [B, *size]: 0 on every kept token, so that its pixels stay
    as they are, rising to 1 over half a token inside the redrawn area, so that no seam shows."""
    smooth = F.interpolate(redraw_Bhw[:, None], size=size, mode="bilinear")[:, 0]
    return (2 * smooth - 1).clamp(0, 1)


def code_colours(ids: Tensor) -> Tensor:
    """A colour in 0..1 per id, [*ids.shape, 3]: neighbouring ids get unlike hues."""
    hue = (ids.double() * _GOLDEN) % 1
    level = 0.55 + 0.45 * ((ids.double() * _GOLDEN * _GOLDEN) % 1)
    phase = hue[..., None] + torch.tensor([0.0, 1 / 3, 2 / 3], dtype=torch.float64)
    wave = 0.5 + 0.5 * torch.cos(2 * math.pi * phase)
    return (wave * level[..., None]).float()


def code_map_grid(ids: Sequence[Tensor], side: int) -> Tensor:
    """The code maps of all scales in a near-square grid, coarse to fine, [B, H, W, 3].

    Args:
        ids: int64 [B, h, w] per scale.
        side: pixels of one map.
    """
    columns = math.ceil(math.sqrt(len(ids)))
    rows, cell, batch = math.ceil(len(ids) / columns), side + _GAP, len(ids[0])
    sheet = torch.ones(batch, rows * cell - _GAP, columns * cell - _GAP, 3)
    for i, ids_Bhw in enumerate(ids):
        top, left = i // columns * cell, i % columns * cell
        colours = code_colours(ids_Bhw).movedim(-1, 1)
        picture = F.interpolate(colours, size=(side, side), mode="nearest-exact").movedim(1, -1)
        sheet[:, top : top + side, left : left + side] = picture
    return sheet
