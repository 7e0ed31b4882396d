"""Places in the texts of Unified-IO 1 and 2: four of them are a box, words after it its label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conditioners.layout import Layout, LayoutObject
from ..tokenizers.unified_io_pictures import Placement
from ..tokenizers.unified_io_text import END, UnifiedIO2Tokenizer, UnifiedIOTokenizer

CORNERS = 4


@dataclass(frozen=True)
class Found:
    """A box (left, top, right, bottom) in pixels of the picture, and what the model calls it."""

    box: tuple[float, float, float, float]
    label: str


def found_boxes(
    ids: Sequence[int],
    tokenizer: UnifiedIOTokenizer | UnifiedIO2Tokenizer,
    placement: Placement,
) -> list[Found]:
    """The boxes of an answer, in its order; fewer than four places in a row are no box."""
    found: list[Found] = []
    places: list[int] = []
    words: list[int] = []

    def close_label() -> None:
        if words and found:
            found[-1] = Found(found[-1].box, tokenizer.decode(words).strip())
        words.clear()

    for id_ in ids:
        if id_ == END:
            break
        bin_ = tokenizer.bin_of(id_)
        if bin_ is None:
            places.clear()
            words.append(id_)
            continue
        close_label()
        places.append(bin_)
        if len(places) == CORNERS:
            found.append(Found(in_picture(places, placement), ""))
            places.clear()
    close_label()
    return found


def in_picture(bins_yxyx: Sequence[int], placement: Placement) -> tuple[float, ...]:
    """Pixels of the picture, with the references' two conventions: Unified-IO reads a place one
    step further than it writes it, in thousandths; Unified-IO 2 in parts of 999."""
    if placement.centred:
        share = torch.tensor(bins_yxyx, dtype=torch.float64) / 999
    else:
        share = (torch.tensor(bins_yxyx, dtype=torch.float64) + 1) / 1000
    y1, x1, y2, x2 = placement.boxes_to_picture(share * placement.side).tolist()
    return x1, y1, x2, y2


def without_repeats(found: Sequence[Found], overlap: float) -> list[Found]:
    """Boxes that have an area, and share at most ``overlap`` of their union with any earlier one of
    the same label."""
    kept: list[Found] = []
    for one in found:
        left, top, right, bottom = one.box
        if left >= right or top >= bottom:
            continue
        same = (other for other in kept if other.label == one.label)
        if all(intersection_over_union(one.box, other.box) <= overlap for other in same):
            kept.append(one)
    return kept


def layout_of(found: Sequence[Found], width: int, height: int, otherwise: str) -> Layout:
    """Boxes as a layout in whole pixels; a box of less than one pixel is none.

    Args:
        otherwise: the label of boxes that the model did not name.
    """
    objects = []
    for one in found:
        left, top, right, bottom = (round(edge) for edge in one.box)
        if left < right and top < bottom:
            label = one.label or otherwise
            objects.append(LayoutObject(label, left, top, right - left, bottom - top))
    return Layout(width, height, objects)


def intersection_over_union(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common
    return common / union if union > 0 else 0.0


def places_preferred(is_place_V: Tensor, threshold: float) -> Callable[[Tensor], Tensor]:
    """Where places together are likelier than ``threshold`` one of them must come: many similar
    places share the probability, so that the end mark would win too early."""

    def adjust(logits_BV: Tensor) -> Tensor:
        mask = is_place_V.to(logits_BV.device)
        share = logits_BV.softmax(-1).masked_fill(~mask, 0).sum(-1, keepdim=True)
        return logits_BV.masked_fill((share > threshold) & ~mask, -10000.0)

    return adjust
