"""Attention of the next-scale transformers: over tokens, and from tokens to text.

Suffixes: R rows, n tokens of the current scale, T text positions, H heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoding.kv_cache import KVCache


@dataclass(frozen=True)
class RotaryParams:
    """Normalised 2-D rotary positions (STAR, section 3.2): every map spans 0..norm."""

    theta: float = 10000.0
    norm: float = 64.0


@dataclass(frozen=True)
class TextKeys:
    """One block's keys and values of the text, computed once per picture.

    Attributes:
        keys, values: [A, H, T, D].
        mask: bool [A, 1, 1, T], True where a text position may be seen.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor


def rotary_table(params: RotaryParams, side: int, head_size: int, device: torch.device) -> Tensor:
    """Cosine and sine [2, side * side, D / 2], fp32: the first half of the pairs turns with x,
    the second with y."""
    step = params.norm / (side - 1) if side > 1 else 0.0
    at = torch.arange(side, device=device, dtype=torch.float32) * step
    power = torch.arange(0, head_size, 4, device=device, dtype=torch.float32) / head_size
    angle = at[:, None] / params.theta ** power[: head_size // 4]
    x, y = angle.repeat(side, 1), angle.repeat_interleave(side, 0)
    both = torch.cat([x, y], dim=-1)
    return torch.stack([both.cos(), both.sin()])


def rotate(x_RHnD: Tensor, table: Tensor) -> Tensor:
    """Turn adjacent channel pairs (2j, 2j + 1), in fp32."""
    even, odd = x_RHnD.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x_RHnD.dtype)


class NormalisedHeads(nn.Module):
    """Unit queries and keys with a learned length per head, as q/k-normalised attention has."""

    def __init__(self, heads: int, qk_norm: bool, **kw):
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        if qk_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.empty(1, heads, 1, 1, **kw))

    def query(self, q_RHnD: Tensor) -> Tensor:
        """Unit queries times exp(min(scale, ln 100)), up to a factor that moves from the keys
        to the queries: an RMS norm is sqrt(D) times a unit vector."""
        if not self.qk_norm:
            return q_RHnD
        D = q_RHnD.shape[-1]
        scale = self.scale_mul_1H11.to(q_RHnD.device, torch.float32)
        scale = scale.clamp(max=math.log(100)).exp() / D
        return F.rms_norm(q_RHnD, (D,), eps=1e-24) * scale.to(q_RHnD.dtype)

    def key(self, k_RHnD: Tensor) -> Tensor:
        return F.rms_norm(k_RHnD, k_RHnD.shape[-1:], eps=1e-24) if self.qk_norm else k_RHnD

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """[R, n, H * D]; without normalisation the reference scales by 0.25 / sqrt(D)."""
        scale = 1.0 if self.qk_norm else 0.25 / math.sqrt(q.shape[-1])
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return h.transpose(1, 2).flatten(2)


class SelfAttention(NormalisedHeads):
    def __init__(self, width: int, heads: int, qk_norm: bool, operations: Any, **kw):
        super().__init__(heads, qk_norm, **kw)
        self.qkv = operations.Linear(width, 3 * width, **kw)  # files: no bias for k
        self.proj = operations.Linear(width, width, **kw)

    def forward(
        self,
        x_RnC: Tensor,
        cache: tuple[Tensor, Tensor, int] | None = None,
        mask: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        R, n, _ = x_RnC.shape
        qkv = self.qkv(x_RnC).view(R, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        q, k = self.query(q), self.key(k)
        if cache is not None:  # keys are kept after rotation and normalisation
            k, v = KVCache.write(cache, k, v)
        return self.proj(self.attend(q, k, v, mask))


class CrossAttention(NormalisedHeads):
    """From tokens to text. Only the first A rows attend; their result goes to every row.

    STAR was trained and is sampled so that the unconditional row receives the conditional
    row's text attention. A is the number of pictures then.
    """

    def __init__(self, width: int, text_width: int, heads: int, qk_norm: bool, operations, **kw):
        super().__init__(heads, qk_norm, **kw)
        self.q = operations.Linear(width, width, **kw)
        self.kv = operations.Linear(text_width, 2 * width, **kw)  # files: no bias for k
        self.proj = operations.Linear(width, width, **kw)

    def keys(self, text_ATC: Tensor, mask_AT: Tensor) -> TextKeys:
        A, T, _ = text_ATC.shape
        k, v = self.kv(text_ATC).view(A, T, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return TextKeys(self.key(k), v, mask_AT[:, None, None].bool())

    def forward(self, x_RnC: Tensor, text: TextKeys) -> Tensor:
        R, A = len(x_RnC), len(text.keys)
        q = self.q(x_RnC[:A]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        h = self.proj(self.attend(self.query(q), text.keys, text.values, text.mask))
        return h if A == R else h.repeat(R // A, 1, 1)
