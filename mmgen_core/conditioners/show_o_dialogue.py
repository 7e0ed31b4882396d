"""A dialogue with Show-o in which pictures are shown, drawn and talked about.

Show-o learned single tasks: to draw from a text, and to answer about one picture. A dialogue joins
them: what was drawn last is the picture that is talked about, and earlier questions and answers
about the same picture stand before the next question, as in the data it was tuned on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

END = "<|endoftext|>"  # closes an answer


@dataclass(frozen=True)
class Turn:
    """What was said, and the answer; None where a picture was drawn instead."""

    said: str
    answer: str | None


@dataclass(frozen=True, eq=False)
class Dialogue:
    """A dialogue so far.

    Attributes:
        picture: that is talked about, [H, W, 3] in 0..1.
        since: the first turn about that picture.
    """

    turns: tuple[Turn, ...] = ()
    picture: Tensor | None = None
    since: int = 0

    def shown(self, picture: Tensor) -> Dialogue:
        """With another picture to talk about."""
        return replace(self, picture=picture, since=len(self.turns))

    def answered(self, said: str, answer: str) -> Dialogue:
        return replace(self, turns=(*self.turns, Turn(said, answer)))

    def drawn(self, said: str, picture: Tensor) -> Dialogue:
        return replace(self, turns=(*self.turns, Turn(said, None))).shown(picture)

    def question(self, said: str) -> str:
        """The next question with what was asked and answered about the picture before it."""
        earlier = [turn for turn in self.turns[self.since :] if turn.answer is not None]
        return "".join(f"{t.said} ASSISTANT: {t.answer}{END}USER: \n" for t in earlier) + said

    def transcript(self) -> str:
        return "\n".join(lines(self.turns))


def lines(turns: Sequence[Turn]) -> list[str]:
    """Two lines per turn."""
    return [
        line
        for turn in turns
        for line in (f"User: {turn.said}", f"Show-o: {turn.answer or '<image>'}")
    ]
