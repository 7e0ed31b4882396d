"""U-Net patch layers of Transfusion (arXiv 2408.11039, section 3.1): down blocks turn latents into
tokens, up blocks turn the transformer's states and the down blocks' features back.

The paper gives neither block counts nor widths; these are this pack's: per halving one residual
block each way, joined by a skip. The time is added to the first features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.autoencoder import Downsample, ResidualBlock, Upsample

GROUPS = 8


class PatchUNet(nn.Module):
    """Latents [B, L, h, w] to tokens [B, n, C] and back.

    Args:
        widths: of the features, fine to coarse; each one but the last is halved once.
    """

    def __init__(self, channels: int, widths: Sequence[int], width: int, operations: Any, **kw):
        super().__init__()
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.conv_in = operations.Conv2d(channels, widths[0], 3, padding=1, **kw)
        self.down = nn.ModuleList(
            ResidualBlock(fine, fine, GROUPS, operations, **kw) for fine, _ in pairs
        )
        self.shrink = nn.ModuleList(
            Downsample(operations.Conv2d(fine, coarse, 3, stride=2, **kw)) for fine, coarse in pairs
        )
        self.to_model = operations.Linear(widths[-1], width, **kw)
        self.from_model = operations.Linear(width, widths[-1], **kw)
        self.grow = nn.ModuleList(
            Upsample(operations.Conv2d(coarse, fine, 3, padding=1, **kw)) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(
            ResidualBlock(2 * fine, fine, GROUPS, operations, **kw) for fine, _ in pairs
        )
        self.norm_out = operations.GroupNorm(GROUPS, widths[0], eps=1e-6, **kw)
        self.conv_out = operations.Conv2d(widths[0], channels, 3, padding=1, **kw)

    def tokens(self, x_BLhw: Tensor, time_BC: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens in raster order, and the features that ``latents`` joins again."""
        x, skips = self.conv_in(x_BLhw) + time_BC[:, :, None, None], []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        return self.to_model(x.flatten(2).transpose(1, 2)), skips

    def latents(self, hidden_BnC: Tensor, skips: Sequence[Tensor]) -> Tensor:
        h, w = (length // 2 for length in skips[-1].shape[-2:])
        x = self.from_model(hidden_BnC).transpose(1, 2).unflatten(2, (h, w))
        levels = list(zip(self.grow, self.up, skips, strict=True))
        for grow, block, skip in reversed(levels):
            x = block(torch.cat([grow(x), skip], dim=1))
        return self.conv_out(F.silu(self.norm_out(x)))
