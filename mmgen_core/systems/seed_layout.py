"""Names of SEED's published files and of our modules, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.vision_transformer import VisionTransformerParams
from ..tokenizers.seed import IMAGE_EMBEDDING, SeedTokenizerParams
from .var import joined_bias

VISION_PREFIX = "visual_encoder."
TABLES = {"cls_token", "pos_embed"}  # stored with a leading axis of one
QFORMERS = {"Qformer": "qformer", "Reverse_Qformer": "detokenizer.reverse"}
QUERIES = {"query_tokens": "qformer.queries", "reverse_tokens": "detokenizer.reverse.queries"}
# places within a BERT layer: file -> module; self-attention has k and v fused
_LAYER = {
    "attention.self.query": "attention.q",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention.norm",
    "crossattention.self.query": "cross.q",
    "crossattention.output.dense": "cross.out",
    "crossattention.output.LayerNorm": "cross.norm",
    "intermediate_query.dense": "feed.up",
    "output_query.dense": "feed.down",
    "output_query.LayerNorm": "feed.norm",
    "intermediate.dense": "text_feed.up",
    "output.dense": "text_feed.down",
    "output.LayerNorm": "text_feed.norm",
}
_FUSED = {"attention.self.key": "attention.kv", "crossattention.self.key": "cross.kv"}
_EMBEDDINGS = {
    "LayerNorm": "norm",
    "word_embeddings": "words",
    "position_embeddings": "positions",
}
_REST = {
    "quantize.embedding.": "embedding.",
    "blocks_image.": "detokenizer.blocks.",
    "blocks_text.": "detokenizer.blocks.",
    "distill_image_proj.": "detokenizer.project.",
    "distill_text_proj.": "detokenizer.project.",
}


def convert_vision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix off, one bias for q, k, v."""
    inner = {k.removeprefix(VISION_PREFIX): v for k, v in tensors.items() if VISION_PREFIX in k}
    tensors, state = inner or tensors, {}
    for key, tensor in tensors.items():
        if key in TABLES:
            state[f"{key}.weight"] = tensor[0]
        elif key.endswith("attn.q_bias"):
            stem = key.removesuffix("q_bias")
            state[f"{stem}qkv.bias"] = joined_bias(tensors, stem, "qkv")
        elif not key.endswith("attn.v_bias"):
            state[key] = tensor
    return state


def publish_vision(
    state: Mapping[str, Tensor], params: VisionTransformerParams
) -> dict[str, Tensor]:
    """The layout of eva_vit_g.pth.

    Raises:
        ValueError: the key part of a qkv bias is not zero; the layout has no place for it.
    """
    tensors = {}
    for key, tensor in state.items():
        if key.removesuffix(".weight") in TABLES:
            tensors[key.removesuffix(".weight")] = tensor[None]
        elif key.endswith("attn.qkv.bias"):
            q, k, v = tensor.chunk(3)
            if k.any():
                raise ValueError(f"The key part of {key} must be zero to be published.")
            stem = key.removesuffix("qkv.bias")
            tensors |= {f"{stem}q_bias": q, f"{stem}v_bias": v}
        else:
            tensors[key] = tensor
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def convert_qformer(tensors: Mapping[str, Tensor], file: str, module: str) -> dict[str, Tensor]:
    """The tensors under ``file`` (a Q-Former in LAVIS's layout) as those of our ``module``."""
    state = {}
    for key, tensor in tensors.items():
        if not key.startswith(f"{file}.bert."):
            continue
        place, kind = key.removeprefix(f"{file}.bert.").rsplit(".", 1)
        parts = place.split(".", 3)
        if parts[0] == "embeddings":
            state[f"{module}.{_EMBEDDINGS[parts[1]]}.{kind}"] = tensor
            continue
        layer, name = f"{module}.layers.{parts[2]}", parts[3]
        if name in _FUSED:
            value = tensors[key.replace(".key.", ".value.")]
            state[f"{layer}.{_FUSED[name]}.{kind}"] = torch.cat([tensor, value])
        elif name in _LAYER:
            state[f"{layer}.{_LAYER[name]}.{kind}"] = tensor
    return state


def publish_qformer(state: Mapping[str, Tensor], file: str, module: str) -> dict[str, Tensor]:
    """The way back: the tensors of our ``module`` in LAVIS's layout under ``file``."""
    layer_names = {ours: theirs for theirs, ours in {**_LAYER, **_FUSED}.items()}
    embedding_names = {ours: theirs for theirs, ours in _EMBEDDINGS.items()}
    tensors = {}
    for key, tensor in state.items():
        if not key.startswith(f"{module}.") or key == f"{module}.queries.weight":
            continue
        place, kind = key.removeprefix(f"{module}.").rsplit(".", 1)
        if not place.startswith("layers."):
            tensors[f"{file}.bert.embeddings.{embedding_names[place]}.{kind}"] = tensor
            continue
        _, number, name = place.split(".", 2)
        full = f"{file}.bert.encoder.layer.{number}.{layer_names[name]}.{kind}"
        if name.endswith(".kv"):
            k, v = tensor.chunk(2)
            tensors |= {full: k, full.replace(".key.", ".value."): v}
        else:
            tensors[full] = tensor
    return tensors


def convert_first_stage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = convert_qformer(tensors, "Qformer", "qformer")
    for key, tensor in tensors.items():
        if key == "query_tokens":
            state["qformer.queries.weight"] = tensor[0]
        elif not key.startswith("Qformer."):
            state[key] = tensor
    return state


def publish_first_stage(state: Mapping[str, Tensor], params: Any) -> dict[str, Tensor]:
    """The layout that the public training code writes after its first stage."""
    tensors = publish_qformer(state, "Qformer", "qformer")
    for key, tensor in state.items():
        if key == "qformer.queries.weight":
            tensors["query_tokens"] = tensor[None]
        elif not key.startswith("qformer."):
            tensors[key] = tensor
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def convert_tokenizer(tensors: Mapping[str, Tensor], generation: int) -> dict[str, Tensor]:
    kind = "image" if generation == IMAGE_EMBEDDING else "text"
    state = {}
    for file, module in QFORMERS.items():
        state |= convert_qformer(tensors, file, module)
    for key, tensor in tensors.items():
        if key in QUERIES:
            state[f"{QUERIES[key]}.weight"] = tensor[0]
        elif key == f"pos_embed_{kind}":
            state["detokenizer.pos_embed.weight"] = tensor[0]
        elif found := re.fullmatch(r"image_down\.(\d+)\.weight", key):
            state[f"detokenizer.down.{int(found[1]) // 2}.weight"] = tensor
        elif not key.startswith(tuple(f"{file}." for file in QFORMERS)):
            for theirs, ours in _REST.items():
                key = ours + key.removeprefix(theirs) if key.startswith(theirs) else key
            state[key] = tensor
    return state


def publish_tokenizer(
    state: Mapping[str, Tensor], params: SeedTokenizerParams
) -> dict[str, Tensor]:
    """The layout of seed_quantizer.pt (SEED-2), or of SEED-1's two files together."""
    kind = "image" if params.generation == IMAGE_EMBEDDING else "text"
    back = {
        "embedding.": "quantize.embedding.",
        "detokenizer.blocks.": f"blocks_{kind}.",
        "detokenizer.project.": f"distill_{kind}_proj.",
    }
    queries = {ours: theirs for theirs, ours in QUERIES.items()}
    tensors = {}
    for file, module in QFORMERS.items():
        tensors |= publish_qformer(state, file, module)
    for key, tensor in state.items():
        if (place := key.removesuffix(".weight")) in queries:
            tensors[queries[place]] = tensor[None]
        elif key == "detokenizer.pos_embed.weight":
            tensors[f"pos_embed_{kind}"] = tensor[None]
        elif found := re.fullmatch(r"detokenizer\.down\.(\d+)\.weight", key):
            tensors[f"image_down.{2 * int(found[1])}.weight"] = tensor
        elif not key.startswith(tuple(f"{module}." for module in QFORMERS.values())):
            for ours, theirs in back.items():
                key = theirs + key.removeprefix(ours) if key.startswith(ours) else key
            tensors[key] = tensor
    return {key: tensor.contiguous() for key, tensor in tensors.items()}
