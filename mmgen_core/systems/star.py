"""STAR (Ma et al. 2024, arXiv 2406.10797): next-scale pictures of texts, 256 to 1024 px.

Public files: huggingface.co/taocrayon/STAR (code: MIT). The tokenizer is VAR's. The text encoder
is that of Stable Diffusion 2.1 (OpenCLIP ViT-H, 23 layers, width 1024).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture
from ..checkpoints.files import Checkpoint
from ..models.clip_text import ClipText, ClipTextParams
from ..models.scale_attention import RotaryParams
from ..models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from ..tokenizers.multiscale_vq import PUBLISHED_SCALES
from .var import count_of, joined_bias

REFINE_FROM = 9  # published; the file does not tell


def recognise(checkpoint: Checkpoint) -> ScaleTransformerParams | None:
    """Sizes of a STAR file, by its cross-attention and text projection."""
    shapes, config = checkpoint.shapes, checkpoint.config
    if "encoder_proj.weight" not in shapes or "blocks.0.cross_attn.mat_q.weight" not in shapes:
        return None
    width, text_width = shapes["encoder_proj.weight"]
    qk_norm = "blocks.0.attn.scale_mul_1H11" in shapes
    heads = shapes["blocks.0.attn.scale_mul_1H11"][1] if qk_norm else width // 64
    rotary = RotaryParams(config.get("rope_theta", 10000.0), config.get("rope_norm", 64.0))
    refiner = "head_proj.weight" in shapes
    return ScaleTransformerParams(
        depth=count_of(shapes, r"blocks\.(\d+)\."),
        width=width,
        heads=config.get("num_heads", heads),
        vocab=shapes["head_logits.weight"][0],
        code_channels=shapes["word_embed.weight"][1],
        scales=_scales(checkpoint),
        qk_norm=qk_norm,
        mlp_ratio=shapes["blocks.0.ffn.fc1.weight"][0] / width,
        text_width=text_width,
        rotary=None if "pos_1LC" in shapes else rotary,
        head_norm=config.get("enable_logit_norm", True),
        refine_from=(config.get("sample_from_idx") or REFINE_FROM) if refiner else None,
        smooth_filtered=False,
        codebook=config.get("codebook"),
    )


def _scales(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The schedule: from the snapshot's config, else by the number of levels. The 256 and 512 px
    files differ in nothing but their name then."""
    if "patch_nums" in checkpoint.config:
        return tuple(checkpoint.config["patch_nums"])
    if checkpoint.shapes["lvl_embed.weight"][0] == len(PUBLISHED_SCALES[64]):
        return PUBLISHED_SCALES[64]
    named_512 = re.search(r"(?<!\d)512(?!\d)", checkpoint.path.name)
    return PUBLISHED_SCALES[32 if named_512 else 16]


_RENAMED = {
    "feat_extract_blocks.": "refiner.blocks.",
    "encoder_proj2.": "refiner.text_proj.",
    "pos_start_last": "refiner.pos_start",
    "word_embed_head.": "refiner.word_embed.",
    "lvl_embed_2.": "refiner.lvl_embed.",
    "head_proj.": "refiner.join.",
    "head_logits2.": "refiner.head.",
    "encoder_proj.": "text_proj.",
    "head_logits.": "head.",
    "attn.mat_qkv.": "attn.qkv.",
    "cross_attn.mat_q.": "cross_attn.q.",
    "cross_attn.mat_kv.": "cross_attn.kv.",
    "cross_attn.q_bias": "cross_attn.q.bias",
}


def renamed(key: str) -> str:
    for theirs, ours in _RENAMED.items():
        key = key.replace(theirs, ours)
    return key


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames, and one bias for fused layers."""
    state = {}
    for key, tensor in tensors.items():
        stem = key.removesuffix("v_bias")
        if key == "pos_1LC":
            state["pos_embed.weight"] = tensor[0]
        elif key.endswith("cross_attn.v_bias"):
            state[f"{stem}kv.bias"] = joined_bias(tensors, stem, "kv")
        elif key.endswith(".attn.v_bias"):
            state[f"{renamed(stem)}qkv.bias"] = joined_bias(tensors, stem, "qkv")
        elif not key.endswith(".attn.q_bias"):
            state[renamed(key)] = tensor
    return state


def publish(state: Mapping[str, Tensor], params: ScaleTransformerParams) -> dict[str, Tensor]:
    """The published layout of a base model (without refiner) trained here.

    Raises:
        ValueError: the key part of a fused bias is not zero; the layout has no place for it.
    """
    tensors = {}
    theirs = {ours: file for file, ours in _RENAMED.items() if not ours.startswith("refiner.")}
    for key, tensor in state.items():
        if key.endswith((".qkv.bias", ".kv.bias")):
            fused = "qkv" if key.endswith("qkv.bias") else "kv"
            parts = dict(zip(fused, tensor.chunk(len(fused)), strict=True))
            if parts["k"].any():
                raise ValueError(f"The key part of {key} must be zero to be published.")
            stem = key.removesuffix(f"{fused}.bias")
            tensors |= {f"{stem}{p}_bias": part for p, part in parts.items() if p != "k"}
            tensors[f"{stem}zero_k_bias"] = parts["k"]
            continue
        if key == "pos_embed.weight":
            tensors["pos_1LC"] = tensor[None].contiguous()
            continue
        for ours, file in theirs.items():
            if key.startswith(ours) or f".{ours}" in key:
                key = key.replace(ours, file)
                break
        tensors[key] = tensor
    tensors["class_emb.weight"] = torch.zeros(1, params.width)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def recognise_text_encoder(checkpoint: Checkpoint) -> ClipTextParams | None:
    """Sizes of a CLIP text model in transformers' layout, with or without its prefix."""
    shapes, config = checkpoint.shapes, checkpoint.config
    shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
    if "embeddings.token_embedding.weight" not in shapes:
        return None
    vocab, width = shapes["embeddings.token_embedding.weight"]
    return ClipTextParams(
        depth=count_of(shapes, r"encoder\.layers\.(\d+)\."),
        width=width,
        heads=config.get("num_attention_heads", width // 64),
        hidden=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        vocab=vocab,
        positions=shapes["embeddings.position_embedding.weight"][0],
        quick_gelu=config.get("hidden_act", "gelu") == "quick_gelu",
        end_id=config.get("eos_token_id", 2),
    )


def convert_text_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        re.sub(r"^(text_model\.)?(embeddings|encoder)?\.?", "", k): v for k, v in tensors.items()
    }


def publish_text_encoder(state: Mapping[str, Tensor], params: ClipTextParams) -> dict[str, Tensor]:
    """The layout with prefix, as files have it and the host's loader reads it."""

    def named(key: str) -> str:
        place = {"layers": "encoder.", "token_embedding": "embeddings."}
        place["position_embedding"] = "embeddings."
        return f"text_model.{place.get(key.split('.')[0], '')}{key}"

    return {named(key): tensor.contiguous() for key, tensor in state.items()}


ARCHITECTURES = (
    Architecture(
        name="CLIP text encoder",
        kind="text encoder",
        recognise=recognise_text_encoder,
        module=ClipText,
        convert=convert_text_encoder,
        publish=publish_text_encoder,
        licence="CreativeML Open RAIL++-M (Stable Diffusion 2.1)",
        origin="https://huggingface.co/taocrayon/STAR",
        ignored={"*.position_ids": "a row of consecutive numbers"},
    ),
    Architecture(
        name="STAR transformer",
        kind="scale model",
        recognise=recognise,
        module=ScaleTransformer,
        convert=convert,
        publish=publish,
        licence="MIT (of the code; the weights name none)",
        origin="https://huggingface.co/taocrayon/STAR",
        ignored={
            "class_emb.weight": "left over from VAR; the text takes its place",
            "*.zero_k_bias": "zeros",
            "lvl_1L": "the level index of every position, implied by the schedule",
            "attn_bias_for_masking": "the teacher-forcing mask, implied by the schedule",
        },
    ),
)
