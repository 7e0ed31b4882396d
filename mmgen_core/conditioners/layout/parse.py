"""From the text of a language model to a layout in pixels."""

from __future__ import annotations

import re

from .boxes import XYXY, YXYX, RawBox
from .drafts import Draft, RawObject
from .json_forms import from_json
from .layouts import Layout, LayoutObject, clip
from .line_forms import from_css, from_lines, read_headings
from .units import Unit, choose, to_pixels, unit_of_grid

MAX_OBJECTS, MAX_LABEL, MAX_CAPTION = 100, 200, 2000
MAX_SIDE = 1 << 20


def parse(text: str, width: int, height: int, grid: str | float = "auto") -> Layout:
    """Read the layout that a language model wrote.

    Reads JSON (in prose or fences, with trailing commas, cut off, of many shapes), lists of
    labels and boxes as LLM-grounded diffusion asks for, CSS-like lines as LayoutGPT does, and
    plain lines. The text is data: nothing in it is ever run.

    Args:
        width, height: of the picture in pixels.
        grid: what the coordinates count in: "fraction" (0 to 1 across the picture), "pixels" of
            the picture, the side of the coordinate square (512, 1000, ...), or "auto".

    Returns:
        objects with their boxes in whole pixels, inside the picture. Whatever was dropped or
        altered is in its ``issues``.

    Raises:
        ValueError: nothing usable in the text; says what was found.
    """
    if not isinstance(text, str):
        raise ValueError(f"A layout is read from text, not from {type(text).__name__}.")
    for name, side in (("width", width), ("height", height)):
        if isinstance(side, bool) or not 1 <= side <= MAX_SIDE or side != int(side):
            raise ValueError(f"{name} is {side!r}; it must be a whole number of pixels.")
    width, height = int(width), int(height)
    unit = unit_of_grid(grid, width, height)
    draft = _read(text)
    if draft is None:
        raise ValueError(f"There is no layout in the text: {_beginning(text)}")
    return _placed(draft, width, height, unit)


def _read(text: str) -> Draft | None:
    """The layout a text holds; of several the one with most boxes, and of those the last, since
    models correct themselves."""
    text = _without_thoughts(text)
    drafts = list(from_css(text))
    if not any(draft.usable for draft in drafts):
        drafts += from_json(text)
    drafts = drafts or list(from_lines(text))
    if not drafts:
        return None
    most = max(draft.usable for draft in drafts)
    *earlier, best = [draft for draft in drafts if draft.usable == most]
    others = earlier + [draft for draft in drafts if 0 < draft.usable < most]
    if most and others:
        best.issues.append(f"other layouts in the text were left out: {len(others)}")
    read_headings(text, best)
    return best


def _without_thoughts(text: str) -> str:
    """What follows the model's thinking, where it shows it."""
    end = text.rfind("</think>")
    return text[end + len("</think>") :] if end >= 0 else text


def _placed(draft: Draft, width: int, height: int, unit: Unit | None) -> Layout:
    order, chosen = choose(draft, width, height, unit)
    issues = list(draft.issues)
    objects = []
    for number, entry in enumerate(draft.objects, 1):
        name = f"object {number}" + (f" ({entry.label[:40]!r})" if entry.label.strip() else "")
        label = _clean(entry.label, MAX_LABEL, f"{name}: its label", issues)
        if entry.box is None or not label:
            issues.append(f"{name}: dropped, {entry.trouble or 'it has no label'}")
            continue
        if len(objects) == MAX_OBJECTS:
            issues.append(f"{name}: dropped, more than {MAX_OBJECTS} objects")
            continue
        # an explicit unit holds even where the format has a usual one
        box = entry.box if unit is None else _without_grid(entry.box)
        edges = _upright(to_pixels(box, order, chosen, width, height), box, order, name, issues)
        if placed := clip(edges, width, height, name, issues):
            objects.append(_object(entry, label, placed, name, issues))
    if not objects:
        raise ValueError(_nothing_usable(draft, issues))
    caption = _clean(draft.caption, MAX_CAPTION, "caption", issues)
    background = _clean(draft.background, MAX_CAPTION, "background", issues)
    negative = _clean(draft.negative, MAX_CAPTION, "negative", issues)
    return Layout(width, height, objects, caption, background, negative, issues, chosen.name)


def _without_grid(box: RawBox) -> RawBox:
    return RawBox(box.numbers, box.order, box.units, box.named)


def _upright(
    edges: tuple[float, ...], box: RawBox, order: str, name: str, issues: list[str]
) -> tuple[float, ...]:
    """Corners in their order, where only their order was wrong."""
    left, top, right, bottom = edges
    meaning = box.order if box.order in (XYXY, YXYX) else order if box.order == "?" else ""
    if meaning in (XYXY, YXYX) and (right < left or bottom < top) and left != right:
        if top != bottom and box.finite:
            issues.append(f"{name}: its corners were in the wrong order and were swapped")
            left, right = min(left, right), max(left, right)
            top, bottom = min(top, bottom), max(top, bottom)
    return left, top, right, bottom


def _object(
    entry: RawObject, label: str, placed: tuple[int, int, int, int], name: str, issues: list[str]
) -> LayoutObject:
    words = (_clean(word, MAX_LABEL, f"{name}: an attribute", issues) for word in entry.attributes)
    attributes = tuple(word for word in words if word)
    text = _clean(entry.text, MAX_LABEL, f"{name}: its text", issues)
    return LayoutObject(label, *placed, attributes, text)


def _clean(text: str, most: int, name: str, issues: list[str]) -> str:
    """One line without control characters, of a limited length."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()
    if len(text) > most:
        issues.append(f"{name} was shortened from {len(text)} to {most} characters")
        text = text[:most].rstrip()
    return text


def _nothing_usable(draft: Draft, issues: list[str]) -> str:
    if not draft.objects:
        return f"The layout ({draft.form}) is empty: its list of objects has no entry."
    count = len(draft.objects)
    shown = "; ".join(issues[:5]) + ("; ..." if len(issues) > 5 else "")
    return f"None of the {count} objects of the layout ({draft.form}) is usable: {shown}."


def _beginning(text: str) -> str:
    if not text.strip():
        return "it is empty."
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 120 else f"{shown[:120]} ..."
    return f"no JSON, list or line with boxes was found in {shown!r}."
