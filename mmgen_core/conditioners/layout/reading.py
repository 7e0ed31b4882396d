"""A forgiving reader for what language models call JSON.

Reads JSON, and beyond it: comments, trailing and missing commas, single quotes and quotes inside
of quotes, bare keys, Python's tuples and constants, NaN, and text that just ends. Data only:
nothing is ever evaluated. Linear in the length of the text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 32
CLOSING = {"{": "}", "[": "]", "(": ")"}
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}
_AFTER_STRING = set(",:;=]})/#") | set(QUOTES) | set(QUOTES.values())
_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/|#[^\n]*|\.\.\.|…)+", re.S)
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*(px|%)?(?![\w.])")
_WORD = re.compile(r"[^\W\d][\w-]*(?: [\w-]+)*")
_CONSTANTS = {
    "null": None,
    "none": None,
    "true": True,
    "false": False,
    "nan": math.nan,
    "infinity": math.inf,
    "inf": math.inf,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_START = re.compile(r"\{(?=\s*[\"'“‘`\w}/])|\[(?=\s*[\[{(\"'“‘`\d.\]/+-])|\((?=\s*[\"'“‘`])")


class Unreadable(Exception):
    """No value at this place of the text."""

    def __init__(self, position: int):
        super().__init__(position)
        self.position = position


@dataclass(frozen=True)
class Broken:
    """In place of a value that could not be read."""

    text: str


@dataclass(frozen=True)
class Number:
    """A number with a unit: "px" or "%"."""

    value: float
    unit: str


class Cut(list):
    """A list whose end is missing: its last entry may be missing, too."""


@dataclass
class Value:
    """A list or dict found in a text.

    Attributes:
        data: dicts, lists, texts, floats, ``Number``s, booleans, None, ``Broken`` places.
        cut: whether the text ended before the value did.
        span: where it stands in the text.
    """

    data: Any
    cut: bool
    span: tuple[int, int]


def find_values(text: str) -> list[Value]:
    """Every list and object of a text, outermost only, in order."""
    found, position = [], 0
    while match := _START.search(text, position):
        reader = _Reader(text, match.start())
        data = reader.value(0)
        found.append(Value(data, reader.cut, (match.start(), reader.at)))
        position = max(reader.at, match.start() + 1)
    return found


def as_number(word: str) -> float | Number | None:
    """The number that a text consists of; None for any other text."""
    match = _NUMBER.fullmatch(word.strip())
    if match is None:
        return None
    return _number(match)


def _number(match: re.Match) -> float | Number:
    unit = match[1] or ""
    digits = match[0].removesuffix(unit).strip().replace("_", "")
    value = float(digits)
    return Number(value, unit) if unit else value


@dataclass
class _Reader:
    text: str
    at: int
    cut: bool = field(default=False)

    def value(self, depth: int) -> Any:
        """The value at this place.

        Raises:
            Unreadable: there is none.
        """
        start = self.peek()
        if start in CLOSING and depth > MAX_DEPTH:
            raise Unreadable(self.at)
        if start == "{":
            return self.pairs(depth)
        if start in ("[", "("):
            return self.items(depth)
        if start in QUOTES:
            return self.string()
        return self.scalar()

    def peek(self) -> str:
        """The next character that is no space or comment; "" and ``cut`` at the end."""
        if space := _SPACE.match(self.text, self.at):
            self.at = space.end()
        if self.at >= len(self.text):
            self.cut = True
            return ""
        return self.text[self.at]

    def items(self, depth: int) -> list:
        close = CLOSING[self.text[self.at]]
        self.at += 1
        found: list = []
        while (after := self.peek()) != close:
            if after == "":
                return Cut(found)
            if after in "]})":  # another bracket than the one that was opened
                break
            if after in ",;":
                self.at += 1
                continue
            value = self.recovering(depth)
            if self.cut and not isinstance(value, (list, dict)):
                return Cut(found)
            found.append(value)
        self.at += 1
        return found

    def pairs(self, depth: int) -> dict:
        self.at += 1
        found: dict[str, Any] = {}
        while (after := self.peek()) != "}":
            if after == "":
                return found
            if after in "])":
                break
            if after in ",;":
                self.at += 1
                continue
            key = self.key()
            if key is None:
                if self.cut:
                    return found
                self.skip()
                continue
            value = self.recovering(depth)
            if self.cut and not isinstance(value, (list, dict)):
                return found
            # a key that comes twice, as in {"cat": [...], "cat": [...]}: keep both
            found[key if key not in found else f"{key}\0{len(found)}"] = value
        self.at += 1
        return found

    def key(self) -> str | None:
        """A key and its colon; None where there is none."""
        if self.text[self.at] in QUOTES:
            key = self.string()
        elif (word := _WORD.match(self.text, self.at)) or (
            word := re.compile(r"\d+").match(self.text, self.at)
        ):
            key, self.at = word[0], word.end()
        else:
            return None
        if self.peek() not in (":", "="):
            return None
        self.at += 1
        if self.text[self.at : self.at + 1] == ">":  # Ruby's arrow
            self.at += 1
        return key

    def recovering(self, depth: int) -> Any:
        """A value, or what stands in its place up to the next comma or closing bracket."""
        self.peek()
        start = self.at
        try:
            value = self.value(depth + 1)
        except Unreadable:
            self.skip()
            return Broken(self.text[start : self.at].strip())
        if self.peek() not in (*",;]})", "", *CLOSING, *QUOTES) and not isinstance(
            value, (dict, list)
        ):
            if _WORD.match(self.text, self.at) and isinstance(value, str):
                return value  # a comma is missing before a bare key
            if _NUMBER.match(self.text, self.at) and isinstance(value, (float, Number)):
                return value  # or between numbers
            self.skip()
            return Broken(self.text[start : self.at].strip())
        return value

    def skip(self) -> None:
        """On to the comma or bracket that ends the unreadable place."""
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in CLOSING:
                depth += 1
            elif char in "]})":
                if depth == 0:
                    return
                depth -= 1
            elif char == "," and depth == 0:
                return
            self.at += 1
        self.cut = True

    def string(self) -> str:
        close, parts = QUOTES[self.text[self.at]], []
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\":
                parts.append(self.escape())
            elif char == close and self.ends_here():
                self.at += 1
                return "".join(parts)
            else:
                parts.append(char)
                self.at += 1
        self.cut = True
        return "".join(parts)

    def escape(self) -> str:
        following = self.text[self.at + 1 : self.at + 2]
        code = re.compile(r"[0-9a-fA-F]{4}").match(self.text, self.at + 2)
        if following == "u" and code:
            self.at += 6
            return _paired(int(code[0], 16), self)
        self.at += 2
        return _ESCAPES.get(following, following)

    def ends_here(self) -> bool:
        """Whether a quote closes the string, or is one in a text: 'the dog's bowl'."""
        match = re.compile(r"\s*").match(self.text, self.at + 1)
        after = self.text[match.end() : match.end() + 1]
        if after == "" or after in _AFTER_STRING:
            return not (after and after in QUOTES and match.end() == self.at + 1)
        return "\n" in match[0] and after.isalpha()  # a comma is missing before a bare key

    def scalar(self) -> Any:
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            if self.at >= len(self.text):
                self.cut = True  # there may be digits missing
            return _number(number)
        word = re.compile(r"([-+]?)([^\W\d]\w*)").match(self.text, self.at)
        if word is None or word[2].lower() not in _CONSTANTS:
            raise Unreadable(self.at)
        self.at = word.end()
        value = _CONSTANTS[word[2].lower()]
        return -value if word[1] == "-" and isinstance(value, float) else value


def _paired(code: int, reader: _Reader) -> str:
    r"""A character from \uXXXX, which may be the first of two that make one; alone, such a half
    is no character."""
    if 0xD800 <= code < 0xDC00:
        low = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})").match(reader.text, reader.at)
        if low:
            reader.at = low.end()
            return chr(0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00))
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code < 0xE000 else chr(code)
