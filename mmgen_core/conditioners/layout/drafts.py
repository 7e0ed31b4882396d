"""A layout as it was written, before its coordinates are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from .boxes import RawBox

JSON, PAIRS, CSS, LINES = "JSON", "label and box pairs", "CSS-like lines", "lines"


@dataclass
class RawObject:
    """An object before its coordinates are read; ``trouble`` says why it has no box."""

    label: str
    box: RawBox | None = None
    trouble: str = ""
    attributes: tuple[str, ...] = ()
    text: str = ""


@dataclass
class Draft:
    """A layout as it was written.

    Attributes:
        canvas: width and height that the text itself names for its coordinates.
        issues: what was left out, in words.
    """

    form: str
    objects: list[RawObject] = field(default_factory=list)
    caption: str = ""
    background: str = ""
    negative: str = ""
    canvas: tuple[float, float] | None = None
    issues: list[str] = field(default_factory=list)

    @property
    def usable(self) -> int:
        return sum(entry.box is not None for entry in self.objects)


def with_box(entry: RawObject, box: RawBox | str | None) -> RawObject:
    """The entry with what reading its box gave: a box, a trouble, or nothing."""
    entry.box = box if isinstance(box, RawBox) else None
    entry.trouble = "" if entry.box else box or "it has no box"
    return entry


def cut_off(text: str) -> str:
    """The issue of a text that ends too early."""
    return f"the text is cut off after {text.rstrip()[-30:]!r}"
