"""The JSON of a layout, letter by letter: what a language model may write next.

    {"caption": "...", "background": "...", "objects": [{"label": "...", "attributes": "...",
     "box": [left, top, right, bottom]}, ...]}

with whole numbers on a square of ``side``, right of left, below top.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace

CAPTION, BACKGROUND, LABEL, ATTRIBUTES = "caption", "background", "label", "attributes"
_ENTRY = (
    '{"label": "',
    LABEL,
    '", "attributes": "',
    ATTRIBUTES,
    '", "box": [',
    *(0, ", ", 1, ", ", 2, ", ", 3),
    "]}",
)
_HEAD = ('{"caption": "', CAPTION, '", "background": "', BACKGROUND, '", "objects": [')
PROGRAM = (*_HEAD, *_ENTRY)
FIRST, AFTER = len(_HEAD), len(PROGRAM)  # the object's first part; behind its last
NEXT, END = ", ", "]}"
TEXTS = (CAPTION, BACKGROUND, LABEL, ATTRIBUTES)


@dataclass(frozen=True)
class LayoutGrammar:
    """A state of reading a layout; immutable.

    Attributes:
        side: of the square that coordinates count on.
        least: the smallest width and height of a box.
        objects: most objects there may be.
        lengths: most letters of the caption, background, label and attributes.
    """

    side: int = 1000
    least: int = 20
    objects: int = 30
    lengths: tuple[int, int, int, int] = (300, 200, 60, 80)
    # Where reading stands: the part of the program, the letters read of it, numbers of the box,
    # finished objects, and the length of the text up to the last of them.
    part: int = 0
    read: str = ""
    numbers: tuple[int, ...] = ()
    count: int = 0
    length: int = 0
    finished: int = 0

    @property
    def complete(self) -> bool:
        return self.part > AFTER

    def feed(self, text: str) -> LayoutGrammar | None:
        state: LayoutGrammar | None = self
        for char in text:
            state = state._next(char) if state else None
        return state

    def repaired(self, text: str) -> str | None:
        """A text that this grammar read, cut off anywhere, made whole by dropping the object
        that is not finished; None where no object is."""
        if self.complete:
            return text
        return text[: self.finished] + END if self.count else None

    def _next(self, char: str) -> LayoutGrammar | None:
        if self.complete:
            return None
        if self.part == AFTER:
            return self._between(char)
        part = PROGRAM[self.part]
        if isinstance(part, int):
            return self._digit(part, char)
        return self._letter(part, char) if part in TEXTS else self._fixed(part, char)

    def _moved(self, part: int, read: str = "") -> LayoutGrammar:
        return replace(self, part=part, read=read, length=self.length + 1)

    def _fixed(self, expected: str, char: str) -> LayoutGrammar | None:
        if expected[len(self.read)] != char:
            return None
        if len(self.read) + 1 < len(expected):
            return self._moved(self.part, self.read + char)
        state = self._moved(self.part + 1)
        if self.part + 1 == AFTER:
            numbers: tuple[int, ...] = ()
            state = replace(state, numbers=numbers, count=self.count + 1, finished=self.length + 1)
        return state

    def _between(self, char: str) -> LayoutGrammar | None:
        """After an object: another one, or the end."""
        read = self.read + char
        if END.startswith(read):
            return self._moved(AFTER + 1 if read == END else AFTER, read)
        if NEXT.startswith(read) and self.count < self.objects:
            return self._moved(FIRST) if read == NEXT else self._moved(AFTER, read)
        return None

    def _letter(self, kind: str, char: str) -> LayoutGrammar | None:
        if self.read.endswith("\\"):  # an escaped letter is read as a space
            return self._moved(self.part, self.read + " ") if char in '"\\/' else None
        if char == '"':
            empty = kind in (LABEL,) and not self.read
            return None if empty else replace(self, part=self.part + 1, read="")._next(char)
        full = len(self.read) >= self.lengths[TEXTS.index(kind)]
        # a space may stand between words only, no other space nor control character anywhere
        if full or (char == " " and not self.read.strip()) or not _is_letter(char):
            return None
        return self._moved(self.part, self.read + char)

    def _digit(self, place: int, char: str) -> LayoutGrammar | None:
        low, high = self._range(place)
        if char in "0123456789":
            read = self.read + char
            return self._moved(self.part, read) if _may_begin(read, low, high) else None
        if not self.read or not low <= int(self.read) <= high:
            return None
        done = replace(self, part=self.part + 1, read="", numbers=(*self.numbers, int(self.read)))
        return done._next(char)

    def _range(self, place: int) -> tuple[int, int]:
        if place < 2:
            return 0, self.side - self.least
        return self.numbers[place - 2] + self.least, self.side


def _is_letter(char: str) -> bool:
    return char == " " or not (char.isspace() or unicodedata.category(char) == "Cc")


def _may_begin(digits: str, low: int, high: int) -> bool:
    """Whether some number between low and high begins with these digits."""
    if len(digits) > 1 and digits[0] == "0":
        return False
    value = int(digits)
    if value == 0:
        return low == 0
    first, last = value, value
    while first <= high:
        if last >= low:
            return True
        first, last = first * 10, last * 10 + 9
    return False
