"""SEED-LLaMA (Ge et al. 2023, arXiv 2310.01218): a LLaMA that reads and writes SEED's tokens.

8B stands on Vicuna 7B v1.1, 14B on Llama-2-13B-chat. A picture is 34 ids: ``<img>``, 32 codes,
``</img>``. Public files: huggingface.co/AILab-CVC/seed-llama-{8b,14b}-{pretrain,sft}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture, Match
from ..checkpoints.files import Checkpoint
from ..models.decoder import Decoder, DecoderParams
from ..tokenizers.seed_text import PUBLISHED_CODES, SeedText, code_name
from ..tokenizers.text import (
    SENTENCEPIECE_NAMES,
    TokenizerError,
    added_tokens,
    find_text_tokenizer,
)
from . import llama
from .seed_llama_system import SeedLlamaSystem, Style

PUBLISHED_VOCAB = 32000 + PUBLISHED_CODES + 2
DEPTHS_14B = 40
EPS = {32: 1e-6, DEPTHS_14B: 1e-5}  # of the models it stands on, where no config says
CONTEXTS = {32: 2048, DEPTHS_14B: 4096}


def recognise(checkpoint: Checkpoint) -> DecoderParams | None:
    """Sizes of a LLaMA with SEED's vocabulary: of the published size, or as the config or the
    tokens beside the file say."""
    params = llama.recognise(checkpoint)
    codes = params and code_count(checkpoint, params.vocab)
    if not codes:
        return None
    first = checkpoint.config.get("image_id_shift", params.vocab - codes - 2)
    eps = checkpoint.config.get("rms_norm_eps", EPS.get(params.depth, params.norm_eps))
    blocks = (first, codes, params.vocab - first - codes)
    return replace(params, head_blocks=blocks, norm_eps=eps)


def code_count(checkpoint: Checkpoint, vocab: int) -> int:
    """Image codes of the vocabulary; 0 where it is no SEED vocabulary."""
    if "image_id_shift" in checkpoint.config:
        return checkpoint.config.get("num_codes", PUBLISHED_CODES)
    if vocab == PUBLISHED_VOCAB:
        return PUBLISHED_CODES
    try:
        added = added_tokens(find_text_tokenizer(checkpoint.path, names=SENTENCEPIECE_NAMES))
    except TokenizerError:
        return 0
    return sum(name.startswith("<img_") for name in added) if code_name(0) in added else 0


def converter(blocks: Sequence[int]) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """LLaMA's conversion with the head in its blocks."""

    def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = llama.convert(tensors)
        head = state.pop("head.0.weight", None)
        if head is not None:
            sizes = blocks if sum(blocks) == len(head) else (len(head),)
            state |= {f"head.{i}.weight": part for i, part in enumerate(head.split(list(sizes)))}
        return state

    return convert


def publish(state: Mapping[str, Tensor], params: DecoderParams) -> dict[str, Tensor]:
    heads = [state[f"head.{i}.weight"] for i in range(len(params.blocks))]
    rest = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    return llama.publish(rest | {"head.0.weight": torch.cat(heads)}, params)


def style_of(checkpoint: Checkpoint, params: DecoderParams) -> Style:
    """How the model was asked in training: by its config, else by its size and its name (files of
    the pretraining have "pretrain" in the name of the file or its folder)."""
    asked = checkpoint.config.get("prompt_style")
    if asked in set(Style):
        return Style(asked)
    if re.search("pretrain", f"{checkpoint.path.parent.name} {checkpoint.path.name}", re.I):
        return Style.PLAIN
    return Style.LLAMA2 if params.depth == DEPTHS_14B else Style.VICUNA


def system_of(
    match: Match, checkpoint: Checkpoint, folders: Sequence[Path] = ()
) -> SeedLlamaSystem:
    """
    Raises:
        TokenizerError: the text tokenizer is missing, or another model's.
    """
    path, params = checkpoint.path, match.params
    text = SeedText(find_text_tokenizer(path, folders, SENTENCEPIECE_NAMES), params.vocab)
    if len(text) > params.vocab or params.blocks[:2] != (text.first_code, text.codes):
        raise TokenizerError(
            f"{text.path} has {len(text)} tokens with {text.codes} image codes, {path.name} has "
            f"{params.vocab} ids. Put the tokenizer of this model beside it."
        )
    config: Mapping[str, Any] = checkpoint.config
    context = config.get("max_position_embeddings") or CONTEXTS.get(params.depth, 2048)
    style = style_of(checkpoint, params)
    return SeedLlamaSystem(text, params.vocab, style, context, path.name)


ARCHITECTURES = (
    Architecture(
        name="SEED-LLaMA",
        kind="next-token model",
        recognise=recognise,
        module=Decoder,
        convert=converter((PUBLISHED_VOCAB - PUBLISHED_CODES - 2, PUBLISHED_CODES, 2)),
        converter=lambda params: converter(params.blocks),
        publish=publish,
        system=system_of,
        licence="Llama 2 Community License; code Apache-2.0",
        origin="https://huggingface.co/AILab-CVC/seed-llama-8b-sft, seed-llama-14b-sft",
        ignored={"*.rotary_emb.inv_freq": "rotary frequencies, implied by the sizes"},
    ),
)
