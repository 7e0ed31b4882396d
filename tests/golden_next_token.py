"""Runs of the next-token engine with their scores read from outside."""

from __future__ import annotations

import re

import torch

from mmgen_core.decoding.next_token import TokenSampling
from mmgen_core.decoding.stream import DecoderStream
from mmgen_core.image_tokens import ImageTokens


class SpiedStream(DecoderStream):
    """Notes the scores [b, B, V] of every position, in order."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen: list[torch.Tensor] = []

    def scores(self, hidden, blocks):
        out = super().scores(hidden, blocks)
        self.seen.append(out)
        return out


class SpiedSampling(TokenSampling):
    """Notes the scores [B, V] from which every id is chosen."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "seen", [])

    def choose(self, logits, noise):
        self.seen.append(logits)
        return super().choose(logits, noise)


def forced_end(end: int) -> TokenSampling:
    """Greedy, and nothing but the end mark after the end mark, as references pad."""
    sampling = SpiedSampling(temperature=0)
    ended = False

    def choose(logits, noise):
        nonlocal ended
        ids = torch.full(logits.shape[:1], end) if ended else logits.argmax(-1)
        ended = ended or bool((ids == end).all())
        return ids

    object.__setattr__(sampling, "choose", choose)
    return sampling


def codes_image(tokenizer, codes_Bhw: torch.Tensor) -> torch.Tensor:
    return tokenizer.decode(ImageTokens((codes_Bhw,), tokenizer.fingerprint))


def note(case, pattern: str, default: str | None = None) -> str:
    """What the first note that matches says."""
    for text in case.spec["notes"]:
        if found := re.search(pattern, text):
            return found[1]
    assert default is not None, f"no note says {pattern}"
    return default
