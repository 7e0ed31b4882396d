"""The next-scale transformer of VAR (Tian et al. 2024): one pass predicts one whole token map.

Suffixes: R rows (pictures, twice that under guidance), n tokens of the current scale,
L tokens of all scales, C width, H heads, D head size, V codes.
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
class ScaleTransformerParams:
    depth: int
    width: int
    heads: int
    vocab: int
    code_channels: int
    scales: tuple[int, ...]  # sides of the square token maps, coarse to fine
    classes: int  # without the extra "no class" row
    shared_adaln: bool = False  # one modulation layer for all blocks (VAR-d36)
    qk_norm: bool = True
    mlp_ratio: float = 4.0

    @property
    def tokens_per_scale(self) -> list[int]:
        return [side * side for side in self.scales]

    @property
    def tokens(self) -> int:
        return sum(self.tokens_per_scale)


@dataclass(frozen=True)
class BlockCondition:
    """What a block needs of the condition, each [R, 1, C]; ``norm`` scales include the 1 +."""

    gate_attn: Tensor
    gate_ffn: Tensor
    norm_attn: Tensor
    norm_ffn: Tensor
    shift_attn: Tensor
    shift_ffn: Tensor


@dataclass(frozen=True)
class ScaleCondition:
    """Everything that depends on the class alone, computed once per picture, not per scale."""

    first: Tensor  # [R, 1, C], the content of the first token
    blocks: list[BlockCondition]
    head_norm: Tensor
    head_shift: Tensor


class ScaleAttention(nn.Module):
    def __init__(self, params: ScaleTransformerParams, operations: Any, **kw):
        super().__init__()
        C = params.width
        self.heads, self.qk_norm = params.heads, params.qk_norm
        self.qkv = operations.Linear(C, 3 * C, **kw)  # files: q and v biases, none for k
        self.proj = operations.Linear(C, C, **kw)
        if params.qk_norm:
            self.scale_mul_1H11 = nn.Parameter(torch.empty(1, params.heads, 1, 1, **kw))

    def forward(
        self, x_RnC: Tensor, cache: tuple[Tensor, Tensor, int] | None, mask: Tensor | None
    ) -> Tensor:
        R, n, C = x_RnC.shape
        qkv = self.qkv(x_RnC).view(R, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # [R, H, n, D]
        if self.qk_norm:
            q, k, scale = *self._normalised(q, k), 1.0
        else:
            scale = 0.25 / math.sqrt(q.shape[-1])  # the reference's own choice, not 1/sqrt(D)
        if cache is not None:  # keys are kept after normalisation
            k, v = KVCache.write(cache, k, v)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return self.proj(h.transpose(1, 2).reshape(R, n, C))

    def _normalised(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Unit keys and queries of length exp(min(scale, ln 100)) per head, up to a factor
        that moves from the keys to the queries: an RMS norm is sqrt(D) times a unit vector."""
        D = q.shape[-1]
        scale = self.scale_mul_1H11.to(q.device, torch.float32).clamp(max=math.log(100)).exp() / D
        q, k = (F.rms_norm(t, (D,), eps=1e-24) for t in (q, k))
        return q * scale.to(q.dtype), k


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, operations: Any, **kw):
        super().__init__()
        self.fc1 = operations.Linear(width, hidden, **kw)
        self.fc2 = operations.Linear(hidden, width, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class AdaLNBlock(nn.Module):
    def __init__(self, params: ScaleTransformerParams, operations: Any, **kw):
        super().__init__()
        C = params.width
        self.attn = ScaleAttention(params, operations, **kw)
        self.ffn = FeedForward(C, round(C * params.mlp_ratio), operations, **kw)
        if params.shared_adaln:
            self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, C, **kw))
        else:
            self.ada_lin = operations.Linear(C, 6 * C, **kw)

    def condition(self, silu_class_RC: Tensor, shared_R16C: Tensor | None) -> BlockCondition:
        if shared_R16C is None:
            m = self.ada_lin(silu_class_RC).view(len(silu_class_RC), 1, 6, -1)
        else:
            m = shared_R16C + self.ada_gss.to(shared_R16C)
        gate_attn, gate_ffn, norm_attn, norm_ffn, shift_attn, shift_ffn = m.unbind(2)
        return BlockCondition(
            gate_attn, gate_ffn, 1 + norm_attn, 1 + norm_ffn, shift_attn, shift_ffn
        )

    def forward(
        self,
        x_RnC: Tensor,
        cond: BlockCondition,
        cache: tuple[Tensor, Tensor, int] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        h = torch.addcmul(cond.shift_attn, layer_norm(x_RnC), cond.norm_attn)
        x_RnC = torch.addcmul(x_RnC, cond.gate_attn, self.attn(h, cache, mask))
        h = torch.addcmul(cond.shift_ffn, layer_norm(x_RnC), cond.norm_ffn)
        return torch.addcmul(x_RnC, cond.gate_ffn, self.ffn(h))


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm without weights, as every norm of this family."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class ScaleTransformer(nn.Module):
    def __init__(
        self,
        params: ScaleTransformerParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        C, kw = params.width, {"dtype": dtype, "device": device}
        self.class_emb = operations.Embedding(params.classes + 1, C, **kw)  # last: no class
        self.word_embed = operations.Linear(params.code_channels, C, **kw)
        self.lvl_embed = operations.Embedding(len(params.scales), C, **kw)
        self.pos_embed = operations.Embedding(params.tokens, C, **kw)
        self.pos_start = nn.Parameter(torch.empty(1, 1, C, **kw))
        self.shared_ada_lin = operations.Linear(C, 6 * C, **kw) if params.shared_adaln else None
        self.blocks = nn.ModuleList(
            AdaLNBlock(params, operations, **kw) for _ in range(params.depth)
        )
        self.head_ada = operations.Linear(C, 2 * C, **kw)
        self.head = operations.Linear(C, params.vocab, **kw)

    def condition(self, class_ids_R: Tensor) -> ScaleCondition:
        """The class-only work of all blocks and the head, for rows of class ids."""
        R, dtype = len(class_ids_R), self.compute_dtype
        class_RC = self.class_emb(class_ids_R).to(dtype)
        silu = F.silu(class_RC)
        shared = (
            None if self.shared_ada_lin is None else self.shared_ada_lin(silu).view(R, 1, 6, -1)
        )
        blocks = [block.condition(silu, shared) for block in self.blocks]
        scale, shift = self.head_ada(silu).view(R, 1, 2, -1).unbind(2)
        # The start position and the ordinary one are both added to the first token.
        first = class_RC[:, None] + self.pos_start.to(class_RC) + self.positions(0, class_RC.device)
        return ScaleCondition(first, blocks, 1 + scale, shift)

    def positions(self, scale: int, device: torch.device) -> Tensor:
        """Position plus level embedding [n, C] of one scale."""
        counts = self.params.tokens_per_scale
        start = sum(counts[:scale])
        ids = torch.arange(start, start + counts[scale], device=device)
        level = torch.full((1,), scale, device=device)
        return self.pos_embed(ids).to(self.compute_dtype) + self.lvl_embed(level).to(
            self.compute_dtype
        )

    def embed(self, features_BnC: Tensor, scale: int) -> Tensor:
        """Input [B, n, C] of a scale after the first, from resampled code maps."""
        x = self.word_embed(features_BnC.to(self.compute_dtype))
        return x + self.positions(scale, x.device)

    def hidden(self, x_RnC: Tensor, condition: ScaleCondition, cache: KVCache) -> Tensor:
        """All blocks over one scale's tokens [R, n, C]; the cache grows by n. No mask: a scale
        sees every coarser token and all of its own."""
        for i, block in enumerate(self.blocks):
            x_RnC = block(x_RnC, condition.blocks[i], cache.layer(i))
        cache.advance(x_RnC.shape[1])
        return x_RnC

    def logits(self, hidden_RnC: Tensor, condition: ScaleCondition) -> Tensor:
        """fp32 logits [R, n, V]."""
        h = torch.addcmul(condition.head_shift, layer_norm(hidden_RnC), condition.head_norm)
        return self.head(h).float()

    def forward(self, class_ids_B: Tensor, features_BLC: Tensor) -> Tensor:
        """Teacher forcing over all scales at once.

        Args:
            class_ids_B: 0..classes - 1, or ``classes`` for no class.
            features_BLC: ``ResidualQuantizer.transformer_inputs`` of the true tokens.

        Returns:
            logits [B, L, V] of every token of every scale.
        """
        condition = self.condition(class_ids_B)
        parts = features_BLC.split(self.params.tokens_per_scale[1:], dim=1)
        x = [condition.first] + [self.embed(part, s + 1) for s, part in enumerate(parts)]
        x, mask = torch.cat(x, dim=1), self.scale_causal_mask(features_BLC.device)
        for block, cond in zip(self.blocks, condition.blocks, strict=True):
            x = block(x, cond, mask=mask)
        return self.logits(x, condition)

    def scale_causal_mask(self, device: torch.device) -> Tensor:
        """bool [L, L], True where attended: a token sees its own and coarser scales."""
        counts = torch.tensor(self.params.tokens_per_scale, device=device)
        level = torch.arange(len(counts), device=device).repeat_interleave(counts)
        return level[:, None] >= level[None, :]
