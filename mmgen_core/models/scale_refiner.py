"""STAR's refiner: predicts a large map's tokens given some of them already placed
("causal-driven stable sampling", arXiv 2406.10797, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .scale_transformer import ScaleTransformerParams


class ScaleRefiner(nn.Module):
    """Three blocks over [text token; map tokens], fed with the base transformer's hidden
    states and the codes placed so far (zeros elsewhere)."""

    def __init__(
        self, params: ScaleTransformerParams, blocks: Sequence[nn.Module], operations: Any, **kw
    ):
        super().__init__()
        p, C = params, params.width
        self.text_proj = operations.Linear(p.text_width, C, **kw)
        self.pos_start = nn.Parameter(torch.empty(1, 1, C, **kw))
        self.word_embed = operations.Linear(p.code_channels, C, **kw)
        self.lvl_embed = operations.Embedding(len(p.scales), C, **kw)
        self.join = operations.Linear(2 * C, C, **kw)
        self.blocks = nn.ModuleList(blocks)
        self.head = operations.Linear(C, p.vocab, **kw)

    def first(self, pooled_RW: Tensor) -> Tensor:
        """The extra token [R, 1, C] in front of the map."""
        token = self.text_proj(pooled_RW)[:, None]
        return token + self.pos_start.to(token)

    def forward(
        self,
        first_R1C: Tensor,
        hidden_RnC: Tensor,
        placed_BnC: Tensor,
        scale: int,
        rotary: Tensor | None,
    ) -> Tensor:
        """fp32 logits [R, n + 1, V]; the first row belongs to the extra token.

        Args:
            placed_BnC: code vectors of the placed tokens, zeros elsewhere.
            rotary: the scale's table; the extra token has angle 0.
        """
        level = self.lvl_embed(torch.full((1,), scale, device=hidden_RnC.device))
        placed = self.word_embed(placed_BnC.to(hidden_RnC.dtype)) + level.to(hidden_RnC.dtype)
        placed = placed.repeat(len(first_R1C) // len(placed_BnC), 1, 1)
        placed = torch.cat([first_R1C, placed], dim=1)
        known = torch.cat([first_R1C, hidden_RnC], dim=1)
        x = self.join(torch.cat([placed, known], dim=-1))
        if rotary is not None:
            still = torch.stack([torch.ones_like(rotary[0, :1]), torch.zeros_like(rotary[1, :1])])
            rotary = torch.cat([still, rotary], dim=1)
        for block in self.blocks:
            x = block(x, rotary)
        return self.head(F.layer_norm(x, x.shape[-1:], eps=1e-6)).float()
