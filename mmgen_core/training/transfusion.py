"""Transfusion's training objective in the lucidrains layout: next token and flow in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..decoding.flow_sequence import Part, Picture, pack, whole_sequence
from ..models.decoder import Segment
from ..models.flow_transformer import FlowTransformer


@dataclass(frozen=True)
class FlowLosses:
    """Means of the parts, and their sum weighted by how many tokens each is about."""

    text: Tensor
    flows: dict[int, Tensor]  # per kind of latents
    total: Tensor


def flow_losses(
    model: FlowTransformer,
    samples: Sequence[Sequence[Part]],
    times: Tensor,
    noise: Sequence[Sequence[Tensor]],
) -> FlowLosses:
    """Cross entropy of the next token plus the error of the predicted flow, data minus noise.

    Args:
        samples: parts without special ids; latents clean.
        times: [B, pictures], 0 all noise to 1 none.
        noise: for every picture of every sample.
    """
    device = model.text_embed.weight.device
    sequences, targets = [], []
    for row, sample in enumerate(samples):
        draws, column, noised = iter(noise[row]), 0, []
        for part in sample:
            if isinstance(part, Picture):
                drawn, t = next(draws), float(times[row, column])
                targets.append(part.latents - drawn)
                part = replace(part, latents=t * part.latents + (1 - t) * drawn, time=t)
                column += 1
            noised.append(part)
        sequences.append(whole_sequence(model.params, noised))
    packed = pack(model, sequences, device)
    hidden = model(
        packed.x_NC, packed.segments([None] * len(samples)), packed.positions_N, packed.times
    )
    labels = torch.cat([next_ids(model, s, packed.spans[i]) for i, s in enumerate(sequences)])
    labels = labels.to(device)
    text = F.cross_entropy(model.scores(hidden), labels, ignore_index=-1)
    flows = _flow_errors(model, packed, hidden, targets)
    total = text * ((labels >= 0).sum() / len(labels))
    for kind, error in flows.items():
        count = sum(s.length for spans in packed.spans for s in spans if s.kind == kind)
        total = total + error * (count / len(labels))
    return FlowLosses(text, flows, total)


def next_ids(model: FlowTransformer, sequence: Sequence[Part], spans: Sequence) -> Tensor:
    """The label [n] of every token: the id after it; -1 at and before patches, before nulls and
    at the end."""
    lengths = iter(span.length for span in spans)
    ids = torch.cat(
        [
            torch.full((next(lengths),), -1) if isinstance(part, Picture) else part.cpu()
            for part in sequence
        ]
    )
    labels = torch.cat([ids[1:], torch.tensor([-1])])
    return labels.masked_fill((ids < 0) | (labels == model.params.null), -1)


def _flow_errors(
    model: FlowTransformer, packed, hidden: Tensor, targets: Sequence[Tensor]
) -> dict[int, Tensor]:
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    remaining, base = iter(targets), 0
    for count, spans in zip(packed.counts, packed.spans, strict=True):
        for span in spans:
            x = hidden[base + span.start : base + span.stop].view(1, *span.grid, -1)
            pair = model.flow(x, span.kind)[0].flatten(), next(remaining).to(x.device).flatten()
            found.setdefault(span.kind, []).append(pair)
        base += count
    return {
        kind: F.mse_loss(torch.cat([p for p, _ in pairs]), torch.cat([t for _, t in pairs]))
        for kind, pairs in found.items()
    }


def text_loss(model: FlowTransformer, ids_BT: Tensor) -> Tensor:
    """Next-token loss on text alone; special ids do not compete."""
    B, n = ids_BT[:, :-1].shape
    x = model.embed_ids(ids_BT[:, :-1]).flatten(0, 1)
    positions = torch.arange(n, device=x.device).repeat(B)
    logits = model.scores(model(x, [Segment(None, n, rows=B)], positions))
    return F.cross_entropy(logits[:, : model.params.text_vocab], ids_BT[:, 1:].flatten())
