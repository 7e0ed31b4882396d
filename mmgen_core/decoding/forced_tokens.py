"""Tokens that a next-scale run is given instead of drawing: kept scales, masked editing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..image_tokens import ImageTokens
from ..tokenizers.multiscale_vq import MultiScaleVQ


def forced_tokens(
    tokenizer: MultiScaleVQ,
    scales: tuple[int, ...],
    start: ImageTokens | None,
    keep_scales: int,
    batch: int,
    device: torch.device,
) -> list[tuple[Tensor, Tensor, Tensor] | None]:
    """Per scale (ids [B, p, p], code vectors [B, C, p, p], keep bool [B, p, p]), or None."""
    if start is None:
        if keep_scales:
            raise ValueError("keep_scales needs start tokens to keep scales of.")
        return [None] * len(scales)
    check_start(start, tokenizer, scales, keep_scales, batch)
    ids_per_scale = start.ids
    if start.features is not None:  # mixed codes: the ids nearest to them, not those drawn
        ids_per_scale, _ = tokenizer.quantize.encode(start.features.to(device), start.sizes)
    forced = []
    for scale, ids in enumerate(ids_per_scale):
        keep = keep_map(start.mask, scales[scale], scale < keep_scales).expand(batch, -1, -1)
        ids = ids.to(device).expand(batch, -1, -1)
        forced.append((ids, tokenizer.quantize.lookup(ids), keep.to(device)))
    return forced


def keep_map(mask_Bhw: Tensor | None, side: int, whole: bool) -> Tensor:
    """bool [B or 1, side, side], True where the start tokens stay.

    The mask (1 = draw anew) is inverted and resized bilinearly; more than half keeps. Maps of
    at most three tokens are kept whole, as in the reference's editing notebook.
    """
    if whole or (mask_Bhw is not None and side * side <= 3):
        return torch.ones(1, side, side, dtype=torch.bool)
    if mask_Bhw is None:
        return torch.zeros(1, side, side, dtype=torch.bool)
    keep = F.interpolate(1 - mask_Bhw[:, None].float(), size=(side, side), mode="bilinear")
    return keep[:, 0] > 0.5


def check_start(
    start: ImageTokens, tokenizer: MultiScaleVQ, scales: tuple[int, ...], keep: int, batch: int
) -> None:
    start.check_codebook(tokenizer.fingerprint)
    found = [h for h, _ in start.sizes]
    if start.sizes != [(s, s) for s in scales]:
        raise ValueError(
            f"The start tokens have scales of side {found}, the model draws {list(scales)}. "
            f"Encode the picture with this model's schedule, at its size."
        )
    if start.batch not in (1, batch):
        raise ValueError(f"{start.batch} start pictures do not fit a batch of {batch}.")
    if not 0 <= keep <= len(scales):
        raise ValueError(f"keep_scales must lie in 0..{len(scales)}, got {keep}.")
    if keep == 0 and start.mask is None:
        raise ValueError(
            "Start tokens are connected but unused: set keep_scales, or give the tokens a mask."
        )
