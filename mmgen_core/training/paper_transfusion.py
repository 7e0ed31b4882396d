"""The objective of the Transfusion paper: next token, plus the error of the predicted noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..decoding.flow import NoiseSchedule
from ..decoding.flow_sequence import Part, Picture, Span, omni_mask
from ..models.decoder import Segment
from ..models.paper_transfusion import PaperTransfusion, PaperTransfusionParams

NOISE_WEIGHT = 5.0  # of the noise's error beside the text's


@dataclass(frozen=True)
class PaperLosses:
    text: Tensor
    noise: Tensor
    total: Tensor


@dataclass(frozen=True)
class Laid:
    """One training sequence: ids with -1 at patches, and where the patches of each picture are."""

    ids: Tensor
    spans: list[Span]


def lay_out(params: PaperTransfusionParams, sample: Sequence[Part]) -> Laid:
    """[BOS], texts, and pictures between [BOI] and [EOI]."""
    ids, spans = [params.bos], []
    for part in sample:
        if not isinstance(part, Picture):
            ids += part.tolist()
            continue
        rows, columns = (length // params.patch for length in part.latents.shape[-2:])
        ids.append(params.boi)
        spans.append(Span(len(ids), (rows, columns), 0))
        ids += [-1] * (rows * columns) + [params.eoi]
    return Laid(torch.tensor(ids), spans)


def text_labels(params: PaperTransfusionParams, ids: Tensor) -> Tensor:
    """The id after each token; -1 where none is learned: at patches and [BOI], and for [EOI],
    which is appended, never written."""
    after = torch.cat([ids[1:], ids.new_tensor([-1])])
    unlearned = (ids < 0) | (ids == params.boi) | (after == params.eoi)
    return after.masked_fill(unlearned, -1)


def paper_losses(
    model: PaperTransfusion,
    samples: Sequence[Sequence[Part]],
    times: Sequence[Tensor],
    noise: Sequence[Sequence[Tensor]],
) -> PaperLosses:
    """Losses of a batch.

    Args:
        samples: texts and clean latents, without special ids.
        times: per sample, the DDPM step of each of its pictures, int64.
        noise: per sample, the noise of each of its pictures.
    """
    device = model.decoder.embed.weight.device
    schedule = NoiseSchedule.cosine()
    laid = [lay_out(model.params, sample) for sample in samples]
    x, segments, wanted = [], [], []
    for sample, sequence, t, drawn in zip(samples, laid, times, noise, strict=True):
        row = model.decoder.embed_ids(sequence.ids.clamp(min=0).to(device))
        pictures = [part for part in sample if isinstance(part, Picture)]
        for part, span, step, epsilon in zip(pictures, sequence.spans, t, drawn, strict=True):
            at = step.reshape(1).to(device)
            noised = schedule.noised(part.latents[None].to(device), epsilon.to(device), at)
            patches = model.patches(noised, at)
            row = torch.cat([row[: span.start], patches.tokens[0], row[span.stop :]])
            wanted.append((epsilon.to(device), patches))
        x.append(row)
        segments.append(Segment(None, len(row), omni_mask(len(row), sequence.spans)))
    hidden = model.decoder(torch.cat(x), segments).split([len(row) for row in x])
    labels = torch.cat([text_labels(model.params, sequence.ids) for sequence in laid]).to(device)
    learned = labels >= 0
    logits = model.decoder.scores(torch.cat(hidden)[learned])
    text = F.cross_entropy(logits, labels[learned])
    errors = []
    for row, sequence in zip(hidden, laid, strict=True):
        for span in sequence.spans:
            epsilon, patches = wanted[len(errors)]
            predicted = model.noise_of(row[None, span.start : span.stop], patches)[0]
            errors.append(((predicted - epsilon) ** 2).flatten())
    error = torch.cat(errors).mean() if errors else text.new_zeros(())
    return PaperLosses(text, error, text + NOISE_WEIGHT * error)
