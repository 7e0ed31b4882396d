"""Qwen-VL's vision transformer (Bai et al. 2023): 256 features of 4096 values per picture.

SEED-X reads pictures with it, regresses its features, and draws from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention_pool import AttentionPool, AttentionPoolParams, resized_table

EPS = 1e-6  # everywhere in this network


@dataclass(frozen=True)
class QwenVitParams:
    depth: int
    width: int
    heads: int
    hidden: int  # of the feed-forward layers
    patch: int
    positions: int  # rows of the position table, resized to the patches of a picture
    pool: AttentionPoolParams
    image_size: int = 448

    @property
    def features(self) -> int:
        return self.pool.queries


class QwenVitBlock(nn.Module):
    def __init__(self, params: QwenVitParams, operations: Any, **kw):
        super().__init__()
        p, C = params, params.width
        self.heads = p.heads
        self.ln_1 = operations.LayerNorm(C, eps=EPS, **kw)
        self.ln_2 = operations.LayerNorm(C, eps=EPS, **kw)
        self.attn = nn.ModuleDict(
            {
                "in_proj": operations.Linear(C, 3 * C, **kw),
                "out_proj": operations.Linear(C, C, **kw),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "c_fc": operations.Linear(C, p.hidden, **kw),
                "c_proj": operations.Linear(p.hidden, C, **kw),
            }
        )

    def forward(self, x_BNC: Tensor) -> Tensor:
        # The joined projection holds query, key and value head by head.
        qkv = self.attn["in_proj"](self.ln_1(x_BNC)).unflatten(-1, (self.heads, -1))
        q, k, v = qkv.transpose(1, 2).chunk(3, -1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BNC = x_BNC + self.attn["out_proj"](attended)
        return x_BNC + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x_BNC))))


class QwenVit(nn.Module):
    def __init__(
        self,
        params: QwenVitParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, C, kw = params, params.width, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.conv1 = operations.Conv2d(3, C, p.patch, stride=p.patch, bias=False, **kw)
        self.positional_embedding = operations.Embedding(p.positions, C, **kw)
        self.ln_pre = operations.LayerNorm(C, eps=EPS, **kw)
        self.blocks = nn.ModuleList(QwenVitBlock(p, operations, **kw) for _ in range(p.depth))
        self.attn_pool = AttentionPool(p.pool, operations, **kw)
        self.ln_post = operations.LayerNorm(p.pool.width, eps=EPS, **kw)
        self.proj = operations.Linear(p.pool.width, p.pool.width, bias=False, **kw)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Features [B, queries, width] of normalised pixels."""
        x = self.conv1(pixels_B3HW.to(self.compute_dtype)).flatten(2).transpose(1, 2)
        at = torch.arange(self.params.positions, device=x.device)
        positions = self.positional_embedding(at).to(x.dtype)
        x = self.ln_pre(x + resized_table(positions, x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.proj(self.ln_post(self.attn_pool(x)))

    def unconditional(self, device: torch.device) -> Tensor:
        """Features [1, queries, width] of a picture of CLIP's mean colour, which is what
        SEED-X's pictures are guided away from. They depend on the weights alone."""
        side = self.params.image_size
        return self(torch.zeros(1, 3, side, side, device=device))


def pooled_features(features_BNC: Tensor, count: int) -> Tensor:
    """Means over consecutive features, row by row, [B, count, C]: what SEED-X regresses."""
    return features_BNC.unflatten(1, (count, -1)).mean(2)
