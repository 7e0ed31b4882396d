"""Texts to the ids of a CLIP text encoder whose tokenizer lies in or beside its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.files import Checkpoint, CheckpointError


class ClipTextTokenizer:
    """Start, the text's tokens, end; padding with zeros on the right, under a mask."""

    def __init__(self, definition: str, positions: int) -> None:
        """definition: the text of a tokenizer.json; positions: the encoder's."""
        from tokenizers import Tokenizer

        self.definition, self.positions = definition, positions
        self.tokenizer = Tokenizer.from_str(definition)
        ends = self.ids("")
        if len(ends) != 2:
            raise ValueError(f"The tokenizer puts {len(ends)} marks around a text; CLIP's are 2.")
        self.start, self.end = ends

    def ids(self, text: str) -> list[int]:
        """Ids with start and end, of any length."""
        return self.tokenizer.encode(text).ids

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, T], T that of the longest text.

        Raises:
            ValueError: a text that is longer than the encoder's positions; nothing is cut off.
        """
        rows = [self.ids(text) for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.positions:
                raise ValueError(
                    f"The text has {len(row) - 2} tokens, the model was trained with at most "
                    f"{self.positions - 2}. Shorten it: {text[:60]!r} ..."
                )
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return ids, mask


def tokenizer_of(checkpoint: Checkpoint, positions: int) -> ClipTextTokenizer:
    """The tokenizer in the file's config ("tokenizer"), or tokenizer.json beside the file.

    Raises:
        CheckpointError: neither is there, or it is none.
    """
    beside = Path(checkpoint.path).parent / "tokenizer.json"
    definition = checkpoint.config.get("tokenizer")
    if definition is None and beside.is_file():
        definition = beside.read_text("utf-8")
    if definition is None:
        raise CheckpointError(
            f"{checkpoint.path.name} brings no tokenizer: its metadata has none and there is no "
            f"tokenizer.json beside it in {beside.parent}."
        )
    try:
        return ClipTextTokenizer(definition, positions)
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise CheckpointError(
            f"The tokenizer of {checkpoint.path.name} cannot be read: {error}"
        ) from error
