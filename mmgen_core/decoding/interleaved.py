"""Texts and pictures in one stream: the model writes, opens a picture, which is drawn under
guidance and closed, and writes on (Chameleon, ANOLE, Lumina-mGPT, SEED-LLaMA)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.decoder import Decoder
from .next_token import (
    OnToken,
    PicturePlan,
    TextRules,
    TokenSampling,
    draw_pictures,
    uniform_noise,
    write_text,
)
from .stream import Branch, Context, DecoderStream, Prefix, prefill

# (the picture's plan, tokens done, tokens in all, tokens so far [1, n]); may raise to stop.
OnPicture = Callable[[PicturePlan, int, int, Tensor], None]


@dataclass(frozen=True)
class Picture:
    """A picture that was opened.

    Attributes:
        plan: its tokens after those that opened it, the closing one included.
        weight: of the story's own scores in the guided ones.
        others: the guidance's further branches; the story itself is not among them.
    """

    plan: PicturePlan
    weight: float = 1.0
    others: tuple[Branch, ...] = ()


class Story(Protocol):
    """A system's rules for a stream of texts and pictures.

    Attributes:
        limit: tokens of the whole sequence at most, prompt included.
        opening: the id that opens a picture; a text stops there.
        header: how further ids are written before the picture's plan is known, as many as the
            rules' limit says; None where there are none.
    """

    limit: int
    opening: int
    header: tuple[TextRules, TokenSampling] | None

    def text(self, length: int, written: int) -> TextRules | None:
        """Rules for the next tokens, as many as their limit says; None ends the story.

        Args:
            length: tokens of the sequence so far.
            written: tokens of the present text so far, whose last is no stop.
        """

    def picture(self, ids: Sequence[int]) -> Picture:
        """The picture that the sequence so far has opened, header included.

        Raises:
            ValueError: a picture that cannot be.
        """


@torch.inference_mode()
def tell(
    model: Decoder,
    prefix: Prefix,
    story: Story,
    texts: TokenSampling,
    pictures: TokenSampling,
    seed: int,
    on_text: OnToken | None = None,
    on_picture: OnPicture | None = None,
) -> list[int]:
    """The ids that follow the prompt: texts with their stops, pictures with all their tokens.

    Args:
        prefix: the prompt, as the only context.
        texts, pictures: how ids of either kind are chosen.
    """
    return _Telling(model, prefix, story, texts, pictures, seed, on_text, on_picture).run()


class _Telling:
    """State of one story."""

    def __init__(self, model, prefix, story, texts, pictures, seed, on_text, on_picture):
        self.model, self.story, self.texts, self.pictures = model, story, texts, pictures
        self.on_text, self.on_picture = on_text, on_picture
        self.ids: list[int] = prefix.contexts[0].ids.tolist()
        self.start = len(self.ids)
        room = max(story.limit - self.start, 0)
        self.stream = DecoderStream(model, prefix, 1, room)
        self.noise = uniform_noise(seed, 1, room)
        self.device = prefix.hidden_bC.device

    def run(self) -> list[int]:
        while self.write():
            self.draw()
        return self.ids[self.start :]

    def write(self) -> bool:
        """One text; whether it ends by opening a picture."""
        written = 0
        while (rules := self.story.text(len(self.ids), written)) is not None:
            new = self.extend(rules, self.texts)
            written += len(new)
            if new and new[-1] in rules.stops:
                return new[-1] == self.story.opening
        return False

    def draw(self) -> None:
        if self.story.header is not None:
            self.extend(*self.story.header)
        picture = self.story.picture(self.ids)
        total = len(picture.plan.tokens)
        weights = [picture.weight, *(branch.weight for branch in picture.others)]
        if picture.others:
            contexts: list[Context] = [branch.context for branch in picture.others]
            self.stream.join(prefill(self.model, contexts, self.device), total)
        tokens = draw_pictures(
            self.stream,
            weights,
            picture.plan,
            self.pictures,
            self.numbers(total),
            self.on_picture and (lambda *step: self.on_picture(picture.plan, *step)),
        )
        self.ids += tokens[0].tolist()
        self.stream.keep([0])

    def extend(self, rules: TextRules, sampling: TokenSampling) -> list[int]:
        """Write a text by the rules."""
        seen = torch.zeros(1, self.model.params.vocab, dtype=torch.bool)
        seen[0, self.ids] = True
        numbers = self.numbers(rules.limit)
        tokens = write_text(self.stream, rules, sampling, numbers, seen, self.on_text)
        new = tokens[0].tolist()
        self.ids += new
        return new

    def numbers(self, count: int) -> Tensor:
        """The random numbers of the next positions."""
        done = len(self.ids) - self.start
        return self.noise[:, done : done + count]
