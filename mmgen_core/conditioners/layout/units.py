"""What the numbers of a layout mean: corners or sizes, and in which unit.

A text rarely says so. All boxes of a layout share both, so they are decided together, from what
would be possible and what would be usual.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .boxes import BARE, CENTRE, XYWH, XYXY, YXYX, Quad, RawBox
from .drafts import CSS, PAIRS, Draft

LMD_SIDE, LAYOUT_GPT_SIDE, COMMON_SIDE = 512.0, 64.0, 1000.0
SLACK = 1.02  # numbers slightly over the edge do not speak against a unit
OVER = 1.25  # a box beyond this share of the canvas is no small mistake
SPARSE = 0.65  # a layout rarely leaves more of its right and lower side empty than this


@dataclass(frozen=True)
class Unit:
    """The size of the canvas that the numbers count on."""

    name: str
    width: float
    height: float

    def share(self, edges: Quad) -> float:
        """How far right or down edges reach, 1 being the end of the canvas."""
        return max(edges[2] / self.width, edges[3] / self.height)


def unit_of_grid(grid: str | float, width: int, height: int) -> Unit | None:
    """The unit a caller names; None for "auto".

    Raises:
        ValueError: no such unit.
    """
    if grid == "auto":
        return None
    if grid == "fraction":
        return Unit("fraction", 1.0, 1.0)
    if grid == "pixels":
        return Unit("pixels", float(width), float(height))
    try:
        side = float(grid)
    except (TypeError, ValueError):
        side = math.nan
    if isinstance(grid, bool) or not (0 < side < math.inf):
        raise ValueError(
            f"grid is {grid!r}; it must be 'auto', 'fraction', 'pixels' or the side of the "
            f"coordinate square, such as 512 or 1000."
        )
    return Unit(f"{side:g}", side, side)


def choose(draft: Draft, width: int, height: int, unit: Unit | None) -> tuple[str, Unit]:
    """The meaning of four bare numbers, and the unit of numbers without one."""
    boxes = [entry.box for entry in draft.objects if entry.box and entry.box.finite]
    usual = XYWH if draft.form == PAIRS else XYXY
    units = {order: unit or _unit(boxes, order, draft, width, height) for order in (XYXY, XYWH)}
    bare = [box for box in boxes if box.order == BARE]
    # judged on the unit that the numbers need as they stand, not on a larger one
    order = _order(bare, usual, units[XYXY]) if bare else usual
    return order, units[order]


def _order(boxes: Sequence[RawBox], usual: str, unit: Unit) -> str:
    corners = [box.numbers for box in boxes]
    reversed_ = sum(c < a or d < b for a, b, c, d in corners)
    flat = sum((c == a or d == b) and c >= a and d >= b for a, b, c, d in corners)
    far_over = sum(unit.share(box.edges(XYWH)) > OVER for box in boxes)
    if usual == XYXY:
        degenerate = flat > len(boxes) - reversed_ - flat  # most would be lines or points
        return XYWH if reversed_ > far_over or (degenerate and far_over == 0) else XYXY
    return XYXY if 2 * far_over > len(boxes) and reversed_ + flat == 0 else XYWH


def _unit(boxes: Sequence[RawBox], order: str, draft: Draft, width: int, height: int) -> Unit:
    """The likeliest unit if four bare numbers mean ``order``."""
    if _are_fractions(boxes):
        return Unit("fraction", 1.0, 1.0)
    edges = [box.edges(order) for box in boxes]
    pixels = Unit("pixels", float(width), float(height))
    if draft.canvas:
        named = Unit("the canvas the text names", *draft.canvas)
        if _fits(edges, named):
            return named
    square = Unit(f"{LMD_SIDE:g}", LMD_SIDE, LMD_SIDE)
    if draft.form == PAIRS and _fits(edges, square, OVER):
        return square
    if draft.form == CSS and _is_layout_gpt(edges, width, height):
        return Unit(f"{LAYOUT_GPT_SIDE:g}", LAYOUT_GPT_SIDE, LAYOUT_GPT_SIDE)
    common = Unit(f"{COMMON_SIDE:g}", COMMON_SIDE, COMMON_SIDE)
    ends = [end for edge in edges for end in edge[2:]]
    if min(width, height) > COMMON_SIDE and max(ends, default=0.0) == COMMON_SIDE:
        return common  # up to exactly 1000 on a larger picture: no edge in pixels falls there
    said = draft.form != CSS and any("px" in box.units for box in boxes)  # LayoutGPT always does
    if said or _fits(edges, pixels):
        return pixels
    named = all(box.named for box in boxes)
    sparse = max((common.share(edge) for edge in edges), default=0.0) < SPARSE
    if (named or sparse) and _fits(edges, pixels, OVER):
        return pixels  # with a part outside
    for candidate in (square, common):
        if _fits(edges, candidate):
            return candidate
    # Nothing takes all of them: the unit that takes most, pixels before others.
    return max((pixels, square, common), key=lambda unit: sum(_fits([e], unit) for e in edges))


def _fits(edges: Sequence[Quad], unit: Unit, slack: float = SLACK) -> bool:
    return all(unit.share(edge) <= slack for edge in edges)


def _are_fractions(boxes: Sequence[RawBox]) -> bool:
    """Whether at least half of the boxes lie about a canvas of side 1, not only on its corners."""
    small = [box for box in boxes if max(map(abs, box.numbers)) <= 1.5]
    telling = any(n != int(n) for box in small for n in box.numbers)
    whole = all(max(box.numbers) <= 1 for box in boxes)
    return bool(small) and 2 * len(small) >= len(boxes) and (telling or whole)


def _is_layout_gpt(edges: Sequence[Quad], width: int, height: int) -> bool:
    """LayoutGPT counts on a canvas of 64: read as pixels, all would sit in a corner."""
    unit = Unit("", LAYOUT_GPT_SIDE, LAYOUT_GPT_SIDE)
    small = min(width, height) < 2 * LAYOUT_GPT_SIDE
    reaches = max((unit.share(edge) for edge in edges), default=0.0) > 0.5
    return not small and reaches and _fits(edges, unit, 1.05)


_ACROSS = {XYXY: "xyxy", XYWH: "xyxy", CENTRE: "xyxy", YXYX: "yxyx"}


def to_pixels(box: RawBox, order: str, unit: Unit, width: int, height: int) -> Quad:
    """Left, top, right, bottom in pixels of the target."""
    if box.grid and unit.name != "fixed":
        unit = Unit(f"{box.grid:g}", box.grid, box.grid)
    meaning = order if box.order == BARE else box.order
    numbers = []
    for value, sign, axis in zip(box.numbers, box.units, _ACROSS[meaning], strict=True):
        side, counted = (width, unit.width) if axis == "x" else (height, unit.height)
        numbers.append(value * side / (100.0 if sign == "%" else counted))
    scaled = RawBox((numbers[0], numbers[1], numbers[2], numbers[3]), meaning)
    return scaled.edges(meaning)
