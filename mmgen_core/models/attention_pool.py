"""Learned queries that gather a sequence by cross-attention: the pool of Qwen-VL's vision
transformer (Bai et al. 2023), and the resamplers before and after SEED-X's language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AttentionPoolParams:
    queries: int  # a square number
    width: int
    heads: int
    input_width: int
    eps: float = 1e-5

    @property
    def side(self) -> int:
        return round(self.queries**0.5)


class AttentionPool(nn.Module):
    """One cross-attention without residual; positions enter the keys, not the values."""

    def __init__(self, params: AttentionPoolParams, operations: Any, **kw):
        super().__init__()
        p, C = params, params.width
        self.params = params
        self.query = operations.Embedding(p.queries, C, **kw)
        self.pos_embed = operations.Embedding(p.queries, C, **kw)  # sines, saved in the file
        self.kv_proj = operations.Linear(p.input_width, C, bias=False, **kw)
        self.ln_q = operations.LayerNorm(C, eps=p.eps, **kw)
        self.ln_kv = operations.LayerNorm(C, eps=p.eps, **kw)
        self.q, self.k, self.v, self.out = (operations.Linear(C, C, **kw) for _ in range(4))

    def forward(self, x_BNC: Tensor) -> Tensor:
        """[B, N, input width], a square map row by row, to [B, queries, width]."""
        at = torch.arange(self.params.queries, device=x_BNC.device)
        positions, queries = (table(at).to(x_BNC.dtype) for table in (self.pos_embed, self.query))
        x = self.ln_kv(self.kv_proj(x_BNC))
        keys = self.k(x + resized_table(positions, x.shape[1]))
        q = self.q(self.ln_q(queries) + positions).expand(len(x), -1, -1)
        heads = (
            t.unflatten(-1, (self.params.heads, -1)).transpose(1, 2) for t in (q, keys, self.v(x))
        )
        pooled = F.scaled_dot_product_attention(*heads)
        return self.out(pooled.transpose(1, 2).flatten(2))


def resized_table(table_NC: Tensor, count: int) -> Tensor:
    """A square table of positions at another size, bicubic, in fp32."""
    if count == len(table_NC):
        return table_NC
    old, new = round(len(table_NC) ** 0.5), round(count**0.5)
    if new * new != count:
        raise ValueError(f"{count} tokens are no square map, which the position table needs.")
    square = table_NC.float().unflatten(0, (old, old)).permute(2, 0, 1)[None]
    resized = F.interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(table_NC.dtype)
