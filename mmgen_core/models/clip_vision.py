"""CLIP's vision transformer (Radford et al. 2021) up to its last layer but one, and the linear
projector that turns its patches into DreamLLM's input embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ClipVisionParams:
    depth: int  # of the layers that are run; published files have one more
    width: int
    heads: int
    hidden: int  # of the feed-forward layers
    patch: int
    positions: int  # patches and the class token
    output_widths: tuple[int, ...]  # of the projector's layers; more than one: GELUs between

    @property
    def features(self) -> int:
        return self.positions - 1

    @property
    def image_size(self) -> int:
        return round(self.features**0.5) * self.patch


class ClipVisionLayer(nn.Module):
    def __init__(self, params: ClipVisionParams, operations: Any, **kw):
        super().__init__()
        p, C = params, params.width
        self.heads = p.heads
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

    def forward(self, x_BNC: Tensor) -> Tensor:
        h = self.layer_norm1(x_BNC)
        q, k, v = (
            self.self_attn[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BNC = x_BNC + self.self_attn["out_proj"](h)
        h = self.mlp["fc1"](self.layer_norm2(x_BNC))
        return x_BNC + self.mlp["fc2"](h * torch.sigmoid(1.702 * h))


class ClipVision(nn.Module):
    def __init__(
        self,
        params: ClipVisionParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, C, kw = params, params.width, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.class_embedding = operations.Embedding(1, C, **kw)
        self.patch_embedding = operations.Conv2d(3, C, p.patch, stride=p.patch, bias=False, **kw)
        self.position_embedding = operations.Embedding(p.positions, C, **kw)
        self.pre_norm = operations.LayerNorm(C, eps=1e-5, **kw)
        self.layers = nn.ModuleList(ClipVisionLayer(p, operations, **kw) for _ in range(p.depth))
        widths = (C, *p.output_widths)
        self.projector = nn.ModuleList(
            operations.Linear(a, b, **kw) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Input embeddings [B, patches, output width] of normalised pixels."""
        x = self.patches(pixels_B3HW)
        for index, layer in enumerate(self.projector):
            x = layer(F.gelu(x) if index else x)
        return x

    def patches(self, pixels_B3HW: Tensor) -> Tensor:
        """States of the patches [B, patches, width] after the last layer that is run."""
        x = self.patch_embedding(pixels_B3HW.to(self.compute_dtype)).flatten(2).transpose(1, 2)
        at = torch.arange(self.params.positions, device=x.device)
        first = self.class_embedding(at[:1]).to(x.dtype).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1) + self.position_embedding(at).to(x.dtype)
        x = self.pre_norm(x)
        for layer in self.layers:
            x = layer(x)
        return x[:, 1:]
