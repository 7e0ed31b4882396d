"""LLaMA's text tokenizer with the tokens that a system added to it.

A text is cut at added tokens, and sentencepiece reads every piece by itself, each with a space in
front, as transformers' slow tokenizer did when these systems were trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from .text import TextTokenizer, added_tokens


class AddedTokens(TextTokenizer):
    """
    Attributes:
        strip: drop spaces beside added tokens (transformers up to 4.33 did for those that
            ``added_tokens.json`` alone names).
    """

    def __init__(self, base: TextTokenizer, pattern: str, strip: bool = False):
        """
        Args:
            pattern: of the names that are added tokens where the base knows them itself.
        """
        self.base, self.strip = base, strip
        known = {n: i for n, i in base.vocabulary.items() if re.fullmatch(pattern, n)}
        self.added: dict[str, int] = {**known, **added_tokens(base.path)}
        names = sorted(self.added, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    @property
    def path(self) -> Path:
        return self.base.path

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        return {**self.base.vocabulary, **self.added}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        pieces = self._cut.split(text) if self._cut else [text]
        for index, piece in enumerate(pieces):
            if index % 2:
                ids.append(self.added[piece])
                continue
            if self.strip:
                piece = piece.lstrip() if index else piece
                piece = piece.rstrip() if index + 1 < len(pieces) else piece
            ids += self.base.encode(piece) if piece else []
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text, with added tokens by name."""
        names = {id: name for name, id in self.added.items()}
        parts: list[str | list[int]] = []
        for id in map(int, ids):
            if id in names:
                parts.append(names[id])
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(id)
            else:
                parts.append([id])
        return "".join(p if isinstance(p, str) else self.base.decode(p) for p in parts)
