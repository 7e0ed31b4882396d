"""How Unified-IO 2 sees: a CLIP-like ViT without its last block, and a perceiver that boils the
frames of a history down to a few latents each.

Suffixes: B pictures, P patches, C width, L latents, H heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VisionParams:
    depth: int
    width: int
    heads: int
    mlp_width: int
    patch_values: int  # of one patch: its pixels times three
    positions: int  # one for the class token, the rest a square grid


@dataclass(frozen=True)
class ResamplerParams:
    """Attributes:
    scaled_cosine: attention by cosine with a learned scale per head (XXL); else q/k norms.
    frames: most frames of a history.
    """

    depth: int
    width: int
    heads: int
    head_size: int
    mlp_width: int
    latents: int
    scaled_cosine: bool
    frames: int


def pair_bias(mask_BP: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Bias [B, 1, P, P] that keeps unmasked tokens among themselves; None where all are. It is
    finite, so a masked token sees everything, which nothing reads."""
    if bool(mask_BP.all()):
        return None
    pairs = mask_BP[:, None, :, None] & mask_BP[:, None, None, :]
    return torch.zeros((), dtype=dtype, device=mask_BP.device).where(
        pairs, torch.finfo(dtype).min / 2
    )


class VisionBlock(nn.Module):
    def __init__(self, params: VisionParams, operations: Any, **kw):
        super().__init__()
        C, self.heads = params.width, params.heads
        self.norm_1 = operations.LayerNorm(C, eps=1e-5, **kw)
        self.norm_2 = operations.LayerNorm(C, eps=1e-5, **kw)
        for name in "qkvo":
            setattr(self, name, operations.Linear(C, C, **kw))
        self.up = operations.Linear(C, params.mlp_width, **kw)
        self.down = operations.Linear(params.mlp_width, C, **kw)

    def forward(self, x_BPC: Tensor, bias: Tensor | None) -> Tensor:
        h = self.norm_1(x_BPC)
        q, k, v = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x_BPC = x_BPC + self.o(h.transpose(1, 2).flatten(2))
        return x_BPC + self.down(F.gelu(self.up(self.norm_2(x_BPC))))


class VisionEncoder(nn.Module):
    def __init__(self, params: VisionParams, operations: Any, **kw):
        super().__init__()
        p, C, self.params = params, params.width, params
        self.patch = operations.Linear(p.patch_values, C, bias=False, **kw)
        self.class_embed = nn.Parameter(torch.empty(C, **kw))
        self.position = operations.Embedding(p.positions, C, **kw)
        self.norm = operations.LayerNorm(C, eps=1e-5, **kw)
        self.blocks = nn.ModuleList(VisionBlock(p, operations, **kw) for _ in range(p.depth))

    def positions(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """The table [1 + rows * columns, C] for a grid of patches."""
        table = self.position(torch.arange(self.params.positions, device=device))
        side = math.isqrt(self.params.positions - 1)
        if (side, side) == grid:
            return table
        own = table[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None].float()
        resized = F.interpolate(own, grid, mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([table[:1], resized[0].flatten(1).T.to(table)])

    def forward(
        self, patches_BPV: Tensor, mask_BP: Tensor, places_BP: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Features [B, P, C] after the last block and after the second one, in the dtype of the
        patches.

        Args:
            mask_BP: True where a patch shows something; the class token is always seen.
            places_BP: row-major place of each patch in the grid.
        """
        x, B = self.patch(patches_BPV), len(patches_BPV)
        table = self.positions(grid, x.device).to(x.dtype)
        start = self.class_embed.to(x).expand(B, 1, -1) + table[:1]
        x = x + table[1:][places_BP]
        x = self.norm(torch.cat([start, x], dim=1))
        bias = pair_bias(F.pad(mask_BP.bool(), (1, 0), value=True), x.dtype)
        second = x
        for i, block in enumerate(self.blocks):
            x = block(x, bias)
            second = x if i == 1 else second
        return x[:, 1:], second[:, 1:]


class ResamplerLayer(nn.Module):
    def __init__(self, params: ResamplerParams, operations: Any, **kw):
        super().__init__()
        p, inner, self.params = params, params.heads * params.head_size, params
        self.norm = operations.RMSNorm(p.width, eps=1e-6, **kw)
        self.q = operations.Linear(p.width, inner, bias=False, **kw)
        self.k = operations.Linear(p.width, inner, bias=False, **kw)
        self.v = operations.Linear(p.width, inner, bias=False, **kw)
        self.o = operations.Linear(inner, p.width, bias=False, **kw)
        self.mlp_norm = operations.RMSNorm(p.width, eps=1e-6, **kw)
        self.up = operations.Linear(p.width, p.mlp_width, bias=False, **kw)
        self.down = operations.Linear(p.mlp_width, p.width, bias=False, **kw)
        if p.scaled_cosine:
            self.logit_scale = nn.Parameter(torch.empty(p.heads, **kw))
        else:
            self.q_norm = operations.RMSNorm(p.head_size, eps=1e-6, **kw)
            self.k_norm = operations.RMSNorm(p.head_size, eps=1e-6, **kw)

    def forward(self, x_BLC: Tensor, context_BPC: Tensor, bias: Tensor) -> Tensor:
        h, heads = self.norm(x_BLC), (self.params.heads, -1)
        q = self.q(h).unflatten(-1, heads)
        k = self.k(context_BPC).unflatten(-1, heads)
        v = self.v(context_BPC).unflatten(-1, heads)
        if self.params.scaled_cosine:
            scale = self.logit_scale.float().clamp(max=math.log(100.0)).exp()[:, None].to(q)
            q, k, factor = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), 1.0
        else:
            q, k, factor = self.q_norm(q), self.k_norm(k), self.params.head_size**-0.5
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q), scale=factor)
        x_BLC = x_BLC + self.o(h.transpose(1, 2).flatten(2))
        return x_BLC + self.down(F.gelu(self.up(self.mlp_norm(x_BLC))))


class Resampler(nn.Module):
    def __init__(self, params: ResamplerParams, operations: Any, **kw):
        super().__init__()
        p = params
        self.latents = operations.Embedding(p.latents, p.width, **kw)
        self.context_norm = operations.RMSNorm(p.width, eps=1e-6, **kw)
        self.layers = nn.ModuleList(ResamplerLayer(p, operations, **kw) for _ in range(p.depth))
        self.norm = operations.RMSNorm(p.width, eps=1e-6, **kw)
        self.params = params

    def forward(self, features_BPC: Tensor, mask_BP: Tensor) -> Tensor:
        """Latents [B, L, C] of pictures; where all is masked they mean nothing, but are finite."""
        context = self.context_norm(features_BPC)
        lowest = torch.finfo(context.dtype).min / 2  # finite: a row may be masked throughout
        bias = torch.where(mask_BP.bool(), 0.0, lowest)[:, None, None]
        x = self.latents(torch.arange(self.params.latents, device=features_BPC.device))
        x = x.to(context).expand(len(context), -1, -1)
        for layer in self.layers:
            x = layer(x, context, bias)
        return self.norm(x)
