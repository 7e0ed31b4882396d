"""Q-Former (Li et al. 2023, BLIP-2): learned queries that read a sequence through BERT layers.

SEED uses it three times: causal over 32 queries to read a picture, and, without a mask, over 77
queries or one to write what a diffusion model reads. Post-norm throughout, as BERT is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class QFormerParams:
    depth: int
    width: int
    heads: int
    hidden: int  # of the feed-forward layers
    queries: int
    context_width: int  # of the states that are read
    cross_layers: tuple[int, ...]  # layers that read them
    causal: bool = False  # a query sees itself and those before it only
    norm_eps: float = 1e-12
    vocab: int = 0  # 0: queries only; else BERT's words and a second feed-forward for texts
    positions: int = 0


class BertAttention(nn.Module):
    """Attention, projection, and the norm of the sum."""

    def __init__(self, p: QFormerParams, context_width: int, operations: Any, **kw):
        super().__init__()
        self.heads = p.heads
        self.q = operations.Linear(p.width, p.width, **kw)
        self.kv = operations.Linear(context_width, 2 * p.width, **kw)
        self.out = operations.Linear(p.width, p.width, **kw)
        self.norm = operations.LayerNorm(p.width, eps=p.norm_eps, **kw)

    def forward(self, x_BQC: Tensor, context_BNK: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.q(x_BQC).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(context_BNK).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, *kv, attn_mask=mask)
        return self.norm(x_BQC + self.out(h.transpose(1, 2).flatten(2)))


class BertFeedForward(nn.Module):
    def __init__(self, p: QFormerParams, operations: Any, **kw):
        super().__init__()
        self.up = operations.Linear(p.width, p.hidden, **kw)
        self.down = operations.Linear(p.hidden, p.width, **kw)
        self.norm = operations.LayerNorm(p.width, eps=p.norm_eps, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(F.gelu(self.up(x))))


class QFormerLayer(nn.Module):
    def __init__(self, p: QFormerParams, reads: bool, operations: Any, **kw):
        super().__init__()
        self.attention = BertAttention(p, p.width, operations, **kw)
        self.cross = BertAttention(p, p.context_width, operations, **kw) if reads else None
        self.feed = BertFeedForward(p, operations, **kw)
        self.text_feed = BertFeedForward(p, operations, **kw) if p.vocab else None

    def forward(self, x_BQC: Tensor, context_BNK: Tensor, mask: Tensor | None) -> Tensor:
        x_BQC = self.attention(x_BQC, x_BQC, mask)
        if self.cross is not None:
            x_BQC = self.cross(x_BQC, context_BNK)
        return self.feed(x_BQC)

    def read_text(self, x_BTC: Tensor, mask: Tensor) -> Tensor:
        return self.text_feed(self.attention(x_BTC, x_BTC, mask))


class QFormer(nn.Module):
    def __init__(
        self,
        params: QFormerParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, kw = params, {"dtype": dtype, "device": device}
        self.params = params
        self.queries = operations.Embedding(p.queries, p.width, **kw)
        self.norm = operations.LayerNorm(p.width, eps=p.norm_eps, **kw)
        self.layers = nn.ModuleList(
            QFormerLayer(p, i in p.cross_layers, operations, **kw) for i in range(p.depth)
        )
        if p.vocab:
            self.words = operations.Embedding(p.vocab, p.width, **kw)
            self.positions = operations.Embedding(p.positions, p.width, **kw)

    def forward(self, context_BNK: Tensor) -> Tensor:
        """States [B, queries, C] after reading the context."""
        device = context_BNK.device
        x = self.norm(self.queries(torch.arange(self.params.queries, device=device)))
        x = x.to(context_BNK.dtype).expand(len(context_BNK), -1, -1)
        mask = self.mask(device)
        for layer in self.layers:
            x = layer(x, context_BNK, mask)
        return x

    def mask(self, device: torch.device) -> Tensor | None:
        """Which queries see which, bool [Q, Q]; None where all see all."""
        if not self.params.causal:
            return None
        return torch.ones(self.params.queries, self.params.queries, device=device).tril().bool()

    def text_states(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """States [B, T, C] of texts by the same self-attention, both directions.

        Args:
            mask_BT: 1 where a text position is, 0 for padding.
        """
        at = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x = self.norm(self.words(ids_BT) + self.positions(at))
        seen = mask_BT[:, None, None].bool()
        for layer in self.layers:
            x = layer.read_text(x, seen)
        return x
