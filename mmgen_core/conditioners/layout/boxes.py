"""Boxes as language models write them: four numbers or named ones, in an unknown unit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .reading import Broken, Cut, Number, as_number

Quad = tuple[float, float, float, float]
Units = tuple[str, str, str, str]  # "", "px" or "%" of each number

# What four numbers mean. "?" is four bare numbers: xyxy or xywh, which all boxes together tell.
XYXY, XYWH, YXYX, CENTRE, BARE = "xyxy", "xywh", "yxyx", "cxcywh", "?"

# Names of the four numbers, in the order of the meaning they have; words are compared without
# case and without anything but letters and digits.
_LEFT, _TOP = (
    ("x", "left", "xmin", "minx", "x1", "x0", "l", "startx"),
    (("y", "top", "ymin", "miny", "y1", "y0", "t", "starty")),
)
_RIGHT, _BOTTOM = (
    ("right", "xmax", "maxx", "x2", "r", "endx"),
    (("bottom", "ymax", "maxy", "y2", "b", "endy")),
)
_WIDTH, _HEIGHT = ("width", "w", "boxwidth"), ("height", "h", "boxheight")
_CENTRE_X, _CENTRE_Y = (
    ("cx", "xc", "centerx", "centrex", "xcenter", "xcentre"),
    (("cy", "yc", "centery", "centrey", "ycenter", "ycentre")),
)

# Keys that hold a box, with what its four bare numbers mean.
BOX_KEYS = {
    "box": BARE,
    "bbox": BARE,
    "boundingbox": BARE,
    "bndbox": BARE,
    "bb": BARE,
    "bbox2d": XYXY,  # Qwen
    "box2d": YXYX,  # Gemini, on a grid of 1000
    "bboxxyxy": XYXY,
    "boxxyxy": XYXY,
    "xyxy": XYXY,
    "bboxxywh": XYWH,
    "boxxywh": XYWH,
    "xywh": XYWH,
    "ltrb": XYXY,
    "ltwh": XYWH,
    "cxcywh": CENTRE,
    "yxyx": YXYX,
    "position": BARE,
    "location": BARE,
    "rect": XYWH,
    "rectangle": BARE,
    "region": BARE,
    "area": BARE,
    "coordinates": BARE,
    "coords": BARE,
    "placement": BARE,
    "bounds": BARE,
    "geometry": BARE,
    "size": BARE,  # only together with a position
    "dimensions": BARE,
    "center": BARE,
    "centre": BARE,
}
_PARTS = {"size", "dimensions", "center", "centre"}  # no box alone
GRID_OF_KEY = {"box2d": 1000.0}


@dataclass(frozen=True)
class RawBox:
    """A box before its unit is known.

    Attributes:
        order: what the numbers mean.
        named: whether each number had a name of its own.
        grid: side of the coordinate square, where the format itself says so.
    """

    numbers: Quad
    order: str
    units: Units = ("", "", "", "")
    named: bool = False
    grid: float = 0.0

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.numbers))

    def edges(self, order: str) -> Quad:
        """Left, top, right, bottom; ``order`` decides where the box does not."""
        a, b, c, d = self.numbers
        order = self.order if self.order != BARE else order
        if order == XYWH:
            return a, b, a + c, b + d
        if order == YXYX:
            return b, a, d, c
        if order == CENTRE:
            return a - c / 2, b - d / 2, a + c / 2, b + d / 2
        return a, b, c, d


def plain(key: str) -> str:
    """A key without case and signs: "Bounding_Box" and "bounding box" are one."""
    return re.sub(r"[^a-z0-9]", "", key.split("\0")[0].lower())


def box_of(entry: Mapping[str, Any]) -> RawBox | str | None:
    """The box an object's entry holds: in one of its values, or as names of its own.

    Returns:
        the box; a text that says why it cannot be used; None where there is no box.
    """
    trouble, parts = None, {}
    for key, value in entry.items():
        name = plain(key)
        if name in BOX_KEYS:
            if isinstance(value, (dict, list)) and not isinstance(value, Cut):
                parts |= _parts(name, value)
            if name in _PARTS:
                continue
            box = read_box(value, BOX_KEYS[name], GRID_OF_KEY.get(name, 0.0))
            if isinstance(box, RawBox):
                return box
            trouble = trouble or box
    named = _named({**entry, **parts})
    return named if isinstance(named, RawBox) else named or trouble


def boxes_of(entry: Mapping[str, Any]) -> list[RawBox | str]:
    """All boxes of an entry that holds several: {"label": "cat", "boxes": [[...], [...]]}."""
    for key, value in entry.items():
        name = plain(key)
        singular = name.removesuffix("es") if name.endswith("boxes") else name.removesuffix("s")
        many = singular in BOX_KEYS and name != singular or name in BOX_KEYS
        if many and isinstance(value, list) and value and all(map(_holds_box, value)):
            order, grid = BOX_KEYS[singular if singular in BOX_KEYS else name], 0.0
            found = (read_box(item, order, grid) for item in value)
            return [box for box in found if box is not None]
    return []


def _holds_box(value: Any) -> bool:
    is_box = isinstance(value, (list, dict)) and isinstance(read_box(value), RawBox)
    return is_box and not _is_point(value)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def read_box(value: Any, order: str = BARE, grid: float = 0.0) -> RawBox | str | None:
    """A box from a list, a dict, or a text of four numbers; see ``box_of``."""
    if isinstance(value, dict):
        nested = box_of(value) if any(plain(key) in BOX_KEYS for key in value) else None
        return nested or _named(value)
    if isinstance(value, str):
        words = re.split(r"[\s,;]+", value.strip().strip("[](){}<>"))
        value = [as_number(word) for word in words]
        if len(value) != 4 or None in value:
            return None
    if not isinstance(value, list):
        return f"its box cannot be read: {_shown(value)}" if isinstance(value, Broken) else None
    if isinstance(value, Cut):
        return "its box is cut off"
    if any(isinstance(item, Cut) for item in value):
        return "its box is cut off"
    flat = [n for item in value for n in (item if isinstance(item, list) else [item])]
    if len(flat) == 1 and isinstance(flat[0], dict):
        return read_box(flat[0], order, grid)
    if len(flat) != 4:
        return f"its box has {len(flat)} numbers, not 4" if flat else "its box is empty"
    numbers = [_number(item) for item in flat]
    if None in numbers:
        return f"its box holds what is no number: {_shown(flat[numbers.index(None)])}"
    if order == BARE and len(value) == 2:
        order = XYXY  # two points
    return _raw([n for n in numbers if n is not None], order, False, grid)


def _number(value: Any) -> tuple[float, str] | None:
    if isinstance(value, str):
        value = as_number(value)
    if isinstance(value, Number):
        return value.value, value.unit
    if isinstance(value, float):
        return value, ""
    return None


def _raw(numbers: list[tuple[float, str]], order: str, named: bool, grid: float = 0.0) -> RawBox:
    (a, p), (b, q), (c, r), (d, s) = numbers
    return RawBox((a, b, c, d), order, (p, q, r, s), named, grid)


def _parts(name: str, value: Any) -> dict[str, Any]:
    """Named numbers out of {"position": [x, y], "size": {"width": ..., "height": ...}}."""
    if isinstance(value, dict):
        centre = name in ("center", "centre")
        return {f"c{k}" if centre and plain(k) in ("x", "y") else k: v for k, v in value.items()}
    if len(value) != 2 or isinstance(value[0], list):
        return {}
    if name in ("size", "dimensions"):
        return {"width": value[0], "height": value[1]}
    if name in ("center", "centre"):
        return {"cx": value[0], "cy": value[1]}
    return {"x": value[0], "y": value[1]}


def _named(entry: Mapping[str, Any]) -> RawBox | str | None:
    """A box from numbers with names; a text where some of the names are missing."""
    by_name = {plain(key): value for key, value in reversed(list(entry.items()))}

    def pick(names: tuple[str, ...]) -> Any:
        return next((by_name[name] for name in names if name in by_name), _MISSING)

    left, top = pick(_LEFT), pick(_TOP)
    right, bottom = pick(_RIGHT), pick(_BOTTOM)
    if "x0" in by_name and "x1" in by_name:  # counted from 0
        left, right = by_name["x0"], by_name["x1"]
    if "y0" in by_name and "y1" in by_name:
        top, bottom = by_name["y0"], by_name["y1"]
    width, height = pick(_WIDTH), pick(_HEIGHT)
    choices = (
        ((left, top, width, height), XYWH),
        ((left, top, right, bottom), XYXY),
        ((pick(_CENTRE_X), pick(_CENTRE_Y), width, height), CENTRE),
    )
    best = max(choices, key=lambda choice: sum(v is not _MISSING for v in choice[0]))
    values, order = best
    missing = sum(value is _MISSING for value in values)
    if missing:
        return "its box is not complete" if missing < 3 and _is_placed(values[:2]) else None
    numbers = [_number(value) for value in values]
    if None in numbers:
        return f"its box holds what is no number: {_shown(values[numbers.index(None)])}"
    return _raw([n for n in numbers if n is not None], order, True)


def _is_placed(values: tuple[Any, ...]) -> bool:
    return any(value is not _MISSING and _number(value) is not None for value in values)


def _shown(value: Any) -> str:
    text = value.text if isinstance(value, Broken) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def flat_boxes(values: list[Any]) -> Iterator[tuple[str, RawBox]]:
    """The label and box of ["cat", 10, 20, 30, 40], and of the same with the label last."""
    if len(values) == 5:
        for label, rest in ((values[0], values[1:]), (values[4], values[:4])):
            box = read_box(rest) if isinstance(label, str) else None
            if isinstance(box, RawBox):
                yield label, box
                return


_MISSING = object()
