"""SEED-LLaMA's text tokenizer: LLaMA's sentencepiece, image codes and marks as added tokens.

As transformers 4.30 splits a text, with which the models were trained: blanks and line breaks
beside an added token are dropped, every run of text between them starts with sentencepiece's blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from .text import SentencePieceTokenizer, TokenizerError, added_tokens

BEGIN, END = "<img>", "</img>"
PUBLISHED_CODES = 8192
MARKS = ("<s>", "</s>", "<unk>")  # sentencepiece's own; text beside them keeps its blanks


def code_name(code: int) -> str:
    return f"<img_{code:05d}>"


def image_text(codes: Iterable[int]) -> str:
    """A picture as it stands in a text."""
    return f"{BEGIN}{''.join(map(code_name, codes))}{END}"


class SeedText:
    """Texts with pictures in them, to ids and back.

    Attributes:
        first_code: id of image code 0; codes: how many follow it.
        begin, end: ids around a picture.
    """

    def __init__(self, path: Path, vocab: int):
        """
        Args:
            vocab: ids of the model; without an ``added_tokens.json`` beside the file the added
                ones follow sentencepiece's in the published order.

        Raises:
            TokenizerError: no image codes, or not in a row.
        """
        self.path, self._pieces = path, SentencePieceTokenizer(path)
        self.eos = self._pieces.id_of("</s>")
        added = added_tokens(path)
        if not added:
            first, codes = len(self._pieces), vocab - len(self._pieces) - 2
            added = {code_name(i): first + i for i in range(codes)}
            added |= {BEGIN: first + codes, END: first + codes + 1}
        if code_name(0) not in added or BEGIN not in added or END not in added:
            raise TokenizerError(
                f"The tokens added to {path.name} hold no SEED image codes ({code_name(0)}, "
                f"{BEGIN}, {END}). Put tokenizer.model and added_tokens.json of the SEED "
                f"repository beside the model."
            )
        self.added = added
        self.first_code = added[code_name(0)]
        self.codes = sum(re.fullmatch(r"<img_\d{5}>", name) is not None for name in added)
        if any(added[code_name(i)] != self.first_code + i for i in (1, self.codes - 1)):
            raise TokenizerError(f"The image codes added to {path.name} do not stand in a row.")
        self.begin, self.end = added[BEGIN], added[END]

    @property
    def pieces(self) -> int:
        """Ids of text, which come first."""
        return len(self._pieces)

    def __len__(self) -> int:
        return max(len(self._pieces), 1 + max(self.added.values()))

    @cached_property
    def _special(self) -> re.Pattern:
        names = sorted([*self.added, *MARKS], key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, names)) + ")")

    def encode(self, text: str) -> list[int]:
        runs = self._special.split(text)  # text and special tokens in turn
        for at in range(1, len(runs), 2):
            if runs[at] in self.added:
                runs[at - 1], runs[at + 1] = runs[at - 1].rstrip(), runs[at + 1].lstrip()
        ids: list[int] = []
        for at, run in enumerate(runs):
            if at % 2:
                ids.append(self.added.get(run) or self._pieces.id_of(run))
            elif run:
                ids += self._pieces.encode(run)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks and image codes."""
        return self._pieces.decode([i for i in ids if 2 < i < len(self._pieces)])
