"""SEED's way back: 32 codes to what a frozen Stable Diffusion U-Net takes as its condition.

SEED-1 writes 77 text features with a Reverse Q-Former, SEED-2 one image embedding with an MLP (as
released) or with a Reverse Q-Former of one query (as its public training code does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.qformer import QFormer, QFormerParams
from ..models.vision_transformer import Block

HEADS, NORM_EPS = 12, 1e-6  # of the blocks, whatever their width


@dataclass(frozen=True)
class DetokenizerParams:
    codes: int  # of a picture
    width: int
    depth: int
    hidden: int
    condition_width: int
    heads: int = HEADS
    reverse: QFormerParams | None = None
    down: tuple[int, ...] = ()  # widths of the MLP in place of a Reverse Q-Former

    @property
    def condition_tokens(self) -> int:
        return self.reverse.queries if self.reverse else 1


class Detokenizer(nn.Module):
    """Code states [B, 32, C] to a condition [B, tokens, W]."""

    def __init__(self, params: DetokenizerParams, operations: Any, **kw):
        super().__init__()
        p = self.params = params
        self.pos_embed = operations.Embedding(p.codes, p.width, **kw)
        self.blocks = nn.ModuleList(
            Block(p.width, p.heads, p.hidden, NORM_EPS, operations, **kw) for _ in range(p.depth)
        )
        read = p.width
        if p.reverse is not None:
            self.reverse = QFormer(p.reverse, operations=operations, **kw)
        else:
            widths = (p.width, *p.down)
            self.down = nn.ModuleList(
                operations.Linear(a, b, bias=False, **kw)
                for a, b in zip(widths[:-1], widths[1:], strict=True)
            )
            read = p.codes * p.down[-1]
        self.project = operations.Linear(read, p.condition_width, **kw)

    def forward(self, x_BNC: Tensor) -> Tensor:
        x = self.states(x_BNC)
        if self.params.reverse is not None:
            return self.project(self.reverse(x))
        for i, layer in enumerate(self.down):
            x = layer(x if i == 0 else F.relu(x))
        return self.project(x.flatten(1))[:, None]

    def states(self, x_BNC: Tensor) -> Tensor:
        """The code states after the blocks, which see one another in both directions."""
        places = self.pos_embed(torch.arange(self.params.codes, device=x_BNC.device))
        x_BNC = x_BNC + places.to(x_BNC)
        for block in self.blocks:
            x_BNC = block(x_BNC)
        return x_BNC
