"""CLIP's text transformer (Radford et al. 2021), in the layout of transformers' CLIPTextModel.

In ComfyUI the host's own text encoders are used; this one serves notebooks, tests and training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioners.scale_prompt import TextFeatures


@dataclass(frozen=True)
class ClipTextParams:
    depth: int
    width: int
    heads: int
    hidden: int  # of the feed-forward layers
    vocab: int
    positions: int
    quick_gelu: bool = False  # OpenAI's models; OpenCLIP's use the exact GELU
    end_id: int = 2  # 2 is the value old configs carry: the end is the highest id then


class ClipTextLayer(nn.Module):
    def __init__(self, params: ClipTextParams, operations: Any, **kw):
        super().__init__()
        p, C = params, params.width
        self.heads = p.heads
        self.quick_gelu = p.quick_gelu
        self.layer_norm1 = operations.LayerNorm(C, eps=1e-5, **kw)
        self.layer_norm2 = operations.LayerNorm(C, eps=1e-5, **kw)
        projections = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.self_attn = nn.ModuleDict({n: operations.Linear(C, C, **kw) for n in projections})
        self.mlp = nn.ModuleDict(
            {
                "fc1": operations.Linear(C, p.hidden, **kw),
                "fc2": operations.Linear(p.hidden, C, **kw),
            }
        )

    def forward(self, x_BTC: Tensor, mask: Tensor) -> Tensor:
        h = self.layer_norm1(x_BTC)
        q, k, v = (
            self.self_attn[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h.transpose(1, 2).flatten(2)
        x_BTC = x_BTC + self.self_attn["out_proj"](h)
        h = self.mlp["fc1"](self.layer_norm2(x_BTC))
        h = h * torch.sigmoid(1.702 * h) if self.quick_gelu else F.gelu(h)
        return x_BTC + self.mlp["fc2"](h)


class ClipText(nn.Module):
    def __init__(
        self,
        params: ClipTextParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, C, kw = params, params.width, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.token_embedding = operations.Embedding(p.vocab, C, **kw)
        self.position_embedding = operations.Embedding(p.positions, C, **kw)
        self.layers = nn.ModuleList(ClipTextLayer(p, operations, **kw) for _ in range(p.depth))
        self.final_layer_norm = operations.LayerNorm(C, eps=1e-5, **kw)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Final-norm states [B, T, C], and pooled [B, C]: the state at the end of the text.

        Args:
            mask_BT: 1 where a text position is, 0 for padding (on the right).
        """
        at = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x = self.token_embedding(ids_BT) + self.position_embedding(at)
        x = x.to(self.compute_dtype)
        mask = (at[:, None] >= at) & mask_BT[:, None, None].bool()
        for layer in self.layers:
            x = layer(x, mask)
        x = self.final_layer_norm(x)
        legacy = self.params.end_id == 2
        ends = ids_BT.argmax(-1) if legacy else (ids_BT == self.params.end_id).int().argmax(-1)
        return x, x[torch.arange(len(x), device=x.device), ends]

    def features(self, ids_BT: Tensor, mask_BT: Tensor) -> TextFeatures:
        """What STAR takes: all states, the pooled one without projection, the padding mask."""
        hidden, pooled = self(ids_BT, mask_BT)
        return TextFeatures(hidden, pooled, mask_BT)
