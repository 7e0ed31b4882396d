"""What a next-scale model is asked for: classes (VAR) or texts (STAR)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextFeatures:
    """Encoded texts: hidden [B, T, W], pooled [B, W], mask [B, T] (1 = a text position)."""

    hidden: Tensor
    pooled: Tensor
    mask: Tensor

    def expand(self, batch: int) -> TextFeatures:
        """The same text for every picture of a batch."""
        if len(self.hidden) == batch:
            return self
        if len(self.hidden) != 1:
            raise ValueError(f"{len(self.hidden)} texts do not fit a batch of {batch} pictures.")
        return TextFeatures(*(t.expand(batch, *t.shape[1:]) for t in self._tensors()))

    def joined(self, other: TextFeatures) -> TextFeatures:
        """These texts, then the others; the shorter ones are padded with masked positions."""
        length = max(self.hidden.shape[1], other.hidden.shape[1])
        pairs = zip(self._padded(length), other._padded(length), strict=True)
        return TextFeatures(*(torch.cat(pair) for pair in pairs))

    def to(self, device: torch.device, dtype: torch.dtype) -> TextFeatures:
        hidden, pooled, mask = (t.to(device) for t in self._tensors())
        return TextFeatures(hidden.to(dtype), pooled.to(dtype), mask)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.pooled, self.mask

    def _padded(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        missing = length - self.hidden.shape[1]
        hidden = torch.nn.functional.pad(self.hidden, (0, 0, 0, missing))
        return hidden, self.pooled, torch.nn.functional.pad(self.mask, (0, missing))


@dataclass(frozen=True)
class TextRows:
    """Texts of all guidance rows; the first ``attended`` of them are attended to."""

    text: TextFeatures
    attended: int


@dataclass(frozen=True)
class ClassPrompt:
    """One class id per picture; -1 or the number of classes is "no class"."""

    class_ids: Sequence[int]

    @property
    def batch(self) -> int:
        return len(self.class_ids)

    def rows(self, classes: int, guided: bool, device: torch.device) -> Tensor:
        """Class ids [R] of all rows, the unconditional ones last.

        Raises:
            ValueError: a class that the model does not have.
        """
        for class_id in self.class_ids:
            if not -1 <= class_id <= classes:
                raise ValueError(
                    f"Class {class_id} is unknown: this model has classes 0..{classes - 1}, "
                    f"and -1 for no class."
                )
        ids = [classes if class_id < 0 else int(class_id) for class_id in self.class_ids]
        return torch.tensor(ids + [classes] * len(ids) * guided, device=device)


@dataclass(frozen=True)
class TextPrompt:
    """Texts for the pictures and for the rows they are guided away from (published: "").

    Attributes:
        attended: how many leading rows attend to their text; the others share the results in
            turn. By default as many as pictures, as STAR was published: an unconditional row
            sees its picture's text. Twice as many lets every row see its own.
    """

    positive: TextFeatures
    negative: TextFeatures
    attended: int | None = None

    @property
    def batch(self) -> int:
        return len(self.positive.hidden)

    @property
    def length(self) -> int:
        """Positions of the longer text, padding included."""
        return max(self.positive.hidden.shape[1], self.negative.hidden.shape[1])

    def expand(self, batch: int) -> TextPrompt:
        """The same prompt for every picture of a batch."""
        attended = self.attended and self.attended * batch // self.batch
        return TextPrompt(self.positive.expand(batch), self.negative, attended)

    def rows(self, width: int, guided: bool, device: torch.device, dtype: torch.dtype) -> TextRows:
        """Texts of all rows, the unconditional ones last.

        Raises:
            ValueError: features of another width than the model's text encoder has.
        """
        text = self.positive
        if guided:
            text = text.joined(self.negative.expand(self.batch))
        found = text.hidden.shape[-1], text.pooled.shape[-1]
        if found != (width, width):
            raise ValueError(
                f"The text encoder gives features of width {found[0]} (pooled {found[1]}), this "
                f"model needs {width}. Load the text encoder that belongs to it."
            )
        attended = self.attended or self.batch
        return TextRows(text.to(device, dtype), min(attended, len(text.hidden)))
