"""VAR (Tian et al. 2024, arXiv 2404.02905): next-scale pictures of ImageNet classes.

Public files: huggingface.co/FoundationVision/var, MIT licence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint, CheckpointError
from ..models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from ..tokenizers.autoencoder import AutoencoderParams
from ..tokenizers.multiscale_vq import (
    PUBLISHED_SCALES,
    MultiScaleVQ,
    MultiScaleVQParams,
    codebook_fingerprint,
)

SCALES_BY_TOKENS = {sum(s * s for s in sides): sides for sides in PUBLISHED_SCALES.values()}
ORIGIN, LICENCE = "https://huggingface.co/FoundationVision/var", "MIT"


def recognise_tokenizer(checkpoint: Checkpoint) -> MultiScaleVQParams | None:
    """Sizes of a multi-scale VQ file. The config speaks the reference's argument names."""
    shapes, config = checkpoint.shapes, checkpoint.config
    phi = [k for k in shapes if re.fullmatch(r"quantize\.quant_resi\..*weight", k)]
    if not phi or "encoder.conv_in.weight" not in shapes or "quant_conv.weight" not in shapes:
        return None
    vocab, channels = shapes["quantize.embedding.weight"]
    levels = count_of(shapes, r"encoder\.down\.(\d+)\.")
    base = shapes["encoder.conv_in.weight"][0]
    widths = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    autoencoder = AutoencoderParams(
        channels=base,
        multipliers=tuple(width // base for width in widths),
        blocks=count_of(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=channels,
        norm_groups=config.get("norm_num_groups", 32),
    )
    return MultiScaleVQParams(
        autoencoder,
        vocab,
        phi_count=len(phi),
        phi_ratio=abs(config.get("quant_resi", 0.5)),
        cosine=config.get("using_znorm", False),
        scales=tuple(config.get("v_patch_nums", PUBLISHED_SCALES[16])),
    )


def recognise_transformer(checkpoint: Checkpoint) -> ScaleTransformerParams | None:
    """Sizes of a VAR transformer file, by its AdaLN head and class table."""
    shapes, config = checkpoint.shapes, checkpoint.config
    if "head_nm.ada_lin.1.weight" not in shapes or "class_emb.weight" not in shapes:
        return None
    classes, width = shapes["class_emb.weight"]
    qk_norm = "blocks.0.attn.scale_mul_1H11" in shapes
    depth = count_of(shapes, r"blocks\.(\d+)\.")
    heads = shapes["blocks.0.attn.scale_mul_1H11"][1] if qk_norm else width // 64
    return ScaleTransformerParams(
        depth=depth,
        width=width,
        heads=config.get("num_heads", heads),
        vocab=shapes["head.weight"][0],
        code_channels=shapes["word_embed.weight"][1],
        scales=_scales(checkpoint),
        classes=classes - 1,
        shared_adaln="shared_ada_lin.1.weight" in shapes,
        qk_norm=qk_norm,
        mlp_ratio=shapes["blocks.0.ffn.fc1.weight"][0] / width,
        codebook=config.get("codebook"),
    )


def _scales(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The schedule: config, else the saved level index of every position, else the published
    one with as many tokens."""
    if "patch_nums" in checkpoint.config:
        return tuple(checkpoint.config["patch_nums"])
    levels = checkpoint.tensors.get("lvl_1L")
    if levels is not None and not levels.is_meta:
        counts = torch.bincount(levels.flatten().long())
        return tuple(round(int(count) ** 0.5) for count in counts)
    tokens = checkpoint.shapes["pos_1LC"][1]
    if tokens not in SCALES_BY_TOKENS:
        raise CheckpointError(
            f"A schedule of {tokens} tokens is not a published one "
            f"({', '.join(map(str, SCALES_BY_TOKENS))}). Name it as patch_nums in a .json beside."
        )
    return SCALES_BY_TOKENS[tokens]


def count_of(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that the pattern's group finds."""
    return 1 + max(int(m[1]) for key in shapes if (m := re.match(pattern, key)))


def convert_tokenizer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``quant_resi.qresi_ls.k`` / ``quant_resi.qresi`` / ``quant_resi.s`` become ``phi.k``."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"quantize\.quant_resi\.(?:qresi_ls\.)?(\d+)\.", r"quantize.phi.\1.", key)
        renamed[key.replace("quantize.quant_resi.qresi.", "quantize.phi.0.")] = tensor
    return renamed


def publish_tokenizer(state: Mapping[str, Tensor], params: MultiScaleVQParams) -> dict[str, Tensor]:
    return {
        k.replace("quantize.phi.", "quantize.quant_resi.qresi_ls."): v for k, v in state.items()
    }


def joined_bias(tensors: Mapping[str, Tensor], stem: str, parts: str) -> Tensor:
    """One bias for fused q, k, v layers: ``parts`` is "qkv" or "kv"; the key's is zero."""
    v = tensors[f"{stem}v_bias"]
    return torch.cat(
        [torch.zeros_like(v) if p == "k" else tensors[f"{stem}{p}_bias"] for p in parts]
    )


# file name -> module name, both ways
_RENAMED = {"ada_lin.1.": "ada_lin.", "head_nm.ada_lin.": "head_ada.", "attn.mat_qkv.": "attn.qkv."}


def convert_transformer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames, and one bias for q, k, v."""
    state = {}
    for key, tensor in tensors.items():
        if key == "pos_1LC":
            state["pos_embed.weight"] = tensor[0]
        elif key.endswith("attn.q_bias"):
            stem = key.removesuffix("q_bias")
            state[f"{stem}qkv.bias"] = joined_bias(tensors, stem, "qkv")
        elif not key.endswith("attn.v_bias"):
            for theirs, ours in _RENAMED.items():
                key = key.replace(theirs, ours)
            state[key] = tensor
    return state


def publish_transformer(
    state: Mapping[str, Tensor], params: ScaleTransformerParams
) -> dict[str, Tensor]:
    """The published layout of a module trained here, saved buffers included.

    Raises:
        ValueError: the key part of a qkv bias is not zero; the layout has no place for it.
    """
    counts = torch.tensor(params.tokens_per_scale)
    levels = torch.arange(len(counts)).repeat_interleave(counts)
    tensors = {"lvl_1L": levels[None]}
    for key, tensor in state.items():
        if key == "pos_embed.weight":
            tensors["pos_1LC"] = tensor[None]
        elif key.endswith("attn.qkv.bias"):
            q, k, v = tensor.chunk(3)
            if k.any():
                raise ValueError(f"The key part of {key} must be zero to be published.")
            stem = key.removesuffix("qkv.bias")
            tensors |= {f"{stem}q_bias": q, f"{stem}zero_k_bias": k, f"{stem}v_bias": v}
        else:
            key = key.replace("attn.qkv.", "attn.mat_qkv.").replace("head_ada.", "head_nm.ada_lin.")
            tensors[re.sub(r"ada_lin\.(?=weight|bias)", "ada_lin.1.", key)] = tensor
    return {k: v.contiguous() for k, v in tensors.items()}


ARCHITECTURES = (
    Architecture(
        name="VAR multi-scale VQ tokenizer",
        kind="image tokenizer",
        recognise=recognise_tokenizer,
        module=MultiScaleVQ,
        convert=convert_tokenizer,
        publish=publish_tokenizer,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={"quantize.ema_vocab_hit_SV": "a training statistic of code usage"},
        fingerprint=lambda state: codebook_fingerprint(state["quantize.embedding.weight"]),
    ),
    Architecture(
        name="VAR transformer",
        kind="scale model",
        recognise=recognise_transformer,
        module=ScaleTransformer,
        convert=convert_transformer,
        publish=publish_transformer,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={
            "lvl_1L": "the level index of every position, implied by the schedule",
            "attn_bias_for_masking": "the teacher-forcing mask, implied by the schedule",
            "blocks.*.attn.zero_k_bias": "zeros",
        },
    ),
)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet-1k class names in label order."""
    data = json.loads((Path(__file__).parent / "data" / "imagenet_classes.json").read_text("utf-8"))
    return tuple(data["classes"])


def class_names(params: ScaleTransformerParams, config: dict[str, Any]) -> tuple[str, ...]:
    """Names of a model's classes: its config's own, ImageNet's for 1,000, else numbers."""
    if "classes" in config:
        return tuple(config["classes"])
    if params.classes == 1000:
        return imagenet_classes()
    return tuple(f"class {i}" for i in range(params.classes))
