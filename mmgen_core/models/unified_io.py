"""Unified-IO (Lu et al. 2022): one vocabulary of texts, places and image codes.

A prompt is text and one picture as raw patches. The answer is text first, then a picture's
codes; for a picture the text is one token long and is not looked at. Places enter attention as
biases: T5's buckets of distances, and products of learned position embeddings.

Suffixes: B prompts, S encoder tokens, N packed decoder tokens, T target positions, P patches,
V values of a patch, H heads, C width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .decoder import Segment, positions
from .encoder_decoder import CrossCache, Decoder, Encoder, StackParams, same_parts
from .relative_places import RelativeBias, text_and_image_bias


@dataclass(frozen=True)
class UnifiedIOParams:
    """Attributes:
    text_vocab: ids of texts and places; image codes follow, the last text id starts a picture.
    text_limit: places for a prompt's text; grid: patches of its picture.
    answer_limit: places for an answer's text; target_grid: codes of a drawn picture, of ``stride``
    pixels each.
    """

    stack: StackParams
    text_vocab: int
    image_vocab: int
    segments: int = 2
    patch: int = 16
    grid: tuple[int, int] = (24, 24)
    text_limit: int = 256
    target_grid: tuple[int, int] = (16, 16)
    answer_limit: int = 256
    stride: int = 16

    @property
    def codes(self) -> int:
        return self.image_vocab

    @property
    def vocab(self) -> int:
        return self.text_vocab + self.image_vocab

    @property
    def blocks(self) -> tuple[int, ...]:
        """Of the head: texts, then image codes."""
        return self.text_vocab, self.image_vocab

    @property
    def image_start(self) -> int:
        return self.text_vocab - 1


@dataclass(frozen=True, eq=False)
class Prompt:
    """Text ids [n], a picture's patches [P, V] and where it is not padding [P], bool."""

    ids: Tensor
    patches: Tensor | None = None
    mask: Tensor | None = None

    def equals(self, other: Prompt) -> bool:
        return same_parts(self, other)


class PositionBias(nn.Module):
    """Products of position embeddings, added to the scores of every layer [H, T, T]."""

    def __init__(self, params: StackParams, operations: Any, **kw):
        super().__init__()
        inner, self.heads = params.heads * params.head_size, params.heads
        self.norm = operations.RMSNorm(params.width, eps=params.eps, **kw)
        self.q = operations.Linear(params.width, inner, bias=False, **kw)
        self.k = operations.Linear(params.width, inner, bias=False, **kw)
        self.scale = (params.width / params.heads) ** -0.5  # not of the head size

    def forward(self, position_TC: Tensor) -> Tensor:
        place = self.norm(position_TC)
        q, k = (layer(place).unflatten(-1, (self.heads, -1)) for layer in (self.q, self.k))
        return torch.einsum("qhd,khd->hqk", q, k) * self.scale


class UnifiedIO(nn.Module):
    def __init__(
        self,
        params: UnifiedIOParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params, self.compute_dtype = params, dtype or torch.float32
        p, C, kw = params, params.stack.width, {"dtype": dtype, "device": device}
        patches, codes = math.prod(p.grid), math.prod(p.target_grid)
        rms = lambda: operations.RMSNorm(C, eps=p.stack.eps, **kw)  # noqa: E731
        self.embed = operations.Embedding(p.vocab, C, **kw)
        self.patch = operations.Linear(p.patch**2 * 3, C, bias=False, **kw)
        self.text_norm, self.image_norm, self.target_norm = rms(), rms(), rms()
        self.segment = operations.Embedding(p.segments, C, **kw)
        self.position = operations.Embedding(p.text_limit + patches, C, **kw)
        self.target_segment = operations.Embedding(p.segments, C, **kw)
        self.target_position = operations.Embedding(p.answer_limit + codes, C, **kw)
        self.encoder_places = PositionBias(p.stack, operations, **kw)
        self.decoder_places = PositionBias(p.stack, operations, **kw)
        self.encoder_relative = RelativeBias(p.stack.heads, **kw)
        self.decoder_relative = RelativeBias(p.stack.heads, **kw)
        self.encoder = Encoder(p.stack, operations, **kw)
        self.decoder = Decoder(p.stack, operations, **kw)
        # The published head is the embedding table. It is a layer of its own here, since a host
        # that streams weights has no table to share.
        self.head = nn.ModuleList(
            operations.Linear(C, size, bias=False, **kw) for size in (p.text_vocab, p.image_vocab)
        )

    @property
    def run_device(self) -> torch.device:
        """Where the run happens: where the host put a raw parameter."""
        return self.encoder_relative.text.device

    def embed_prompt(
        self, ids_BS: Tensor, patches_BPV: Tensor | None, places_P: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embedded prompts [B, S, C], and the position embeddings [S, C] of their places.

        Args:
            places_P: row-major places of the patches.
        """
        p, dtype, device = self.params, self.compute_dtype, ids_BS.device
        at = torch.arange(ids_BS.shape[1], device=device)
        segments = self.segment(torch.arange(2, device=device)).to(dtype)
        place = self.position(at).to(dtype)
        parts = [self.text_norm(self.embed(ids_BS).to(dtype) + segments[0] + place)]
        places = [place]
        if patches_BPV is not None:
            place = self.position(p.text_limit + places_P).to(dtype)
            parts.append(self.image_norm(self.patch(patches_BPV.to(dtype)) + segments[1] + place))
            places.append(place)
        return torch.cat(parts, dim=1), torch.cat(places)

    def encoder_bias(self, place_SC: Tensor, text: int, places_P: Tensor | None) -> Tensor:
        """Bias [H, S, S] of a prompt with ``text`` tokens before its patches."""
        at = torch.arange(text, device=place_SC.device)
        columns = self.params.grid[1]
        relative = text_and_image_bias(self.encoder_relative, at, places_P, columns, both_ways=True)
        return relative.to(place_SC) + self.encoder_places(place_SC)

    def encode(
        self,
        ids_BS: Tensor,
        patches_BPV: Tensor | None,
        mask_BS: Tensor | None = None,
        places_P: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encoder states [B, S, C], and the normalised position embeddings [S, C].

        Args:
            mask_BS: True where a token is seen.
        """
        if patches_BPV is not None and places_P is None:
            places_P = torch.arange(patches_BPV.shape[1], device=ids_BS.device)
        x, place = self.embed_prompt(ids_BS, patches_BPV, places_P)
        bias = self.encoder_bias(place, ids_BS.shape[1], places_P)[None]
        if mask_BS is not None and not bool(mask_BS.all()):
            # Finite, as in the reference: a masked token sees everything, which nothing reads.
            pairs = mask_BS[:, None, :, None] & mask_BS[:, None, None, :]
            bias = bias.masked_fill(~pairs, torch.finfo(bias.dtype).min / 2)
        return self.encoder(x, None, bias), self.encoder_places.norm(place)

    def target(self, kind: str, limit: int = 1) -> Target:
        """The decoder over answers of text, at most ``limit`` tokens, or over pictures."""
        return Target(self, kind, limit)


class Target:
    """The decoder over one kind of answer: what a next-token engine drives.

    A picture comes after a text of one token, which in training was the end mark and which is
    not read: the picture's start token follows the first token, 0, at once.
    """

    def __init__(self, model: UnifiedIO, kind: str, limit: int = 1):
        self.model, self.kind, self.params = model, kind, model.params
        self.compute_dtype, self.device = model.compute_dtype, model.run_device
        image = kind == "image"
        self.start = (0, self.params.image_start) if image else (0,)
        self.text, self.codes = limit, math.prod(self.params.target_grid) if image else 0
        if limit > self.params.answer_limit:
            raise ValueError(
                f"An answer of {limit} tokens was asked for; the model writes at most "
                f"{self.params.answer_limit}."
            )

    def state_dict(self) -> dict[str, Tensor]:
        """The whole model's weights, among which an engine looks for what is not finite."""
        return self.model.state_dict()

    def read(self, prompt: Prompt) -> CrossCache:
        """A cache of one row, with room for the start tokens, whose cross-attention reads the
        prompt."""
        model, stack, device = self.model, self.params.stack, self.device
        patches, places = None, None
        if prompt.patches is not None and bool(prompt.mask.any()):
            # Padding is left out: nothing would read it.
            places = prompt.mask.nonzero()[:, 0].to(device)
            patches = prompt.patches[prompt.mask].to(device)[None]
        encoded, _ = model.encode(prompt.ids[None].to(device), patches, places_P=places)
        cross = model.decoder.cross(encoded, None)
        sizes = (stack.decoder_depth, 1, stack.heads, len(self.start), stack.head_size)
        return CrossCache(*sizes, self.compute_dtype, device, cross=cross, bias=self.bias())

    def places(self, at_N: Tensor) -> Tensor:
        """Rows of the position table for target positions."""
        return torch.where(at_N < self.text, at_N, at_N - self.text + self.params.answer_limit)

    def bias(self) -> Tensor:
        """Bias [H, T, T] between all target positions; which of them are seen comes on top."""
        model = self.model
        at = torch.arange(self.text + self.codes, device=self.device)
        codes = torch.arange(self.codes, device=self.device) if self.codes else None
        relative = text_and_image_bias(
            model.decoder_relative, at[: self.text], codes, self.params.target_grid[1], False
        )
        place = model.target_position(self.places(at)).to(self.compute_dtype)
        return relative.to(place) + model.decoder_places(place)

    def embed_ids(self, ids: Tensor) -> Tensor:
        return self.model.embed(ids).to(self.compute_dtype)

    def __call__(self, x_NC: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Hidden states [N, C]; every segment's cache grows by its tokens."""
        model, at = self.model, positions(segments, x_NC.device)
        place = model.target_position(self.places(at)).to(x_NC)
        x = x_NC + place + model.target_segment((at >= self.text).long()).to(x_NC)
        return model.decoder(model.target_norm(x), segments, None)

    def scores(self, hidden: Tensor, blocks: slice | None = None) -> Tensor:
        """fp32 logits [..., V] of the answer's kind of ids, or of some of the head's blocks."""
        own = slice(0, 1) if self.kind == "text" else slice(1, 2)
        chosen = self.model.head[blocks or own]
        scores = torch.cat([block(hidden).float() for block in chosen], dim=-1)
        return scores / math.sqrt(self.params.stack.width)
