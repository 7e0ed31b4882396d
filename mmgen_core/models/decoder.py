"""The decoder-only transformer that most of these systems are: LLaMA (SEED-LLaMA, SEED-X,
DreamLLM), Chameleon 7B and 34B (ANOLE, Lumina-mGPT), Phi (Show-o), the paper's Transfusion.

All sequences of a pass are packed without padding: N tokens of any number of segments go through
the weights together, and only attention is done per segment, each with its own cache, length and
positions. So guidance branches of different prompts cost one reading of the weights.

Suffixes: N packed tokens, R rows of a segment, n new tokens of a row, T all tokens of a row,
H heads, D head size, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoding.kv_cache import KVCache
from .few_rows import project


@dataclass(frozen=True)
class DecoderParams:
    """Sizes and switches; the defaults are LLaMA's.

    Attributes:
        head_blocks: sizes of consecutive id ranges whose scores are computed apart, so that the
            image ids alone cost only their rows of the head. Empty: one block.
        head_size: 0 for width / heads.
        norm: "rms", or "layer" with weight and bias.
        norm_after: norms stand on the output of the two branches (Chameleon 34B, "swin norm").
        qk_norm: LayerNorm of every head's queries and keys, with weights "per head" or "shared"
            by all heads; None for no such norm.
        rotary_share: share of the head's channels that turn with the position.
        gated: SiLU-gated MLP; else two layers with the tanh form of GELU between.
        parallel: attention and MLP read the same norm and are added together (Phi).
    """

    depth: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    vocab: int
    head_blocks: tuple[int, ...] = ()
    head_size: int = 0
    norm: str = "rms"
    norm_eps: float = 1e-5
    norm_after: bool = False
    qk_norm: str | None = None
    rotary_share: float = 1.0
    rotary_base: float = 10000.0
    gated: bool = True
    parallel: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False

    def __post_init__(self) -> None:
        if self.head_blocks and sum(self.head_blocks) != self.vocab:
            raise ValueError(f"head_blocks {self.head_blocks} do not add up to {self.vocab}.")

    @property
    def head_width(self) -> int:
        return self.head_size or self.width // self.heads

    @property
    def rotary_width(self) -> int:
        return int(self.head_width * self.rotary_share)

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.head_blocks or (self.vocab,)


@dataclass
class Segment:
    """A part of the packed tokens: some rows, each with the same number of new tokens.

    Attributes:
        cache: keys and values of the rows' earlier tokens, to which the new ones are added;
            None for a pass without memory (training).
        count: new tokens of a row. The packed order is row by row.
        attend: "causal"; "full", where all new tokens see one another; or bool [n, T], True where
            a new token (rows of the mask) sees an earlier or new one.
        keep: False takes the new tokens back after the pass (engines that visit the same
            positions again); the cache needs room for them all the same.
        rows: number of rows where there is no cache.
    """

    cache: KVCache | None
    count: int
    attend: str | Tensor = "causal"
    keep: bool = True
    rows: int = 1

    def __post_init__(self) -> None:
        if self.cache is not None:
            self.rows = self.cache.rows
            if self.start + self.count > self.cache.capacity:
                raise ValueError(
                    f"The sequence would have {self.start + self.count} tokens, room was made for "
                    f"{self.cache.capacity}."
                )

    @property
    def start(self) -> int:
        return self.cache.length if self.cache is not None else 0

    @property
    def tokens(self) -> int:
        return self.rows * self.count


def rotary_table(params: DecoderParams, positions_N: Tensor) -> Tensor:
    """Cosine and sine [2, N, 1, D_rotary / 2] in fp32."""
    width = params.rotary_width
    power = torch.arange(0, width, 2, device=positions_N.device, dtype=torch.float32) / width
    angle = positions_N[:, None].float() / params.rotary_base**power
    return torch.stack([angle.cos(), angle.sin()])[:, :, None]


def rotate(x_NHD: Tensor, table: Tensor) -> Tensor:
    """Turn channel j with channel j + D_rotary / 2 (the pairs of Hugging Face's layouts)."""
    half = table.shape[-1]
    first, second = x_NHD[..., :half].float(), x_NHD[..., half : 2 * half].float()
    cos, sin = table
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    turned = turned.to(x_NHD.dtype)
    return (
        turned if 2 * half == x_NHD.shape[-1] else torch.cat([turned, x_NHD[..., 2 * half :]], -1)
    )


def interleaved_to_halves(rows: Tensor, heads: int) -> Tensor:
    """Rows [heads * D, ...] of a query or key projection whose rotary pairs are neighbours (LLaMA's
    and Chameleon's original layouts), reordered for ``rotate``. Also for q/k norms, heads = 1."""
    pairs = rows.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


class HeadNorm(nn.Module):
    """LayerNorm over the features of each head; statistics per head, weights [H, D] or [D]."""

    def __init__(self, params: DecoderParams, heads: int, **kw):
        super().__init__()
        shape = (heads, params.head_width) if params.qk_norm == "per head" else params.head_width
        self.eps = params.norm_eps
        self.weight = nn.Parameter(torch.ones(shape, **kw))
        self.bias = nn.Parameter(torch.zeros(shape, **kw))

    def forward(self, x_NHD: Tensor) -> Tensor:
        x = F.layer_norm(x_NHD, x_NHD.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias.to(x), x, self.weight.to(x))


class Attention(nn.Module):
    def __init__(self, params: DecoderParams, operations: Any, **kw):
        super().__init__()
        p, D = params, params.head_width
        self.heads, self.kv_heads, self.head_width = p.heads, p.kv_heads, D
        self.q = operations.Linear(p.width, p.heads * D, bias=p.attention_bias, **kw)
        self.k = operations.Linear(p.width, p.kv_heads * D, bias=p.attention_bias, **kw)
        self.v = operations.Linear(p.width, p.kv_heads * D, bias=p.attention_bias, **kw)
        self.o = operations.Linear(p.heads * D, p.width, bias=p.output_bias, **kw)
        self.q_norm = HeadNorm(p, p.heads, **kw) if p.qk_norm else None
        self.k_norm = HeadNorm(p, p.kv_heads, **kw) if p.qk_norm else None

    def forward(
        self, x_NC: Tensor, layer: int, segments: Sequence[Segment], table: Tensor
    ) -> Tensor:
        q = project(self.q, x_NC).unflatten(-1, (self.heads, self.head_width))
        k = project(self.k, x_NC).unflatten(-1, (self.kv_heads, self.head_width))
        v = project(self.v, x_NC).unflatten(-1, (self.kv_heads, self.head_width))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, table), rotate(k, table)
        sizes = [segment.tokens for segment in segments]
        parts = zip(segments, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        return project(self.o, torch.cat([self.attend(layer, *part) for part in parts]))

    def attend(self, layer: int, segment: Segment, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One segment's attention [tokens, H * D]; its keys and values go into its cache."""
        q, k, v = (x.unflatten(0, (segment.rows, -1)).transpose(1, 2) for x in (q, k, v))
        if segment.cache is not None:
            k, v = KVCache.write(segment.cache.layer(layer), k, v)
        h = F.scaled_dot_product_attention(
            q, k, v, **masking(segment, q.device), enable_gqa=self.heads != self.kv_heads
        )
        return h.transpose(1, 2).flatten(2).flatten(0, 1)


def masking(segment: Segment, device: torch.device) -> dict[str, Any]:
    """How torch's attention is told what a segment's tokens see; no mask where none is needed."""
    if isinstance(segment.attend, Tensor):
        return {"attn_mask": segment.attend.to(device)}
    if segment.attend == "full" or segment.count == 1:
        return {}
    if segment.start == 0:
        return {"is_causal": True}
    seen = torch.ones(segment.count, segment.start + segment.count, dtype=torch.bool, device=device)
    return {"attn_mask": seen.tril(segment.start)}


class MLP(nn.Module):
    def __init__(self, params: DecoderParams, operations: Any, **kw):
        super().__init__()
        p, kw = params, {"bias": params.mlp_bias, **kw}
        self.gate = operations.Linear(p.width, p.mlp_width, **kw) if p.gated else None
        self.up = operations.Linear(p.width, p.mlp_width, **kw)
        self.down = operations.Linear(p.mlp_width, p.width, **kw)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return project(self.down, F.silu(project(self.gate, x)) * project(self.up, x))
        return project(self.down, F.gelu(project(self.up, x), approximate="tanh"))


def make_norm(params: DecoderParams, operations: Any, **kw) -> nn.Module:
    kind = operations.RMSNorm if params.norm == "rms" else operations.LayerNorm
    return kind(params.width, eps=params.norm_eps, **kw)


class Layer(nn.Module):
    def __init__(self, params: DecoderParams, operations: Any, **kw):
        super().__init__()
        self.parallel, self.norm_after = params.parallel, params.norm_after
        self.attention_norm = make_norm(params, operations, **kw)
        self.attention = Attention(params, operations, **kw)
        self.mlp_norm = None if params.parallel else make_norm(params, operations, **kw)
        self.mlp = MLP(params, operations, **kw)

    def forward(self, x_NC: Tensor, *attention) -> Tensor:
        if self.parallel:
            h = self.attention_norm(x_NC)
            return x_NC + self.attention(h, *attention) + self.mlp(h)
        if self.norm_after:
            x_NC = x_NC + self.attention_norm(self.attention(x_NC, *attention))
            return x_NC + self.mlp_norm(self.mlp(x_NC))
        x_NC = x_NC + self.attention(self.attention_norm(x_NC), *attention)
        return x_NC + self.mlp(self.mlp_norm(x_NC))


class Decoder(nn.Module):
    def __init__(
        self,
        params: DecoderParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        p, kw = params, {"dtype": dtype, "device": device}
        self.embed = operations.Embedding(p.vocab, p.width, **kw)
        self.layers = nn.ModuleList(Layer(p, operations, **kw) for _ in range(p.depth))
        self.norm = make_norm(p, operations, **kw)
        self.head = nn.ModuleList(
            operations.Linear(p.width, size, bias=p.head_bias, **kw) for size in p.blocks
        )

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Embeddings [..., C] of ids [...] in the compute dtype."""
        return self.embed(ids).to(self.compute_dtype)

    def forward(self, x_NC: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Hidden states [N, C] after the final norm; every segment's cache grows by its tokens.

        Raises:
            ValueError: the segments do not add up to N tokens.
        """
        count = sum(segment.tokens for segment in segments)
        if count != len(x_NC):
            raise ValueError(f"The segments hold {count} tokens, {len(x_NC)} were given.")
        table = rotary_table(self.params, positions(segments, x_NC.device))
        for i, layer in enumerate(self.layers):
            x_NC = layer(x_NC, i, segments, table)
        for segment in segments:
            if segment.cache is not None and segment.keep:
                segment.cache.advance(segment.count)
        return self.norm(x_NC)

    def hidden_states(self, x_RnC: Tensor, attend: str | Tensor = "causal") -> Tensor:
        """Hidden states [R, n, C] of whole sequences, without a cache (training)."""
        R, n, _ = x_RnC.shape
        return self(x_RnC.flatten(0, 1), [Segment(None, n, attend, rows=R)]).view(R, n, -1)

    def scores(self, hidden: Tensor, blocks: slice | None = None) -> Tensor:
        """fp32 logits [..., V], or of the ids in some of the head's blocks."""
        chosen = self.head[blocks] if blocks is not None else self.head
        rows = hidden.reshape(-1, hidden.shape[-1])
        scores = torch.cat([project(block, rows).float() for block in chosen], dim=-1)
        return scores.view(*hidden.shape[:-1], -1)

    def cache(self, rows: int, capacity: int, device: torch.device | str) -> KVCache:
        """An empty cache for ``rows`` sequences of at most ``capacity`` tokens."""
        p = self.params
        shape = (p.depth, rows, p.kv_heads, capacity, p.head_width)
        return KVCache(*shape, self.compute_dtype, torch.device(device))


def positions(segments: Sequence[Segment], device: torch.device) -> Tensor:
    """Position [N] of every packed token, counted from 0 in every row."""
    parts = [
        torch.arange(s.start, s.start + s.count, device=device).repeat(s.rows) for s in segments
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
