"""Show-o (Xie et al. 2024, arXiv 2408.12528): text by next token, pictures by unmasking.

Public files: huggingface.co/showlab/show-o and its relatives, tokenizer showlab/magvitv2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint, CheckpointError
from ..models.decoder import DecoderParams
from ..models.show_o import SPECIALS, ShowO, ShowOParams
from ..tokenizers.lookup_free import (
    LevelParams,
    LookupFreeParams,
    LookupFreeTokenizer,
    lookup_free_fingerprint,
)
from .var import count_of

ORIGIN, LICENCE = "https://huggingface.co/showlab/show-o", "Apache-2.0"
TOKENIZER_ORIGIN = "https://huggingface.co/showlab/magvitv2"


def recognise_tokenizer(checkpoint: Checkpoint) -> LookupFreeParams | None:
    """Sizes of a MAGVIT-v2 file: its 1x1 convolutions lie inside encoder and decoder."""
    shapes = checkpoint.shapes
    outer = (
        "encoder.quant_conv.weight",
        "decoder.post_quant_conv.weight",
        "encoder.conv_in.weight",
    )
    if any(key not in shapes for key in outer):
        return None
    return LookupFreeParams(
        bits=shapes["encoder.conv_out.weight"][0],
        channels=shapes["encoder.conv_in.weight"][0],
        encoder=_encoder_levels(shapes),
        decoder=_decoder_levels(shapes),
        norm_groups=checkpoint.config.get("norm_num_groups", 32),
    )


def _blocks(shapes: Shapes, stem: str) -> tuple[int, int]:
    """How many residual blocks a level has, and its width (0 where it has none)."""
    blocks = 0
    while f"{stem}.block.{blocks}.conv1.weight" in shapes:
        blocks += 1
    return blocks, shapes[f"{stem}.block.0.conv1.weight"][0] if blocks else 0


def _encoder_levels(shapes: Shapes) -> tuple[LevelParams, ...]:
    """A level without blocks passes its input's width on, and one without any tensor is the
    coarsest."""
    width, levels = shapes["encoder.conv_in.weight"][0], []
    last = len([k for k in shapes if re.fullmatch(r"encoder\.down\.\d+\.downsample.*weight", k)])
    for i in range(last + 1):
        blocks, found = _blocks(shapes, f"encoder.down.{i}")
        width = found or width
        levels.append(LevelParams(width, blocks))
    return tuple(levels)


def _decoder_levels(shapes: Shapes) -> tuple[LevelParams, ...]:
    width, levels = shapes["decoder.conv_in.weight"][0], []
    last = len([k for k in shapes if re.fullmatch(r"decoder\.up\.\d+\.upsample.*weight", k)])
    for i in range(last, -1, -1):
        blocks, found = _blocks(shapes, f"decoder.up.{i}")
        width = found or width
        levels.append(LevelParams(width, blocks))
    return tuple(reversed(levels))


_RESAMPLE = re.compile(r"(encoder\.down|decoder\.up)\.(\d+)\.(downsample|upsample)\.")


def convert_tokenizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fuses q, k, v of the middle's attention; one name for what changes the resolution."""
    state = {}
    for key, tensor in tensors.items():
        if re.search(r"attn_1\.[kv]\.", key):
            continue
        if ".attn_1.q." in key:
            parts = [tensors[key.replace(".q.", f".{part}.")] for part in "qkv"]
            key, tensor = key.replace(".q.", ".qkv."), torch.cat(parts)
        state[_RESAMPLE.sub(r"\1.\2.resample.", key)] = tensor
    return state


def publish_tokenizer(state: Mapping[str, Tensor], params: LookupFreeParams) -> dict[str, Tensor]:
    """The published layout of a tokenizer trained here, saved buffers included."""
    powers = 2 ** torch.arange(params.bits - 1, -1, -1)
    codes = (torch.arange(params.vocab)[:, None] & powers != 0).float() * 2 - 1
    tensors = {"quantize.embedding": codes, "quantize.power_vals": powers}
    for key, tensor in state.items():
        change = "downsample" if key.startswith("encoder") else "upsample"
        key = key.replace(".resample.", f".{change}.")
        if ".qkv." in key:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            tensors |= {key.replace(".qkv.", f".{part}."): value for part, value in parts}
        else:
            tensors[key] = tensor
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


PUBLISHED_CODES, PUBLISHED_END_OF_TEXT = 8192, 50256


def recognise_model(checkpoint: Checkpoint) -> ShowOParams | None:
    """Sizes of a Show-o file. Its config.json says ``num_vq_tokens`` and ``codebook_size``;
    without one, the 256 px model is assumed. Own models add ``eos_token_id``,
    ``max_seq_length`` and ``codebook``."""
    shapes, config = checkpoint.shapes, checkpoint.config
    attention = "showo.model.layers.0.self_attn."
    if f"{attention}q_layernorm.weight" not in shapes:
        return None
    vocab, width = shapes["showo.model.embed_tokens.weight"]
    head_size = shapes[f"{attention}q_layernorm.weight"][0]
    codes = config.get("codebook_size", PUBLISHED_CODES)
    text_vocab = vocab - codes - 1 - SPECIALS
    if config.get("llm_vocab_size", text_vocab) != text_vocab:
        raise CheckpointError(
            f"{checkpoint.path.name} has {vocab} ids, its config says {config['llm_vocab_size']} "
            f"of text, {SPECIALS} special ones, {codes} codes and a mask. One of them is wrong."
        )
    llm = config.get("llm") or config.get("phi") or {}  # of the language model, where it is said
    decoder = DecoderParams(
        depth=count_of(shapes, r"showo\.model\.layers\.(\d+)\."),
        width=width,
        heads=width // head_size,
        kv_heads=width // head_size,
        mlp_width=shapes["showo.model.layers.0.mlp.fc1.weight"][0],
        vocab=vocab,
        head_blocks=(text_vocab + SPECIALS, codes, 1),
        norm="layer",
        norm_eps=llm.get("layer_norm_eps", 1e-5),
        qk_norm="shared",
        rotary_share=llm.get("partial_rotary_factor", 0.5),
        rotary_base=llm.get("rope_theta", 10000.0),
        gated=False,
        parallel=True,
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )
    end = PUBLISHED_END_OF_TEXT if text_vocab > PUBLISHED_END_OF_TEXT else text_vocab - 1
    return ShowOParams(
        decoder,
        text_vocab,
        codes,
        image_tokens=config.get("num_vq_tokens", 256),
        prompt_tokens=config.get("max_seq_length", 128),
        end_of_text=config.get("eos_token_id", end),
        clip_width=shapes.get("mm_projector.0.weight", (0, 0))[1],
        codebook=config.get("codebook"),
    )


_NAMES = (
    ("showo.model.embed_tokens.", "decoder.embed."),
    ("showo.model.layers.", "decoder.layers."),
    ("showo.model.final_layernorm.", "decoder.norm."),
    ("mm_projector.0.", "projector.up."),
    ("mm_projector.2.", "projector.out."),
    (".self_attn.dense.", ".attention.o."),
    (".self_attn.q_layernorm.", ".attention.q_norm."),
    (".self_attn.k_layernorm.", ".attention.k_norm."),
    (".self_attn.q_proj.", ".attention.q."),
    (".self_attn.k_proj.", ".attention.k."),
    (".self_attn.v_proj.", ".attention.v."),
    (".mlp.fc1.", ".mlp.up."),
    (".mlp.fc2.", ".mlp.down."),
    (".input_layernorm.", ".attention_norm."),
)


def converter(codes: int) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Renames, and the head in three parts: text, image codes, mask."""

    def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = {}
        for key, tensor in tensors.items():
            if key.startswith("showo.lm_head."):
                sizes = (len(tensor) - codes - 1, codes, 1)
                name = key.removeprefix("showo.lm_head.")
                for block, part in enumerate(tensor.split(sizes)):
                    state[f"decoder.head.{block}.{name}"] = part
                continue
            for theirs, ours in _NAMES:
                key = key.replace(theirs, ours)
            state[key] = tensor
        return state

    return convert


def publish_model(state: Mapping[str, Tensor], params: ShowOParams) -> dict[str, Tensor]:
    """The published layout of a model trained here."""
    tensors = {}
    for name in ("weight", "bias"):
        parts = [state[f"decoder.head.{block}.{name}"] for block in range(3)]
        tensors[f"showo.lm_head.{name}"] = torch.cat(parts)
    for key, tensor in state.items():
        if not key.startswith("decoder.head."):
            for theirs, ours in _NAMES:
                key = key.replace(ours, theirs)
            tensors[key] = tensor.contiguous()
    return tensors


ARCHITECTURES = (
    Architecture(
        name="MAGVIT-v2 tokenizer",
        kind="image tokenizer",
        recognise=recognise_tokenizer,
        module=LookupFreeTokenizer,
        convert=convert_tokenizer,
        publish=publish_tokenizer,
        licence=LICENCE,
        origin=TOKENIZER_ORIGIN,
        ignored={
            "quantize.embedding": "the table of signs, implied by the ids' bits",
            "quantize.power_vals": "powers of two",
        },
        fingerprint=lookup_free_fingerprint,
    ),
    Architecture(
        name="Show-o transformer",
        kind="masked or flow model",
        recognise=recognise_model,
        module=ShowO,
        convert=converter(PUBLISHED_CODES),
        converter=lambda params: converter(params.codes),
        publish=publish_model,
        licence=LICENCE,
        origin=ORIGIN,
    ),
)
