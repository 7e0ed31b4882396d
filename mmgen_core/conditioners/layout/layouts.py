"""A layout in pixels: what stands where in a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayoutObject:
    """An object and its box, in pixels of the target.

    Attributes:
        attributes: words on the object, such as its colour.
        text: letters to be written there, for a picture with text.
    """

    label: str
    x: int
    y: int
    width: int
    height: int
    attributes: tuple[str, ...] = ()
    text: str = ""

    @property
    def description(self) -> str:
        """The label with its attributes: what to tell a model that draws it. Single words stand
        before the label, phrases behind it: "red old car, with open doors"."""
        more = [word for word in self.attributes if word.lower() not in self.label.lower()]
        article = re.match(r"(?:an?|the)\s+", self.label, re.I)
        start = article.end() if article else 0
        words = " ".join([*(word for word in more if " " not in word), self.label[start:]])
        before = self.label[:start] + words
        return ", ".join([before, *(phrase for phrase in more if " " in phrase)])

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True)
class Layout:
    """Objects on a canvas.

    Attributes:
        background: what is around the objects.
        negative: what should not be seen.
        issues: what reading the layout dropped or altered, and why.
        unit: what the coordinates were taken to count in.
    """

    width: int
    height: int
    objects: list[LayoutObject]
    caption: str = ""
    background: str = ""
    negative: str = ""
    issues: list[str] = field(default_factory=list)
    unit: str = "pixels"

    def to_boxes(self) -> list[dict[str, Any]]:
        """Boxes as ComfyUI's canvas takes them, what they hold in ``metadata``."""
        return [
            {
                "x": entry.x,
                "y": entry.y,
                "width": entry.width,
                "height": entry.height,
                "metadata": {
                    "type": "text" if entry.text else "obj",
                    "text": entry.text,
                    "desc": entry.description,
                    "palette": [],
                },
            }
            for entry in self.objects
        ]

    def to_json(self, side: int = 1000) -> dict[str, Any]:
        """The form that models are asked for: corners on a square of that side."""

        def corners(entry: LayoutObject) -> list[int]:
            edges = (entry.x, entry.y, entry.right, entry.bottom)
            sides = (self.width, self.height) * 2
            return [round(e * side / s) for e, s in zip(edges, sides, strict=True)]

        return {
            "caption": self.caption,
            "background": self.background,
            "objects": [
                {
                    "label": entry.label,
                    "attributes": ", ".join(entry.attributes),
                    "box": corners(entry),
                }
                for entry in self.objects
            ],
        }


def from_boxes(boxes: Any, width: int, height: int) -> Layout:
    """A layout from what ComfyUI passes between nodes: boxes in pixels with ``metadata``, in a
    frame or not; or the canvas's elements.

    Raises:
        ValueError: there is no box, or a box says nothing about what it holds.
    """
    frame = _frame(boxes)
    issues: list[str] = []
    objects = [_entry(box, i, width, height, issues) for i, box in enumerate(frame)]
    layout = Layout(width, height, [entry for entry in objects if entry], issues=issues)
    if not layout.objects:
        found = f": {'; '.join(issues)}" if issues else ""
        raise ValueError(f"There are no boxes on the canvas of {width} x {height} pixels{found}.")
    return layout


def _frame(boxes: Any) -> Sequence[Any]:
    if isinstance(boxes, Mapping):
        return [boxes]
    if not isinstance(boxes, Sequence) or isinstance(boxes, str):
        raise ValueError(f"Boxes are a list, not {type(boxes).__name__}.")
    if boxes and isinstance(boxes[0], Sequence):
        if len(boxes) > 1:
            raise ValueError(f"{len(boxes)} frames of boxes were given, one layout has one frame.")
        return boxes[0]
    return boxes


def _entry(box: Any, index: int, width: int, height: int, issues: list[str]) -> LayoutObject | None:
    if not isinstance(box, Mapping):
        raise ValueError(f"Box {index + 1} is {type(box).__name__}, not a box.")
    about = box.get("metadata") if isinstance(box.get("metadata"), Mapping) else box
    label, text = str(about.get("desc") or "").strip(), str(about.get("text") or "").strip()
    label = label or text
    if not label:
        raise ValueError(
            f"Box {index + 1} does not say what it holds. The bboxes output of ComfyUI's canvas "
            f"has the places only: connect its elements output, and give every box a description."
        )
    edges = _edges(box, index, width, height)
    if clipped := clip(edges, width, height, f"box {index + 1} ({label[:40]!r})", issues):
        return LayoutObject(label, *clipped, text=text if about.get("type") == "text" else "")
    return None


def _edges(box: Mapping[str, Any], index: int, width: int, height: int) -> tuple[float, ...]:
    try:
        if "bbox" in box:  # an element: ymin, xmin, ymax, xmax on a grid of 1000
            top, left, bottom, right = (float(n) / 1000 for n in box["bbox"])
            return left * width, top * height, right * width, bottom * height
        x, y, w, h = (float(box[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Box {index + 1} has neither x, y, width and height nor four numbers in bbox."
        ) from error
    return x, y, x + w, y + h


def clip(
    edges: Sequence[float], width: int, height: int, name: str, issues: list[str]
) -> tuple[int, int, int, int] | None:
    """x, y, width, height of the part of a box that is on the canvas, in whole pixels; None
    where nothing is left. What happened goes to ``issues``."""
    left, top, right, bottom = edges
    shown = f"{left:g}, {top:g} to {right:g}, {bottom:g}"
    if not all(abs(edge) < 1e9 for edge in edges):
        issues.append(f"{name}: dropped, its box is not finite ({shown})")
        return None
    if right <= left or bottom <= top:
        issues.append(f"{name}: dropped, its box is empty ({shown})")
        return None
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        issues.append(
            f"{name}: dropped, its box ({shown}) is outside the canvas of {width} x {height}"
        )
        return None
    kept = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    x0, y0, x1, y1 = (round(edge) for edge in kept)
    if x1 == x0 or y1 == y0:
        issues.append(f"{name}: dropped, its box ({shown}) is smaller than a pixel")
        return None
    if any(abs(a - b) > 1e-3 for a, b in zip(kept, edges, strict=True)):
        issues.append(
            f"{name}: cut at the edge of the canvas of {width} x {height}, its box was {shown}"
        )
    return x0, y0, x1 - x0, y1 - y0
