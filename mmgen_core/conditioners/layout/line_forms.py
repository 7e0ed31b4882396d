"""Layouts in lines: LayoutGPT's CSS-like ones, plain ones, and the headings around them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .boxes import RawBox, read_box
from .drafts import CSS, LINES, Draft, RawObject, cut_off, with_box
from .reading import as_number

_CSS = re.compile(r"^[ \t>*-]*([^\s{}\[\](),;:\"'][^{}\[\]\n;]*?)\s*\{([^{}]*)(\}?)", re.M)
_PROPERTY = re.compile(r"([\w-]+)\s*:\s*([^;,{}]*?)\s*(;|,|\n|$)")
# The numbers of a line "a cat: [10, 20, 30, 40]"; what stands before them is the label.
_NUMBERS = re.compile(
    r"[\[(<]+((?:\s*[-+]?[\d.]+(?:e[-+]?\d+)?(?:px|%)?\s*[,;]?){2,6})[\])>]", re.I
)
_BULLET = re.compile(r"[\s>*•-]*(?:\d+[.)]\s+)?")
_BOX_WORD = re.compile(r"[:=@-]\s*\w+\s*[:=]\s*\Z")  # "a cat: box = [...]"
_LONGEST_LINE = 500
_HEADING = re.compile(
    r"^[ \t#>*_-]*(image caption|caption|background prompt|background|negative prompt|prompt"
    r"|scene)[*_ \t]*:[*_ \t]*(\S.*?)[ \t]*$",
    re.M | re.I,
)
_SIDES = {"left", "top", "right", "bottom", "width", "height", "x", "y"}


def from_css(text: str) -> Iterator[Draft]:
    draft = Draft(CSS)
    for match in _CSS.finditer(text):
        label, body, end = match[1].strip().lstrip(".#"), match[2], match[3]
        if label.endswith(("=", "=>")) or not label:
            continue
        found = list(_PROPERTY.finditer(body))
        properties = {m[1].lower(): as_number(m[2]) for m in found}
        if len(_SIDES & set(properties)) < 2 and not (not end and _SIDES & set(properties)):
            continue
        if not end and found and not found[-1][3]:  # the last number may lack digits
            properties.pop(found[-1][1].lower())
        box = read_box({k: v for k, v in properties.items() if v is not None})
        entry = with_box(RawObject(label), box)
        if not end:
            draft.issues.append(cut_off(text))
        draft.objects.append(entry)
    if draft.objects:
        yield draft


def from_lines(text: str) -> Iterator[Draft]:
    """a cat: [10, 20, 30, 40]"""
    draft = Draft(LINES)
    for line in text.splitlines():
        match = _NUMBERS.search(line[:_LONGEST_LINE])
        if match is None:
            continue
        label = _BOX_WORD.sub("", line[: match.start()])
        label = label[_BULLET.match(label).end() :].strip(" \t*_`\"'-:=|@")  # type: ignore[union-attr]
        box = read_box(match[1])
        if isinstance(box, RawBox) and label and not set(label) & set("[](){}<>"):
            draft.objects.append(RawObject(label, box))
    if draft.objects:
        if re.search(r"[\[(][^\])]*\Z", text.splitlines()[-1][-_LONGEST_LINE:]):
            draft.issues.append(cut_off(text))
        yield draft


def read_headings(text: str, draft: Draft) -> None:
    """ "Background prompt: a beach", as LLM-grounded diffusion writes it."""
    found: dict[str, str] = {}
    for match in _HEADING.finditer(text):
        found.setdefault(match[1].lower(), match[2].strip().strip("\"'*_").strip())
    caption = found.get("caption") or found.get("image caption")
    draft.caption = draft.caption or caption or found.get("prompt") or found.get("scene") or ""
    background = found.get("background prompt") or found.get("background")
    draft.background = draft.background or background or ""
    draft.negative = draft.negative or found.get("negative prompt") or ""
