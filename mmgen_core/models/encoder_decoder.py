"""The encoder-decoder transformer of Unified-IO 1 and 2 (T5-like: pre-norms without means, gated
MLPs, no biases, cross-attention in every decoder layer).

The two differ in how places enter: Unified-IO adds biases to the attention, Unified-IO 2 turns
queries and keys, in cross-attention too. The decoder takes packed tokens and segments, as the
decoder-only transformer does, so one engine drives both; what it reads of the encoder is computed
once per prompt and lies in the segment's cache.

Suffixes: B prompts, S encoder tokens, N packed decoder tokens, R rows of a segment, n new tokens
of a row, H heads, D head size, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoding.kv_cache import KVCache
from .decoder import Segment

Turning = tuple[Tensor, Tensor] | None  # what ``turn`` multiplies by


@dataclass(frozen=True)
class StackParams:
    """Sizes of both stacks.

    Attributes:
        head_size: heads * head_size need not be the width.
        rotary: queries and keys are normalised and turned, and scores divided by the root of the
            head size; else they are neither (T5).
        tanh_gelu: activation of the MLP's gate; else SiLU.
    """

    width: int
    heads: int
    head_size: int
    mlp_width: int
    encoder_depth: int
    decoder_depth: int
    rotary: bool
    tanh_gelu: bool
    eps: float = 1e-6


class CrossCache(KVCache):
    """A run's own keys and values, and those of the encoded prompt [layers, 1, H, S, D], which
    all rows read. ``bias`` [H, T, T] is added to the scores of the T target positions."""

    def __init__(self, *sizes: Any, cross: tuple[Tensor, Tensor], bias: Tensor | None = None):
        super().__init__(*sizes)
        self.cross, self.bias = cross, bias

    def empty(self, rows: int, capacity: int) -> CrossCache:
        layers, _, heads, _, head_size = self.keys.shape
        sizes = (layers, rows, heads, capacity, head_size, self.keys.dtype, self.keys.device)
        return CrossCache(*sizes, cross=self.cross, bias=self.bias)


def same_parts(a: Any, b: Any) -> bool:
    """Whether two prompts hold the same tensors, in dataclasses of any depth."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    if a is None or b is None or type(a) is not type(b):
        return a is b
    return all(same_parts(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def turning(table: Tensor | None) -> Turning:
    """What ``turn`` multiplies by [..., 1, D], from cosines and sines [..., D / 2, 2]; made once
    for all layers."""
    if table is None:
        return None
    cos, sin = table.unbind(-1)
    return (
        torch.stack([cos, cos], dim=-1).flatten(-2)[..., None, :],
        torch.stack([-sin, sin], dim=-1).flatten(-2)[..., None, :],
    )


def turn(x: Tensor, by: Turning) -> Tensor:
    """Rotate neighbouring channels (2i, 2i+1) of x [..., H, D], in fp32."""
    if by is None:
        return x
    full = x.float()
    swapped = full.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(full * by[0], swapped, by[1]).to(x.dtype)


def rotary_1d(positions: Tensor, head_size: int) -> Tensor:
    """Cosines and sines [..., D / 2, 2] of positions [...]."""
    power = torch.arange(0, head_size, 2, device=positions.device).float() / head_size
    angle = positions.float()[..., None] / 10000.0**power
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def rotary_2d(rows: Tensor, columns: Tensor, head_size: int) -> Tensor:
    """The same of places: half of the channel pairs turn by the row, half by the column."""
    halves = [rotary_1d(place, head_size // 2) for place in (rows, columns)]
    return torch.cat(halves, dim=-2)


class Attention(nn.Module):
    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__()
        p, inner = params, params.heads * params.head_size
        self.heads, self.scale = p.heads, p.head_size**-0.5 if p.rotary else 1.0
        self.q = operations.Linear(p.width, inner, bias=False, **kw)
        self.k = operations.Linear(p.width, inner, bias=False, **kw)
        self.v = operations.Linear(p.width, inner, bias=False, **kw)
        self.o = operations.Linear(inner, p.width, bias=False, **kw)
        norms = p.rotary
        self.q_norm = operations.RMSNorm(p.head_size, eps=p.eps, **kw) if norms else None
        self.k_norm = operations.RMSNorm(p.head_size, eps=p.eps, **kw) if norms else None

    def queries(self, x: Tensor, by: Turning) -> Tensor:
        """[..., H, D]."""
        q = self.q(x).unflatten(-1, (self.heads, -1))
        return turn(q if self.q_norm is None else self.q_norm(q), by)

    def keys_values(self, x: Tensor, by: Turning) -> tuple[Tensor, Tensor]:
        k = self.k(x).unflatten(-1, (self.heads, -1))
        v = self.v(x).unflatten(-1, (self.heads, -1))
        return turn(k if self.k_norm is None else self.k_norm(k), by), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **masking: Any) -> Tensor:
        """[B, n, H * D] of q, k, v [B, H, n, D]."""
        h = F.scaled_dot_product_attention(q, k, v, scale=self.scale, **masking)
        return h.transpose(1, 2).flatten(2)

    def forward(self, x_BSC: Tensor, by: Turning, bias: Tensor | None) -> Tensor:
        """Self-attention without a cache (the encoder's)."""
        q = self.queries(x_BSC, by)
        q, k, v = (x.transpose(1, 2) for x in (q, *self.keys_values(x_BSC, by)))
        return self.o(self.attend(q, k, v, attn_mask=bias))


class GatedMLP(nn.Module):
    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__()
        p, self.tanh_gelu = params, params.tanh_gelu
        self.gate = operations.Linear(p.width, p.mlp_width, bias=False, **kw)
        self.up = operations.Linear(p.width, p.mlp_width, bias=False, **kw)
        self.down = operations.Linear(p.mlp_width, p.width, bias=False, **kw)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        gate = F.gelu(gate, approximate="tanh") if self.tanh_gelu else F.silu(gate)
        return self.down(gate * self.up(x))


class EncoderLayer(nn.Module):
    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__()
        self.attention_norm = operations.RMSNorm(params.width, eps=params.eps, **kw)
        self.attention = Attention(params, operations, **kw)
        self.mlp_norm = operations.RMSNorm(params.width, eps=params.eps, **kw)
        self.mlp = GatedMLP(params, operations, **kw)

    def forward(self, x: Tensor, by: Turning, bias: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), by, bias)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__()
        count = params.encoder_depth
        self.layers = nn.ModuleList(EncoderLayer(params, operations, **kw) for _ in range(count))
        self.norm = operations.RMSNorm(params.width, eps=params.eps, **kw)

    def forward(self, x_BSC: Tensor, table: Tensor | None, bias: Tensor | None) -> Tensor:
        """States [B, S, C] of a prompt.

        Args:
            table: cosines and sines [B, S, D / 2, 2].
            bias: added to the scores, or bool with True where a token is seen; for [B, H, S, S].
        """
        by = turning(table)
        for layer in self.layers:
            x_BSC = layer(x_BSC, by, bias)
        return self.norm(x_BSC)


class DecoderLayer(EncoderLayer):
    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__(params, operations, **kw)
        self.cross_norm = operations.RMSNorm(params.width, eps=params.eps, **kw)
        self.cross = Attention(params, operations, **kw)

    def forward(self, x_NC: Tensor, layer: int, segments: Sequence[Segment], by: Turning) -> Tensor:
        x_NC = x_NC + self.own(self.attention_norm(x_NC), layer, segments, by)
        x_NC = x_NC + self.prompt(self.cross_norm(x_NC), layer, segments, by)
        return x_NC + self.mlp(self.mlp_norm(x_NC))

    def own(self, x: Tensor, layer: int, segments: Sequence[Segment], by: Turning) -> Tensor:
        """Self-attention; new keys and values go into the segments' caches."""
        sizes, parts = [s.tokens for s in segments], []
        q = self.attention.queries(x, by)
        k, v = self.attention.keys_values(x, by)
        for segment, *qkv in zip(segments, *(t.split(sizes) for t in (q, k, v)), strict=True):
            q, k, v = (t.unflatten(0, (segment.rows, -1)).transpose(1, 2) for t in qkv)
            k, v = KVCache.write(segment.cache.layer(layer), k, v)
            mask = score_mask(segment, q)
            parts.append(self.attention.attend(q, k, v, attn_mask=mask).flatten(0, 1))
        return self.attention.o(torch.cat(parts))

    def prompt(self, x: Tensor, layer: int, segments: Sequence[Segment], by: Turning) -> Tensor:
        """Cross-attention. All rows of a segment read the same prompt, so they are one batch of
        queries to it."""
        all_q, parts = self.cross.queries(x, by), []
        for segment, q in zip(segments, all_q.split([s.tokens for s in segments]), strict=True):
            k, v = (part[layer] for part in segment.cache.cross)
            parts.append(self.cross.attend(q.transpose(0, 1)[None], k, v)[0])
        return self.cross.o(torch.cat(parts))


def score_mask(segment: Segment, q: Tensor) -> Tensor | None:
    """What a segment's new tokens see, as bias or as bool [n, T]; None where they see all."""
    start, end = segment.start, segment.start + segment.count
    bias = segment.cache.bias
    if isinstance(segment.attend, Tensor):
        seen = segment.attend.to(q.device)
    elif segment.attend == "full" or segment.count == 1:
        seen = None
    else:
        seen = torch.ones(segment.count, end, dtype=torch.bool, device=q.device).tril(start)
    if bias is None:
        return seen
    bias = bias[:, start:end, :end].to(q.dtype)
    return bias if seen is None else bias.masked_fill(~seen, -torch.inf)


class Decoder(nn.Module):
    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__()
        self.params, count = params, params.decoder_depth
        self.layers = nn.ModuleList(DecoderLayer(params, operations, **kw) for _ in range(count))
        self.norm = operations.RMSNorm(params.width, eps=params.eps, **kw)

    def cross(self, encoded_1SC: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, 1, H, S, D] of a prompt, for all layers."""
        by = turning(table)
        pairs = [layer.cross.keys_values(encoded_1SC, by) for layer in self.layers]
        keys, values = zip(*pairs, strict=True)
        return torch.stack(keys).transpose(2, 3), torch.stack(values).transpose(2, 3)

    def forward(self, x_NC: Tensor, segments: Sequence[Segment], table: Tensor | None) -> Tensor:
        """Hidden states [N, C] after the final norm; every segment's cache grows by its tokens."""
        by = turning(table)
        for i, layer in enumerate(self.layers):
            x_NC = layer(x_NC, i, segments, by)
        for segment in segments:
            if segment.keep:
                segment.cache.advance(segment.count)
        return self.norm(x_NC)
