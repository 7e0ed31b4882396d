"""The transformer of lucidrains/transfusion-pytorch: text by next token, latents by a flow.

Text tokens and picture tokens share attention and MLP, but not their norms: a picture's are
modulated by the time of its noise. Every layer reads a mix of all states before it.

Suffixes: N packed tokens of all segments, C width, H heads, D head size, K distinct times,
L latent channels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoding.kv_cache import KVCache
from .decoder import Segment, masking
from .latent_patches import AxialPositions, PatchLayerParams, patch_in, patch_out

SOFTCAP = 50.0  # attention logits x become 50 tanh(x / 50)


@dataclass(frozen=True)
class FlowTransformerParams:
    depth: int
    width: int
    heads: int
    head_size: int
    mlp_width: int
    text_vocab: int  # without the special ids
    kinds: tuple[PatchLayerParams, ...]  # of latents that a sequence may hold
    skips: bool = True
    value_residual: bool = False

    @property
    def vocab(self) -> int:
        """Text, [sos] [eos] [null], a [som] and an [eom] per kind, [meta] and 128 characters."""
        return self.text_vocab + 3 + 2 * len(self.kinds) + 129

    @property
    def sos(self) -> int:
        return self.text_vocab

    @property
    def eos(self) -> int:
        return self.text_vocab + 1

    @property
    def null(self) -> int:
        """Stands for every text token in the unguided branch."""
        return self.text_vocab + 2

    def som(self, kind: int) -> int:
        """Opens a picture."""
        return self.text_vocab + 3 + kind

    def eom(self, kind: int) -> int:
        """Closes a picture."""
        return self.som(len(self.kinds) + kind)

    @property
    def meta(self) -> int:
        """Opens the characters that say a picture's grid, as in "3,2"."""
        return self.som(2 * len(self.kinds))

    def shape_ids(self, grid: Sequence[int]) -> list[int]:
        text = ",".join(map(str, grid))
        return [self.meta, *(self.meta + 1 + ord(character) for character in text)]

    def read_shape(self, ids: Tensor) -> tuple[int, ...] | None:
        """The grid said behind the last [meta], up to the [som] that ends ``ids``."""
        places = (ids == self.meta).nonzero()
        if not len(places):
            return None
        codes = [int(i) - self.meta - 1 for i in ids[int(places[-1]) + 1 : -1]]
        text = "".join(chr(min(max(code, 0), 127)) for code in codes)
        if not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text):
            return None
        grid = tuple(int(number) for number in text.split(","))
        return grid if all(grid) else None


class RootNorm(nn.Module):
    """x / rms(x) * (1 + gamma)."""

    def __init__(self, width: int, **kw):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width, **kw))

    def forward(self, x: Tensor) -> Tensor:
        unit = F.normalize(x.float(), dim=-1) * x.shape[-1] ** 0.5
        return (unit * (self.gamma.to(x.device).float() + 1)).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, params: FlowTransformerParams, mixes_values: bool, operations: Any, **kw):
        super().__init__()
        p = params
        inner, plain = p.heads * p.head_size, {"bias": False, **kw}
        self.heads, self.head_size = p.heads, p.head_size
        self.qk = operations.Linear(p.width, 2 * inner, **plain)
        self.v = operations.Linear(p.width, inner, **plain)
        self.q_norm, self.k_norm = RootNorm(p.head_size, **kw), RootNorm(p.head_size, **kw)
        self.gates = operations.Linear(p.width, p.heads, **plain)
        self.out = operations.Linear(inner, p.width, **plain)
        self.value_mix = operations.Linear(p.width, p.heads, **kw) if mixes_values else None

    def forward(
        self,
        x_NC: Tensor,
        layer: int,
        segments: Sequence[Segment],
        table: Tensor | None,
        first_v: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The branch's output, and this layer's own values for later layers to mix in."""
        q, k = self.qk(x_NC).unflatten(-1, (2, self.heads, self.head_size)).unbind(1)
        q, k = self.q_norm(q), self.k_norm(k)
        own_v = v = self.v(x_NC).unflatten(-1, (self.heads, self.head_size))
        if self.value_mix is not None and first_v is not None:
            mix = self.value_mix(x_NC).sigmoid()[..., None]
            v = v * mix + first_v * (1 - mix)
        if table is not None:
            q, k = rotate_pairs(q, table), rotate_pairs(k, table)
        sizes = [segment.tokens for segment in segments]
        parts = zip(segments, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        h = torch.cat([self.attend(layer, *part) for part in parts])
        h = h * self.gates(x_NC).sigmoid()[..., None]
        return self.out(h.flatten(1)), own_v

    def attend(self, layer: int, segment: Segment, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (segment.rows, -1)).transpose(1, 2) for x in (q, k, v))
        if segment.cache is not None:
            k, v = KVCache.write(segment.cache.layer(layer), k, v)
        logits = (q @ k.transpose(-1, -2)).float() * self.head_size**-0.5
        logits = (logits / SOFTCAP).tanh() * SOFTCAP
        seen = masking(segment, q.device)
        if "attn_mask" in seen:
            logits = logits.masked_fill(~seen["attn_mask"], -torch.inf)
        elif seen.get("is_causal"):
            future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            logits = logits.masked_fill(future, -torch.inf)
        h = logits.softmax(-1).to(v.dtype) @ v
        return h.transpose(1, 2).flatten(0, 1)


class MLP(nn.Module):
    def __init__(self, params: FlowTransformerParams, operations: Any, **kw):
        super().__init__()
        self.up = operations.Linear(params.width, 2 * params.mlp_width, **kw)
        self.down = operations.Linear(params.mlp_width, params.width, **kw)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate) * value)


@dataclass(frozen=True)
class Times:
    """Noise times of the packed tokens: few distinct ones, so modulation is computed per time.

    Attributes:
        cond_K: embedded distinct times [K, 4 C].
        index_N: which of them a token has.
        picture_N1: bool, True for tokens of pictures.
    """

    cond_K: Tensor
    index_N: Tensor
    picture_N1: Tensor


class Branch(nn.Module):
    """Attention or MLP between a norm and an output scale that differ for text and pictures."""

    def __init__(self, inner: nn.Module, width: int, operations: Any, **kw):
        super().__init__()
        self.inner = inner
        self.gamma = nn.Parameter(torch.zeros(width, **kw))
        self.scale = nn.Parameter(torch.zeros(width, **kw))
        self.film = operations.Linear(4 * width, 2 * width, **kw)
        self.gate = operations.Linear(4 * width, width, **kw)

    def before(self, x: Tensor, times: Times | None) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:])
        text = x * (self.gamma.to(x) + 1)
        if times is None:
            return text
        gamma, beta = self.film(times.cond_K)[times.index_N].chunk(2, dim=-1)
        return torch.where(times.picture_N1, x * (gamma + 1) + beta, text)

    def after(self, out: Tensor, times: Times | None) -> Tensor:
        text = out * (self.scale.to(out) + 1)
        if times is None:
            return text
        gate = self.gate(times.cond_K).sigmoid()[times.index_N]
        return torch.where(times.picture_N1, out * gate, text)


class StateMix(nn.Module):
    """Softmax-weighted sum of all states so far, weighed by a learned query."""

    def __init__(self, width: int, **kw):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width, **kw))
        self.norm = RootNorm(width, **kw)

    def forward(self, states: list[Tensor]) -> Tensor:
        stacked = torch.stack(states, dim=1)  # [N, states, C]
        scores = self.norm(stacked).float() @ self.query.to(stacked.device).float()
        weights = (scores * stacked.shape[-1] ** -0.5).softmax(-1).to(stacked.dtype)
        return (weights[..., None] * stacked).sum(1)


class Layer(nn.Module):
    def __init__(self, params: FlowTransformerParams, index: int, operations: Any, **kw):
        super().__init__()
        p = params
        later = p.skips and 2 * index >= p.depth
        self.skip = operations.Linear(2 * p.width, p.width, bias=False, **kw) if later else None
        attention = Attention(p, p.value_residual and index > 0, operations, **kw)
        self.attention = Branch(attention, p.width, operations, **kw)
        self.mlp = Branch(MLP(p, operations, **kw), p.width, operations, **kw)
        self.mix = StateMix(p.width, **kw)


def rotate_pairs(x_NHD: Tensor, table: Tensor) -> Tensor:
    """Turn neighbouring channels (2j, 2j + 1) by the angles of ``table`` [2, N, 1, D / 2]."""
    even, odd = x_NHD.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).to(x_NHD.dtype)


class FlowTransformer(nn.Module):
    """See the module's docstring. Latents are channels-first or -last as the kind's file says."""

    def __init__(
        self,
        params: FlowTransformerParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        p, kw = params, {"dtype": dtype, "device": device}
        self.text_embed = operations.Embedding(p.vocab, p.width, **kw)
        self.text_head = operations.Linear(p.width, p.vocab, bias=False, **kw)
        fp32 = {"dtype": torch.float32, "device": device}
        self.register_buffer("time_frequencies", torch.zeros(p.width // 2, **fp32))
        self.register_buffer("rotary_frequencies", torch.zeros(p.head_size // 2, **fp32))
        self.time_proj = operations.Linear(p.width + 1, 4 * p.width, **kw)
        self.layers = nn.ModuleList(Layer(p, i, operations, **kw) for i in range(p.depth))
        self.norm = RootNorm(p.width, **kw)
        self.patch_in = nn.ModuleList(patch_in(kind, p.width, operations, **kw) for kind in p.kinds)
        self.patch_out = nn.ModuleList(
            patch_out(kind, p.width, operations, **kw) for kind in p.kinds
        )
        self.axial = nn.ModuleList(
            AxialPositions(kind.axes, p.width, operations, **kw) if kind.axial else nn.Identity()
            for kind in p.kinds
        )

    def embed_ids(self, ids: Tensor) -> Tensor:
        return self.text_embed(ids).to(self.compute_dtype)

    def embed_latents(self, latents: Tensor, kind: int) -> Tensor:
        """Tokens [B, *grid, C] of latents [B, L, *cells] or [B, *cells, L]."""
        p, x = self.params.kinds[kind], latents.to(self.compute_dtype)
        if p.kind != "conv" and p.channels_first:
            x = x.movedim(1, -1)
        x = self.patch_in[kind](x)
        if p.kind == "conv":
            x = x.movedim(1, -1)
        if p.axial:
            x = x + self.axial[kind](x.shape[1:-1], x.dtype, x.device)
        return x

    def flow(self, hidden: Tensor, kind: int) -> Tensor:
        """fp32 flow, shaped as the latents, of final states [B, *grid, C]."""
        p = self.params.kinds[kind]
        if p.kind == "conv":
            return self.patch_out[kind](hidden.movedim(-1, 1)).float()
        out = self.patch_out[kind](hidden).float()
        return out.movedim(-1, 1) if p.channels_first else out

    def times(self, times_K: Tensor, index_N: Tensor, picture_N: Tensor) -> Times:
        """Modulation for tokens whose noise times are ``times_K[index_N]``; 1 is no noise."""
        times_K = times_K.float()[:, None]
        angle = times_K * self.time_frequencies.to(times_K.device) * (2 * math.pi)
        features = torch.cat([times_K, angle.sin(), angle.cos()], dim=-1)
        cond = F.silu(self.time_proj(features.to(self.compute_dtype)))
        return Times(cond, index_N, picture_N[:, None])

    def forward(
        self,
        x_NC: Tensor,
        segments: Sequence[Segment],
        positions_N: Tensor | None,
        times: Times | None = None,
    ) -> Tensor:
        """Final-normed states [N, C]; caches grow.

        Args:
            positions_N: rotary positions; None for no rotation (latents alone).
            times: noise times where some tokens are of pictures.
        """
        table = None
        if positions_N is not None:
            angle = positions_N[:, None].float() * self.rotary_frequencies.to(positions_N.device)
            table = torch.stack([angle.cos(), angle.sin()])[:, :, None]
        states, skipped, first_v = [x_NC], [], None
        for i, layer in enumerate(self.layers):
            if 2 * (i + 1) <= self.params.depth:
                skipped.append(x_NC)
            elif layer.skip is not None:
                x_NC = layer.skip(torch.cat([x_NC, skipped.pop()], dim=-1)) + x_NC
            inner = layer.attention.inner
            normed = layer.attention.before(x_NC, times)
            out, own_v = inner(normed, i, segments, table, first_v)
            first_v = own_v if first_v is None else first_v
            x_NC = x_NC + layer.attention.after(out, times)
            out = layer.mlp.inner(layer.mlp.before(x_NC, times))
            x_NC = x_NC + layer.mlp.after(out, times)
            states.append(x_NC)
            x_NC = layer.mix(states)
        for segment in segments:
            if segment.cache is not None and segment.keep:
                segment.cache.advance(segment.count)
        return self.norm(x_NC)

    def scores(self, hidden: Tensor) -> Tensor:
        """fp32 logits [..., V] of the next token."""
        return self.text_head(hidden).float()

    def cache(self, rows: int, capacity: int, device: torch.device | str) -> KVCache:
        p = self.params
        shape = (p.depth, rows, p.heads, capacity, p.head_size)
        return KVCache(*shape, self.compute_dtype, torch.device(device))
