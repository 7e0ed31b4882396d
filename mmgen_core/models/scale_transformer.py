"""The next-scale transformer of VAR (Tian et al. 2024) and STAR (Ma et al. 2024): one pass
predicts one whole token map, from a class or from a text.

Suffixes: R rows (pictures, twice that under guidance), n tokens of the current scale,
L tokens of all scales, C width, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditioners.scale_prompt import TextRows
from ..decoding.kv_cache import KVCache
from .scale_attention import CrossAttention, RotaryParams, SelfAttention, TextKeys, rotary_table
from .scale_refiner import ScaleRefiner


@dataclass(frozen=True)
class ScaleTransformerParams:
    depth: int
    width: int
    heads: int
    vocab: int
    code_channels: int
    scales: tuple[int, ...]  # sides of the square token maps, coarse to fine
    classes: int = 0  # VAR: drawn by class, norms modulated by it; without the "no class" row
    shared_adaln: bool = False  # one modulation layer for all blocks (VAR-d36)
    qk_norm: bool = True
    mlp_ratio: float = 4.0
    text_width: int = 0  # STAR: drawn from a text, attended to in every block
    rotary: RotaryParams | None = None  # in place of learned positions
    head_norm: bool = True  # a norm before the head
    refine_from: int | None = None  # first scale of STAR's refiner, if there is one
    smooth_filtered: bool = True  # smooth sampling filters first (VAR) or not at all (STAR)
    codebook: str | None = None  # fingerprint of the tokenizer trained with, if the file says

    @property
    def tokens_per_scale(self) -> list[int]:
        return [side * side for side in self.scales]

    @property
    def tokens(self) -> int:
        return sum(self.tokens_per_scale)

    @property
    def head_size(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Modulation:
    """What a block needs of the class, each [R, 1, C]; ``norm`` scales include the 1 +."""

    gate_attn: Tensor
    gate_ffn: Tensor
    norm_attn: Tensor
    norm_ffn: Tensor
    shift_attn: Tensor
    shift_ffn: Tensor


@dataclass(frozen=True)
class ScaleCondition:
    """Everything that depends on class or text alone, computed once per picture."""

    first: Tensor  # [R, 1, C], the first token
    blocks: list[Modulation] | list[TextKeys]
    head: tuple[Tensor, Tensor] | None = None  # norm scale and shift [R, 1, C], of a class
    refiner_first: Tensor | None = None  # [R, 1, C], the refiner's extra token


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, operations: Any, **kw):
        super().__init__()
        self.fc1 = operations.Linear(width, hidden, **kw)
        self.fc2 = operations.Linear(hidden, width, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm without weights, as every norm of this family."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Block(nn.Module):
    """What both kinds of block have: self-attention and a feed-forward layer."""

    def __init__(self, params: ScaleTransformerParams, operations: Any, **kw):
        super().__init__()
        C, kw = params.width, {"operations": operations, **kw}
        self.attn = SelfAttention(C, params.heads, params.qk_norm, **kw)
        self.ffn = FeedForward(C, round(C * params.mlp_ratio), **kw)


class ClassBlock(Block):
    """Norms and residual branches modulated by the class (AdaLN)."""

    def __init__(self, params: ScaleTransformerParams, operations: Any, **kw):
        super().__init__(params, operations, **kw)
        if params.shared_adaln:
            self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, params.width, **kw))
        else:
            self.ada_lin = operations.Linear(params.width, 6 * params.width, **kw)

    def condition(self, silu_class_RC: Tensor, shared_R16C: Tensor | None) -> Modulation:
        if shared_R16C is None:
            m = self.ada_lin(silu_class_RC).view(len(silu_class_RC), 1, 6, -1)
        else:
            m = shared_R16C + self.ada_gss.to(shared_R16C)
        gate_attn, gate_ffn, norm_attn, norm_ffn, shift_attn, shift_ffn = m.unbind(2)
        return Modulation(gate_attn, gate_ffn, 1 + norm_attn, 1 + norm_ffn, shift_attn, shift_ffn)

    def forward(self, x_RnC: Tensor, cond: Modulation, *attention) -> Tensor:
        h = torch.addcmul(cond.shift_attn, layer_norm(x_RnC), cond.norm_attn)
        x_RnC = torch.addcmul(x_RnC, cond.gate_attn, self.attn(h, *attention))
        h = torch.addcmul(cond.shift_ffn, layer_norm(x_RnC), cond.norm_ffn)
        return torch.addcmul(x_RnC, cond.gate_ffn, self.ffn(h))


class TextBlock(Block):
    """Plain norms, and attention to the text between self-attention and feed-forward."""

    def __init__(self, params: ScaleTransformerParams, operations: Any, **kw):
        super().__init__(params, operations, **kw)
        p, kw = params, {"operations": operations, **kw}
        self.cross_attn = CrossAttention(p.width, p.text_width, p.heads, p.qk_norm, **kw)

    def forward(self, x_RnC: Tensor, text: TextKeys, *attention) -> Tensor:
        x_RnC = x_RnC + self.attn(layer_norm(x_RnC), *attention)
        x_RnC = x_RnC + self.cross_attn(layer_norm(x_RnC), text)
        return x_RnC + self.ffn(layer_norm(x_RnC))


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
        p, C, kw = params, params.width, {"dtype": dtype, "device": device}
        self.word_embed = operations.Linear(p.code_channels, C, **kw)
        self.lvl_embed = operations.Embedding(len(p.scales), C, **kw)
        self.pos_embed = None if p.rotary else operations.Embedding(p.tokens, C, **kw)
        self.pos_start = nn.Parameter(torch.empty(1, 1, C, **kw))
        self.shared_ada_lin = operations.Linear(C, 6 * C, **kw) if p.shared_adaln else None
        if p.classes:
            self.class_emb = operations.Embedding(p.classes + 1, C, **kw)  # last: no class
            self.head_ada = operations.Linear(C, 2 * C, **kw)
        else:
            self.text_proj = operations.Linear(p.text_width, C, **kw)
        block = ClassBlock if p.classes else TextBlock
        self.blocks = nn.ModuleList(block(p, operations, **kw) for _ in range(p.depth))
        self.head = operations.Linear(C, p.vocab, **kw)
        self.refiner = None
        if p.refine_from is not None:
            blocks = [RefinerBlock(p, operations, **kw) for _ in range(3)]
            self.refiner = ScaleRefiner(p, blocks, operations, **kw)

    def condition(self, rows: Tensor | TextRows) -> ScaleCondition:
        """The work of all blocks and the head that depends on class ids [R] or texts alone."""
        return self._of_text(rows) if isinstance(rows, TextRows) else self._of_class(rows)

    def _of_class(self, class_ids_R: Tensor) -> ScaleCondition:
        R, dtype = len(class_ids_R), self.compute_dtype
        class_RC = self.class_emb(class_ids_R).to(dtype)
        silu = F.silu(class_RC)
        shared = None
        if self.shared_ada_lin is not None:
            shared = self.shared_ada_lin(silu).view(R, 1, 6, -1)
        blocks = [block.condition(silu, shared) for block in self.blocks]
        scale, shift = self.head_ada(silu).view(R, 1, 2, -1).unbind(2)
        return ScaleCondition(self._first(class_RC), blocks, (1 + scale, shift))

    def _of_text(self, rows: TextRows) -> ScaleCondition:
        text, A = rows.text, rows.attended
        blocks = [b.cross_attn.keys(text.hidden[:A], text.mask[:A]) for b in self.blocks]
        first = self._first(self.text_proj(text.pooled))
        refiner_first = None if self.refiner is None else self.refiner.first(text.pooled)
        return ScaleCondition(first, blocks, refiner_first=refiner_first)

    def _first(self, content_RC: Tensor) -> Tensor:
        # The start position and the ordinary one are both added to the first token.
        start = self.pos_start.to(content_RC)
        return content_RC[:, None] + start + self.positions(0, content_RC.device)

    def positions(self, scale: int, device: torch.device) -> Tensor:
        """Level embedding, and learned positions if there are any, [1 or n, C] of a scale."""
        level = self.lvl_embed(torch.full((1,), scale, device=device)).to(self.compute_dtype)
        if self.pos_embed is None:
            return level
        counts = self.params.tokens_per_scale
        start = sum(counts[:scale])
        ids = torch.arange(start, start + counts[scale], device=device)
        return self.pos_embed(ids).to(self.compute_dtype) + level

    def rotary(self, scale: int, device: torch.device) -> Tensor | None:
        p = self.params
        return p.rotary and rotary_table(p.rotary, p.scales[scale], p.head_size, device)

    def embed(self, features_BnC: Tensor, scale: int) -> Tensor:
        """Input [B, n, C] of a scale after the first, from resampled code maps."""
        x = self.word_embed(features_BnC.to(self.compute_dtype))
        return x + self.positions(scale, x.device)

    def hidden(
        self, x_RnC: Tensor, condition: ScaleCondition, cache: KVCache, scale: int
    ) -> Tensor:
        """All blocks over one scale's tokens [R, n, C]; the cache grows by n. No mask: a scale
        sees every coarser token and all of its own."""
        rotary = self.rotary(scale, x_RnC.device)
        for i, block in enumerate(self.blocks):
            x_RnC = block(x_RnC, condition.blocks[i], cache.layer(i), None, rotary)
        cache.advance(x_RnC.shape[1])
        return x_RnC

    def logits(self, hidden_RnC: Tensor, condition: ScaleCondition) -> Tensor:
        """fp32 logits [R, n, V]."""
        h = layer_norm(hidden_RnC) if self.params.head_norm else hidden_RnC
        if condition.head is not None:
            norm, shift = condition.head
            h = torch.addcmul(shift, h, norm)
        return self.head(h).float()

    def forward(self, rows: Tensor | TextRows, features_BLC: Tensor) -> Tensor:
        """Teacher forcing over all scales at once.

        Args:
            rows: class ids [B] (``classes`` for no class), or texts.
            features_BLC: ``ResidualQuantizer.transformer_inputs`` of the true tokens.

        Returns:
            logits [B, L, V] of every token of every scale.
        """
        condition, device = self.condition(rows), features_BLC.device
        parts = features_BLC.split(self.params.tokens_per_scale[1:], dim=1)
        x = [condition.first] + [self.embed(part, s + 1) for s, part in enumerate(parts)]
        x, mask = torch.cat(x, dim=1), self.scale_causal_mask(device)
        rotary = None
        if self.params.rotary:
            tables = [self.rotary(scale, device) for scale in range(len(self.params.scales))]
            rotary = torch.cat(tables, dim=1)
        for block, cond in zip(self.blocks, condition.blocks, strict=True):
            x = block(x, cond, None, mask, rotary)
        return self.logits(x, condition)

    def scale_causal_mask(self, device: torch.device) -> Tensor:
        """bool [L, L], True where attended: a token sees its own and coarser scales."""
        counts = torch.tensor(self.params.tokens_per_scale, device=device)
        level = torch.arange(len(counts), device=device).repeat_interleave(counts)
        return level[:, None] >= level[None, :]


class RefinerBlock(Block):
    """Self-attention and feed-forward with plain norms; sees no text."""

    def forward(self, x_RnC: Tensor, rotary: Tensor | None) -> Tensor:
        x_RnC = x_RnC + self.attn(layer_norm(x_RnC), rotary=rotary)
        return x_RnC + self.ffn(layer_norm(x_RnC))
