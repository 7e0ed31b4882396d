"""Tiny random models of SEED-X and DreamLLM, and words for them."""

from __future__ import annotations

import re

import torch
from tiny import randomise

from mmgen_core.models.attention_pool import AttentionPoolParams
from mmgen_core.models.clip_vision import ClipVision, ClipVisionParams
from mmgen_core.models.decoder import Decoder, DecoderParams
from mmgen_core.models.dream_queries import (
    DreamProjector,
    DreamProjectorParams,
    DreamQueries,
    DreamQueriesParams,
)
from mmgen_core.models.qwen_vit import QwenVit, QwenVitParams
from mmgen_core.models.sdxl_adapter import SdxlAdapter, SdxlAdapterParams
from mmgen_core.models.seed_x_agent import SeedXAgent, SeedXAgentParams

QUERIES = 4
WORDS = "a red blue cat dog sun sky the is on Question: Answer: [INST] [/INST]".split()
SEED_X_ADDED = [
    *(f"<img_{i:05}>" for i in range(QUERIES)),
    *("<img>", "</img>", "<patch>", "</patch>"),
    *(f"<loc-{i}>" for i in range(4)),
    *("<box_start>", "<box_end>"),
]
DREAM_ADDED = [
    *("[PAD]", "<image>", "<im_patch>", "<im_start>", "<im_end>"),
    *("<dream>", "<dream_start>", "<dream_end>"),
]


class TinyText:
    """A word is a token; what is unknown is left out."""

    def __init__(self, added: list[str]):
        names = ["<unk>", "<s>", "</s>", *WORDS, *added]
        self.vocabulary = {name: i for i, name in enumerate(names)}
        self.pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))

    def encode(self, text: str) -> list[int]:
        return [self.vocabulary[name] for name in self.pattern.findall(text)]

    def decode(self, ids) -> str:
        names = list(self.vocabulary)
        return " ".join(names[i] for i in ids)

    def id_of(self, name: str) -> int:
        return self.vocabulary[name]


def language_params(vocab: int, width: int = 32) -> DecoderParams:
    return DecoderParams(2, width, 2, 2, 48, vocab)


def language(vocab: int, seed: int = 0) -> Decoder:
    return randomise(Decoder(language_params(vocab)), seed)


VIT = QwenVitParams(1, 16, 2, 32, 4, 256, AttentionPoolParams(16, 24, 1, 16, 1e-6), image_size=24)
AGENT = SeedXAgentParams(
    AttentionPoolParams(QUERIES, 32, 2, 24), AttentionPoolParams(QUERIES, 24, 2, 32)
)
ADAPTER = SdxlAdapterParams(1, 16, 8, 6, 24, 32, (6, 10), 10, 2)
CLIP = ClipVisionParams(1, 16, 2, 32, 4, 17, (32,))


def vit(seed: int = 1) -> QwenVit:
    return randomise(QwenVit(VIT), seed)


def agent(seed: int = 2) -> SeedXAgent:
    return randomise(SeedXAgent(AGENT), seed)


def adapter(seed: int = 3) -> SdxlAdapter:
    return randomise(SdxlAdapter(ADAPTER), seed)


def clip(seed: int = 4) -> ClipVision:
    return randomise(ClipVision(CLIP), seed)


def dream_queries(seed: int = 5) -> DreamQueries:
    return randomise(DreamQueries(DreamQueriesParams(QUERIES, 32)), seed)


def projector(seed: int = 6) -> DreamProjector:
    return randomise(DreamProjector(DreamProjectorParams((32, 12))), seed)


def picture(height: int = 20, width: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))
