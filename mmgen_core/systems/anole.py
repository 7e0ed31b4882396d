"""ANOLE (Chern et al. 2024, arXiv 2407.06135): answers of texts and pictures in turn.

Its files are Chameleon-7B's with other image rows in the head, so system and sizes are Chameleon's.
Public files: huggingface.co/GAIR/Anole-7b-v0.1, leloy/Anole-7b-v0.1-hf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..decoding.interleaved import Picture
from ..decoding.next_token import TextRules
from ..decoding.stream import merged
from .chameleon_vocabulary import guidance_branches
from .next_token import Size

if TYPE_CHECKING:
    from .chameleon_system import ChameleonSystem


@dataclass(frozen=True)
class AnoleStory:
    """Rules of interleaved answers: a text step bans the image begin once a picture would
    no longer fit; a picture has its fixed number of codes and is then closed."""

    system: ChameleonSystem
    grid: Size
    guidance: float
    image_guidance: float
    longest_text: int
    header: None = None

    @property
    def limit(self) -> int:
        return self.system.context

    @property
    def opening(self) -> int:
        return self.system.vocabulary.boi

    @property
    def last_opening(self) -> int:
        """Sequence length from which no picture may be opened."""
        return self.limit - self.grid[0] * self.grid[1] - 2

    def text(self, length: int, written: int) -> TextRules | None:
        v, left = self.system.vocabulary, min(self.limit - length, self.longest_text - written)
        if left <= 0:
            return None
        may_open = length < self.last_opening
        if may_open:
            left = min(left, self.last_opening - length)
        ids = (v.eos, v.boi) if may_open else (v.eos,)
        return TextRules((v.eos, v.boi), left, v.mask(self.system.model_vocab, *ids))

    def picture(self, ids: Sequence[int]) -> Picture:
        v = self.system.vocabulary
        plan = self.system.plan(self.grid)
        plan = replace(plan, tokens=(*plan.tokens, v.eoi))
        whole, *others = guidance_branches(ids, v, self.guidance, self.image_guidance)
        return Picture(plan, whole.weight, tuple(merged(others)))
