"""Sequences of text and latents, and how a ``FlowTransformer`` reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.decoder import Segment
from ..models.flow_transformer import FlowTransformer, FlowTransformerParams, Times
from .kv_cache import KVCache


@dataclass(frozen=True)
class Picture:
    """Latents in a stream, [L, *cells] or [*cells, L] as the kind has them.

    Attributes:
        time: of their noise, 0 all noise to 1 none.
    """

    latents: Tensor
    kind: int = 0
    time: float = 1.0


Part = Tensor | Picture  # int64 ids [n], or a picture


@dataclass(frozen=True)
class Span:
    """Where a picture lies in its sequence."""

    start: int
    grid: tuple[int, ...]
    kind: int

    @property
    def length(self) -> int:
        return math.prod(self.grid)

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class Packed:
    """Sequences ready for the model, one after the other.

    Attributes:
        attends: per sequence, what its tokens see.
        following: per sequence, the position of the token after its last.
    """

    x_NC: Tensor
    counts: list[int]
    spans: list[list[Span]]
    attends: list[str | Tensor]
    positions_N: Tensor
    times: Times | None
    following: list[int]

    def segments(self, caches: Sequence[KVCache | None]) -> list[Segment]:
        parts = zip(caches, self.counts, self.attends, strict=True)
        return [Segment(cache, count, attend) for cache, count, attend in parts]


def whole_sequence(params: FlowTransformerParams, parts: Sequence[Part]) -> list[Part]:
    """A training sequence: [sos] and [eos] around it, and around every picture
    [meta] "h,w" [som] and [eom]."""
    items: list[Part] = [torch.tensor([params.sos])]
    for part in parts:
        if isinstance(part, Picture):
            grid = token_grid(params, part)
            start = [*params.shape_ids(grid), params.som(part.kind)]
            items += [torch.tensor(start), part, torch.tensor([params.eom(part.kind)])]
        else:
            items.append(part)
    return [*items, torch.tensor([params.eos])]


def token_grid(params: FlowTransformerParams, picture: Picture) -> tuple[int, ...]:
    kind, shape = params.kinds[picture.kind], picture.latents.shape
    cells = shape[1:] if kind.channels_first else shape[:-1]
    return tuple(-(-cell // kind.reduction) for cell in cells)


def pack(
    model: FlowTransformer, sequences: Sequence[Sequence[Part]], device: torch.device | str
) -> Packed:
    """Embed sequences of ids and pictures and note what belongs to what."""
    xs, counts, all_spans, attends, positions, following = [], [], [], [], [], []
    times, index = [], []
    for sequence in sequences:
        spans: list[Span] = []
        count = position = 0
        for part in sequence:
            if isinstance(part, Picture):
                x = model.embed_latents(part.latents[None].to(device), part.kind)[0]
                span = Span(count, tuple(x.shape[:-1]), part.kind)
                spans.append(span)
                times.append(part.time)
                xs.append(x.flatten(0, -2))
                index.append(torch.full((span.length,), len(times)))
                positions.append(torch.full((span.length,), position))
                count, position = count + span.length, position + 1
            else:
                xs.append(model.embed_ids(part.to(device)))
                index.append(torch.zeros(len(part), dtype=torch.int64))
                positions.append(torch.arange(position, position + len(part)))
                count, position = count + len(part), position + len(part)
        counts.append(count)
        all_spans.append(spans)
        attends.append(omni_mask(count, spans) if spans else "causal")
        following.append(position)
    index_N = torch.cat(index).to(device)
    modulation = None
    if times:
        all_times = torch.tensor([0.0, *map(float, times)], device=device)
        modulation = model.times(all_times, index_N, index_N > 0)
    positions_N = torch.cat(positions).to(device)
    return Packed(torch.cat(xs), counts, all_spans, attends, positions_N, modulation, following)


def omni_mask(count: int, spans: Sequence[Span]) -> Tensor:
    """bool [count, count]: causal, and full inside each picture."""
    seen = torch.ones(count, count, dtype=torch.bool).tril()
    for span in spans:
        seen[span.start :, : span.stop] = True
    return seen


def picture_size(params: FlowTransformerParams, kind: int, grid: Sequence[int]) -> tuple[int, ...]:
    """Shape of one picture's latents for a grid of tokens."""
    p = params.kinds[kind]
    cells = [length * p.reduction for length in grid]
    return (p.channels, *cells) if p.channels_first else (*cells, p.channels)


def joined_text(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts as one; a text at the end, so that it can be continued."""
    joined: list[Part] = []
    for part in parts:
        both_text = joined and not isinstance(part, Picture) and not isinstance(joined[-1], Picture)
        if both_text:
            joined[-1] = torch.cat([joined[-1], part])
        else:
            joined.append(part if isinstance(part, Picture) else part.clone())
    return joined


def closed(params: FlowTransformerParams, prompt: Sequence[Part]) -> list[Part]:
    """A prompt that does not end within a picture: its [eom] appended."""
    if prompt and isinstance(prompt[-1], Picture):
        return [*prompt, torch.tensor([params.eom(prompt[-1].kind)])]
    return list(prompt)
