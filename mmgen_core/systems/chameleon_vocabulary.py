"""Chameleon's vocabulary: which ids are image codes, text, and marks; and the contexts that its
guidance compares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoding.stream import Branch, Context
from ..tokenizers.text import TextTokenizer, TokenizerError

CODE_NAME = re.compile(r"IMGIMG([A-J]+)Z")


@dataclass(frozen=True)
class Vocabulary:
    """Ids by their use; the defaults are the published ones.

    Attributes:
        turn: end of a turn; boi, eoi: begin and end of an image.
        new_line, first_size: Lumina-mGPT's mark after a row of codes, and its size 0.
        text: ids of pieces of text, where the names are known.
    """

    bos: int = 0
    pad: int = 1
    eos: int = 2
    first_code: int = 4
    codes: int = 8192
    eoi: int = 8196
    boi: int = 8197
    turn: int = 8710
    new_line: int = 8803
    first_size: int = 8804
    text: Sequence[int] = ()

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> Vocabulary:
        """The vocabulary of a published (or our demo's) text tokenizer, by the names in it.

        Raises:
            TokenizerError: it has no image codes, or they do not stand in a row.
        """
        names = tokenizer.vocabulary
        codes = {code: names[name] for name in names if (code := code_of(name)) is not None}
        if not codes or any(i - code != codes[0] for code, i in codes.items()):
            raise TokenizerError(
                f"{tokenizer.path} is no tokenizer of Chameleon's family: image codes (IMGIMG...) "
                f"are missing or out of order. Put the model's own file beside it."
            )
        spare = len(names)  # an id that no model has, for names only Lumina-mGPT needs
        return cls(
            bos=tokenizer.id_of("<s>"),
            pad=tokenizer.id_of("<pad>"),
            eos=tokenizer.id_of("</s>"),
            first_code=codes[0],
            codes=len(codes),
            eoi=tokenizer.id_of("<eoss>"),
            boi=tokenizer.id_of("<racm3:break>"),
            turn=tokenizer.id_of("<reserved08706>"),
            new_line=names.get("<reserved08799>", spare),
            first_size=names.get("<reserved08800>", spare),
            text=text_ids(names),
        )

    @property
    def has_sizes(self) -> bool:
        return self.first_size != self.new_line

    def mask(self, vocab: int, *more: int, text: bool = True) -> Tensor:
        """bool [vocab]: True for pieces of text, where wanted, and for ``more`` ids."""
        allowed = torch.zeros(vocab, dtype=torch.bool)
        allowed[[*(self.text if text else ()), *more]] = True
        return allowed

    def is_picture(self, ids: Tensor) -> Tensor:
        """bool: image codes."""
        return (ids >= self.first_code) & (ids < self.first_code + self.codes)


def code_of(name: str) -> int | None:
    """The image code that a name stands for: IMGIMGFDZ is 53."""
    found = CODE_NAME.fullmatch(name)
    return int("".join(str(ord(letter) - ord("A")) for letter in found[1])) if found else None


def text_ids(names: Mapping[str, int]) -> tuple[int, ...]:
    """Ids of text: neither image codes nor names that begin with "<", the character itself apart
    (the reference's rule; it keeps out pieces such as "</" too)."""
    return tuple(
        sorted(
            i
            for name, i in names.items()
            if code_of(name) is None and (name == "<" or not name.startswith("<"))
        )
    )


def guidance_branches(
    ids: Sequence[int], vocabulary: Vocabulary, text: float, image: float
) -> list[Branch]:
    """Chameleon's three contexts for a sequence that ends by opening a picture: all of it, its
    pictures alone, nothing. Scores are u + image (i - u) + text (f - i)."""
    full = torch.tensor(list(ids))
    v = vocabulary
    kept = v.is_picture(full) | torch.isin(full, torch.tensor([v.bos, v.boi, v.eoi]))
    nothing = torch.tensor([v.bos, v.boi])
    contexts = (Context(full), text), (Context(full[kept]), image - text)
    return [Branch(*pair) for pair in (*contexts, (Context(nothing), 1 - image))]
