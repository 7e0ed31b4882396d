"""SEED-X's de-tokenizer adapter (Ge et al. 2024, section 3.1): image features of any number to
SDXL's context and pooled vector. A Perceiver resampler with an attention pool on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SdxlAdapterParams:
    depth: int
    width: int
    head_size: int
    queries: int
    input_width: int
    hidden: int  # of the feed-forward layers
    context_widths: tuple[int, int]
    pooled_width: int
    pool_heads: int


def attended(q_BnC: Tensor, k_BNC: Tensor, v_BNC: Tensor, heads: int) -> Tensor:
    split = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q_BnC, k_BNC, v_BNC))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class LatentAttention(nn.Module):
    """The latents look at the features and at themselves."""

    def __init__(self, params: SdxlAdapterParams, operations: Any, **kw):
        super().__init__()
        C = params.width
        inner = C // params.head_size * params.head_size
        self.heads = params.width // params.head_size
        self.norm1 = operations.LayerNorm(C, eps=1e-5, **kw)
        self.norm2 = operations.LayerNorm(C, eps=1e-5, **kw)
        self.to_q = operations.Linear(C, inner, bias=False, **kw)
        self.to_kv = operations.Linear(C, 2 * inner, bias=False, **kw)
        self.to_out = operations.Linear(inner, C, bias=False, **kw)

    def forward(self, x_BNC: Tensor, latents_BnC: Tensor) -> Tensor:
        latents = self.norm2(latents_BnC)
        k, v = self.to_kv(torch.cat([self.norm1(x_BNC), latents], dim=1)).chunk(2, -1)
        return self.to_out(attended(self.to_q(latents), k, v, self.heads))


class PooledSummary(nn.Module):
    """CLIP's attention pool: what the mean token sees of all tokens and itself."""

    def __init__(self, params: SdxlAdapterParams, operations: Any, **kw):
        super().__init__()
        C = params.width
        self.heads = params.pool_heads
        self.positional_embedding = operations.Embedding(params.queries + 1, C, **kw)
        self.q_proj, self.k_proj, self.v_proj = (operations.Linear(C, C, **kw) for _ in range(3))
        self.c_proj = operations.Linear(C, params.pooled_width, **kw)

    def forward(self, x_BNC: Tensor) -> Tensor:
        x = torch.cat([x_BNC.mean(1, keepdim=True), x_BNC], dim=1)
        at = torch.arange(x.shape[1], device=x.device)
        x = x + self.positional_embedding(at).to(x.dtype)
        pooled = attended(self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x), self.heads)
        return self.c_proj(pooled)[:, 0]


class SdxlAdapter(nn.Module):
    def __init__(
        self,
        params: SdxlAdapterParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        p, C, kw = params, params.width, {"dtype": dtype, "device": device}
        self.params, self.compute_dtype = params, dtype or torch.float32
        self.latents = operations.Embedding(p.queries, C, **kw)
        self.proj_in = operations.Linear(p.input_width, C, **kw)
        self.norm_out = operations.LayerNorm(C, eps=1e-5, **kw)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    LatentAttention(p, operations, **kw),
                    nn.Sequential(
                        operations.LayerNorm(C, eps=1e-5, **kw),
                        operations.Linear(C, p.hidden, bias=False, **kw),
                        nn.GELU(),
                        operations.Linear(p.hidden, C, bias=False, **kw),
                    ),
                ]
            )
            for _ in range(p.depth)
        )
        self.unet_proj_1 = operations.Linear(C, p.context_widths[0], **kw)
        self.unet_proj_2 = operations.Linear(C, p.context_widths[1], **kw)
        self.unet_attnpool = PooledSummary(p, operations, **kw)

    def forward(self, features_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """Context [B, queries, sum of widths] and pooled [B, pooled width].

        Raises:
            ValueError: features of another width.
        """
        if features_BNC.shape[-1] != self.params.input_width:
            raise ValueError(
                f"The image features have width {features_BNC.shape[-1]}, this de-tokenizer takes "
                f"{self.params.input_width}. Features and de-tokenizer must both be SEED-X's."
            )
        x = self.proj_in(features_BNC.to(self.compute_dtype))
        at = torch.arange(self.params.queries, device=x.device)
        latents = self.latents(at).to(x.dtype).expand(len(x), -1, -1)
        for attention, feed_forward in self.layers:
            latents = latents + attention(x, latents)
            latents = latents + feed_forward(latents)
        h = self.norm_out(latents)
        context = torch.cat([self.unet_proj_1(h), self.unet_proj_2(h)], dim=-1)
        return context, self.unet_attnpool(h)
