"""Prompts of Unified-IO 2 from texts and pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.unified_io_2 import Patches, UnifiedIO2Params
from ..tokenizers.unified_io_pictures import (
    CLIP,
    Placement,
    fit,
    normalised,
    patch_mask,
    patches,
    place_centred,
)


def main_picture(image_HWC: Tensor, params: UnifiedIO2Params) -> tuple[Patches, Placement]:
    """The main picture's patches, and where it lies among them."""
    return _fitted(image_HWC, params.grid, params.patch)


def history(frames: list[Tensor], params: UnifiedIO2Params, count: int | None = None) -> Patches:
    """Patches of a history's frames; missing ones up to ``count`` are masked.

    Raises:
        ValueError: more frames than the model has places for.
    """
    most = params.history.frames
    if len(frames) > most:
        raise ValueError(f"{len(frames)} pictures as history; the model takes at most {most}.")
    fitted = [_fitted(frame, params.history_grid, params.patch)[0] for frame in frames]
    missing = (count or len(frames)) - len(frames)
    fitted += [_masked(params)] * missing
    names = ("values", "mask", "places")
    return Patches(*(torch.stack([getattr(f, name) for f in fitted]) for name in names))


def _fitted(image_HWC: Tensor, grid: tuple[int, int], patch: int) -> tuple[Patches, Placement]:
    placement = place_centred(*image_HWC.shape[:2], grid[0] * patch)
    image, inside = fit(image_HWC[..., :3], placement)
    values = patches(normalised(image, CLIP), patch)
    places = torch.arange(len(values), device=values.device)
    return Patches(values, patch_mask(inside, grid, centred=True), places), placement


def _masked(params: UnifiedIO2Params) -> Patches:
    """A frame that is not there."""
    count = params.history_grid[0] * params.history_grid[1]
    values = torch.zeros(count, params.vision.patch_values)
    return Patches(values, torch.zeros(count, dtype=torch.bool), torch.arange(count))
