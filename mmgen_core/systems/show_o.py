"""Show-o (Xie et al. 2024, arXiv 2408.12528): text by next token, pictures by unmasking.

Public files: huggingface.co/showlab/show-o and its relatives, tokenizer showlab/magvitv2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint
from ..tokenizers.lookup_free import (
    LevelParams,
    LookupFreeParams,
    LookupFreeTokenizer,
    lookup_free_fingerprint,
)

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
)
