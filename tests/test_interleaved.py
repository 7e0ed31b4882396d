"""A story of texts and pictures against a run that reads everything anew for every token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from test_decoder import LLAMA, randomised
from test_next_token import CPU, context, reread

from mmgen_core.decoding.interleaved import Picture, tell
from mmgen_core.decoding.next_token import (
    FREE,
    PicturePlan,
    TextRules,
    TokenSampling,
    uniform_noise,
)
from mmgen_core.decoding.stream import Branch, prefill
from mmgen_core.models.decoder import Decoder

OPEN, CLOSE, END = 28, 29, 2
TEXTS = TokenSampling(1.1, top_p=0.9, repetition_penalty=1.2)
PICTURES = TokenSampling(0.8, top_k=9)


def ids_only(*ids: int) -> torch.Tensor:
    allowed = torch.zeros(40, dtype=torch.bool)
    allowed[list(ids)] = True
    return allowed


class TwoPictures:
    """Three words, then a picture of as many codes as its header says; at most two of them."""

    limit, opening = 30, OPEN

    def __init__(self):
        self.pictures = 0

    def text(self, length: int, written: int) -> TextRules | None:
        if written < 3:
            return TextRules((), 3 - written, ids_only(*range(31, 40)))
        if written > 3:
            return None
        wanted = OPEN if self.pictures < 2 else END
        return TextRules((OPEN, END), 1, ids_only(wanted))

    @property
    def header(self) -> tuple[TextRules, TokenSampling]:
        return TextRules((), 1, ids_only(0, 1)), TokenSampling()

    def picture(self, ids: Sequence[int]) -> Picture:
        self.pictures += 1
        plan = PicturePlan((FREE,) * (2 + ids[-1]) + (CLOSE,), slice(1, 2), 8, 2)
        return Picture(plan, 3.0, (Branch(context(1, *ids[-2:]), -2.0),))


def told_plainly(model: Decoder, prompt: list[int], noise: torch.Tensor) -> list[int]:
    story, ids = TwoPictures(), list(prompt)

    def write(rules: TextRules, sampling: TokenSampling) -> None:
        for _ in range(rules.limit):
            seen = torch.zeros(1, 40, dtype=torch.bool)
            seen[0, ids] = True
            scores = reread(model, ids)[None].masked_fill(~rules.allowed, -torch.inf)
            at = len(ids) - len(prompt)
            ids.append(int(sampling.choose(sampling.penalised(scores, seen), noise[:, at])))

    while True:
        write(story.text(0, 0), TEXTS)
        write(story.text(0, 3), TEXTS)
        if ids[-1] == END:
            return ids[len(prompt) :]
        write(*story.header)
        picture, start = story.picture(ids), len(ids)
        other = picture.others[0].context.ids.tolist()
        for token in picture.plan.tokens:
            if token == FREE:
                drawn = ids[start:]
                full, empty = reread(model, ids), reread(model, [*other, *drawn])
                scores = (3 * full - 2 * empty)[None, 8:28]
                token = int(PICTURES.choose(scores, noise[:, len(ids) - len(prompt)])) + 8
            ids.append(token)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_story_equals_a_run_without_cache(seed):
    model, prompt = randomised(Decoder(LLAMA)), [1, 35, 36]
    prefix = prefill(model, [context(*prompt)], CPU)
    texts, pictures = [], []
    told = tell(
        model,
        prefix,
        TwoPictures(),
        TEXTS,
        PICTURES,
        seed,
        on_text=lambda *step: texts.append(step),
        on_picture=lambda plan, *step: pictures.append(step),
    )
    assert told == told_plainly(model, prompt, uniform_noise(seed, 1, 27))
    assert told.count(OPEN) == told.count(CLOSE) == 2 and told[-1] == END
    assert len(texts) + len(pictures) == len(told)
