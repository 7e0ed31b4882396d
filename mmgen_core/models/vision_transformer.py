"""Pre-norm transformer blocks, and the vision transformer of EVA-CLIP (Fang et al. 2022).

Module names are those of the published files, so most of a state dict loads without renaming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Every position sees every other one; q, k, v in one layer."""

    def __init__(self, width: int, heads: int, operations: Any, **kw):
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, **kw)
        self.proj = operations.Linear(width, width, **kw)

    def forward(self, x_BNC: Tensor) -> Tensor:
        qkv = self.qkv(x_BNC).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(*qkv)
        return self.proj(h.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Norm, self-attention, norm, feed-forward with the exact GELU."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float, operations: Any, **kw):
        super().__init__()
        self.norm1 = operations.LayerNorm(width, eps=eps, **kw)
        self.attn = SelfAttention(width, heads, operations, **kw)
        self.norm2 = operations.LayerNorm(width, eps=eps, **kw)
        layers = {
            "fc1": operations.Linear(width, hidden, **kw),
            "fc2": operations.Linear(hidden, width, **kw),
        }
        self.mlp = nn.ModuleDict(layers)

    def forward(self, x_BNC: Tensor) -> Tensor:
        x_BNC = x_BNC + self.attn(self.norm1(x_BNC))
        return x_BNC + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x_BNC))))


@dataclass(frozen=True)
class VisionTransformerParams:
    depth: int
    width: int
    heads: int
    hidden: int  # of the feed-forward layers
    patch: int
    grid: int  # patches along a side of the trained picture
    norm_eps: float = 1e-6

    @property
    def side(self) -> int:
        """Pixels along a side of the trained picture."""
        return self.grid * self.patch


class VisionTransformer(nn.Module):
    """Normalised pixels [B, 3, H, W] to states [B, 1 + patches, C], the class token first.

    There is no norm after the last block: readers of these states bring their own.
    """

    def __init__(
        self,
        params: VisionTransformerParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, kw = params, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.patch_embed = nn.ModuleDict(
            {"proj": operations.Conv2d(3, p.width, p.patch, stride=p.patch, **kw)}
        )
        self.cls_token = operations.Embedding(1, p.width, **kw)
        self.pos_embed = operations.Embedding(1 + p.grid**2, p.width, **kw)
        self.blocks = nn.ModuleList(
            Block(p.width, p.heads, p.hidden, p.norm_eps, operations, **kw) for _ in range(p.depth)
        )

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """States of the last block, in the compute dtype.

        Raises:
            ValueError: a side is no multiple of the patch.
        """
        H, W = pixels_BCHW.shape[-2:]
        if H % self.params.patch or W % self.params.patch:
            raise ValueError(
                f"The picture is {W} x {H} pixels; this vision transformer needs sides that are "
                f"multiples of {self.params.patch}, and was trained on {self.params.side}."
            )
        x = self.patch_embed["proj"](pixels_BCHW.to(self.compute_dtype))
        grid = tuple(x.shape[-2:])
        x = x.flatten(2).transpose(1, 2)
        first = self.cls_token(torch.zeros(1, 1, dtype=torch.long, device=x.device))
        x = torch.cat([first.to(x).expand(len(x), -1, -1), x], dim=1)
        x = x + self._positions(grid, x.device).to(x)
        for block in self.blocks:
            x = block(x)
        return x

    def _positions(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Position embeddings [1, 1 + h * w, C]; other grids than the trained one are resampled."""
        own = self.params.grid
        table = self.pos_embed(torch.arange(1 + own**2, device=device))
        if grid == (own, own):
            return table[None]
        patches = table[1:].float().unflatten(0, (own, own)).movedim(-1, 0)[None]
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([table[None, :1].float(), patches.flatten(2).transpose(1, 2)], dim=1)
