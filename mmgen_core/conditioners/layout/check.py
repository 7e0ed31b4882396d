"""Whether a layout is what a text asks for: counts, places to each other, sizes, overlaps.

Reads plain English of the kind "three red apples left of a big bowl". Where it does not understand
a text it asks nothing of the layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .layouts import Layout, LayoutObject

NUMBERS = {
    **{word: 1 for word in ("a", "an", "one", "single")},
    **{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9},
    **{"ten": 10, "couple": 2, "pair": 2},
}
RELATIONS = {
    "left": r"(?:to the |on the )?left (?:side )?of",
    "right": r"(?:to the |on the )?right (?:side )?of",
    "above": r"above|over|on top of",
    "below": r"below|under(?:neath)?|beneath",
    "bigger": r"(?:much )?(?:bigger|larger|taller) than",
    "smaller": r"(?:much )?(?:smaller|shorter) than",
}
_RELATION = re.compile(
    "|".join(rf"(?P<{name}>\b(?:{words})\b)" for name, words in RELATIONS.items()), re.I
)
OVERLAP = 0.6  # share of the smaller box above which two boxes are said to cover each other
_TOGETHER = re.compile(r"\b(?:in|inside|on|with|wearing|holding|riding|behind|over|under)\b", re.I)
_IRREGULAR = {
    **{"mice": "mouse", "geese": "goose", "feet": "foot", "teeth": "tooth", "oxen": "ox"},
    **{"men": "man", "women": "woman", "children": "child", "people": "person"},
    **{"wolves": "wolf", "knives": "knife", "leaves": "leaf", "loaves": "loaf"},
}


@dataclass(frozen=True)
class Report:
    """Attributes:
    score: share of what was asked for that the layout has; 1 where nothing is asked for.
    complaints: what does not fit, in words that a language model can act on.
    """

    score: float
    complaints: list[str] = field(default_factory=list)


def check(layout: Layout, prompt: str) -> Report:
    """Compare a layout with the text it was planned for."""
    verdicts = [*_counts(layout, prompt), *_relations(layout, prompt), *_inside(layout)]
    verdicts += _overlaps(layout, prompt)
    complaints = [text for good, text in verdicts if not good]
    kept = sum(good for good, _ in verdicts)
    return Report(kept / len(verdicts) if verdicts else 1.0, complaints)


Verdict = tuple[bool, str]


def stems(word: str) -> set[str]:
    """What a word may be the plural of, and itself."""
    word = word.lower()
    found = {word, _IRREGULAR.get(word, word)}
    if word.endswith("s") and not word.endswith("ss"):
        found.add(word[:-1])
        if word.endswith("es"):
            found.add(word[:-2])
        if word.endswith("ies"):
            found.add(word[:-3] + "y")
    return found


def _kinds(layout: Layout) -> dict[str, list[LayoutObject]]:
    """Objects by the head noun of their label: "a red sports car" is a car."""
    kinds: dict[str, list[LayoutObject]] = {}
    for entry in layout.objects:
        words = re.findall(r"\w+", re.split(r"\b(?:of|with|in|on)\b|,", entry.label)[0])
        word = words[-1].lower() if words else entry.label
        kinds.setdefault(_kind_of(word, kinds) or word, []).append(entry)
    return kinds


def _kind_of(word: str, kinds: Iterable[str]) -> str | None:
    """The kind that a word names, in the singular or plural."""
    own = stems(word)
    return next((kind for kind in kinds if own & stems(kind)), None)


def _mentions(prompt: str, kinds: Iterable[str]) -> list[tuple[int, int, str, bool]]:
    """Where a text names a kind: start, end, kind, and whether in the plural."""
    found = []
    for word in re.finditer(r"[^\W\d_]+", prompt.lower()):
        if kind := _kind_of(word[0], kinds):
            shortest = min(stems(word[0]) & stems(kind), key=len)
            found.append((word.start(), word.end(), kind, len(word[0]) > len(shortest)))
    return found


def _counts(layout: Layout, prompt: str) -> Iterator[Verdict]:
    kinds = _kinds(layout)
    asked: dict[str, int] = {}
    vague = set()
    numbers = re.finditer(r"\b(\d{1,2}|" + "|".join(NUMBERS) + r")\b", prompt.lower())
    places = [(m.end(), NUMBERS.get(m[1]) or int(m[1])) for m in numbers if m[1] != "0"]
    before = 0
    for start, end, kind, plural in _mentions(prompt, list(kinds)):
        near = [n for at, n in places if before <= at <= start and not _breaks(prompt[at:start])]
        if near:
            asked[kind] = asked.get(kind, 0) + near[-1]
        elif plural:
            vague.add(kind)
        before = end
    for kind, count in asked.items():
        there = len(kinds[kind])
        good = there >= count if kind in vague else there == count
        yield good, f"{count} of {kind!r} are asked for, the plan has {there}"
    for kind in vague - set(asked):
        there = len(kinds[kind])
        yield there > 1, f"several of {kind!r} are asked for, the plan has {there}"
    yield from _missing(prompt, list(kinds))


def _breaks(between: str) -> bool:
    """Whether a number and a noun do not belong together."""
    return bool(re.search(r"[,.;:]|\b(?:and|of|with|in|on|to|by|at)\b", between)) or (
        len(between.split()) > 4
    )


_COUNTED = re.compile(
    r"\b(two|three|four|five|six|seven|eight|nine|ten|\d{1,2})\s+((?:[a-z-]+\s+){0,3}?[a-z-]+s|"
    r"mice|men|women|children|people|sheep|fish)\b(?=\s*(?:$|[,.;!]|and\b|on\b|in\b|at\b|with\b|"
    r"above\b|below\b|over\b|under\b|left\b|right\b|to\b|next\b|near\b))"
)


def _missing(prompt: str, kinds: Sequence[str]) -> Iterator[Verdict]:
    """Counted things that the plan has none of."""
    for match in _COUNTED.finditer(prompt.lower()):
        if not any(_kind_of(word, kinds) for word in match[2].split()):
            yield False, f"{match[0]!r} are asked for, the plan has none"


def _relations(layout: Layout, prompt: str) -> Iterator[Verdict]:
    kinds = _kinds(layout)
    mentions = _mentions(prompt, list(kinds))
    for match in _RELATION.finditer(prompt):
        before = [kind for _, end, kind, _ in mentions if end <= match.start()]
        after = [kind for start, _, kind, _ in mentions if start >= match.end()]
        if not before or not after or before[-1] == after[0]:
            continue
        first, second, relation = before[-1], after[0], match.lastgroup or ""
        pairs = [(a, b) for a in kinds[first] for b in kinds[second]]
        good = all(_holds(relation, a, b) for a, b in pairs)
        yield good, f"{first!r} is not {match[0].lower()} {second!r}"


def _holds(relation: str, a: LayoutObject, b: LayoutObject) -> bool:
    (ax, ay), (bx, by) = a.centre, b.centre
    return {
        "left": ax < bx,
        "right": ax > bx,
        "above": ay < by,
        "below": ay > by,
        "bigger": a.area > b.area,
        "smaller": a.area < b.area,
    }[relation]


def _inside(layout: Layout) -> Iterator[Verdict]:
    for entry in layout.objects:
        inside = entry.x >= 0 and entry.y >= 0
        inside = inside and entry.right <= layout.width and entry.bottom <= layout.height
        if not inside:
            yield False, f"{entry.label!r} is not inside the picture"


def _overlaps(layout: Layout, prompt: str) -> Iterator[Verdict]:
    """Boxes that cover each other, unless one thing may be in or on the other."""
    if _TOGETHER.search(prompt):
        return
    for i, a in enumerate(layout.objects):
        for b in layout.objects[i + 1 :]:
            width = min(a.right, b.right) - max(a.x, b.x)
            height = min(a.bottom, b.bottom) - max(a.y, b.y)
            shared = max(0, width) * max(0, height) / min(a.area, b.area)
            if shared > OVERLAP:
                yield False, f"{a.label!r} and {b.label!r} cover each other"
