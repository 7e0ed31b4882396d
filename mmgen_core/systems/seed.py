"""SEED (Ge et al. 2023, arXiv 2307.08041, 2310.01218): its vision transformer and tokenizers.

A tokenizer comes in two files (SEED-2: seed_quantizer.pt and eva_vit_g.pth) or three (SEED-1:
causal_qformer.pth, seed_tokenizer.pth, eva_vit_g.pth). The files hold more than is used, under
names that were never listed, so what is used is listed here instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint, CheckpointError
from ..conditioners.reverse_qformer import HEADS, DetokenizerParams
from ..models.qformer import QFormerParams
from ..models.vision_transformer import VisionTransformer, VisionTransformerParams
from ..tokenizers.seed import (
    IMAGE_EMBEDDING,
    TEXT_FEATURES,
    SeedTokenizer,
    SeedTokenizerParams,
    codebook_fingerprint,
)
from ..tokenizers.seed_contrast import SeedContrast, SeedContrastParams
from .seed_layout import (
    VISION_PREFIX,
    convert_first_stage,
    convert_tokenizer,
    convert_vision,
    publish_first_stage,
    publish_tokenizer,
    publish_vision,
)
from .var import count_of

VISION_LAYERS = 39  # of EVA-CLIP's 40; the last is never used
LICENCE, ORIGIN = "Apache-2.0", "https://huggingface.co/AILab-CVC/seed-tokenizer-2"


def recognise_vision(checkpoint: Checkpoint) -> VisionTransformerParams | None:
    """Sizes of an EVA-CLIP ViT file, alone or as part of a complete tokenizer."""
    shapes, config = vision_shapes(checkpoint.shapes), checkpoint.config
    if not {"cls_token", "pos_embed", "blocks.0.attn.q_bias", "patch_embed.proj.weight"} <= {
        *shapes
    }:
        return None
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    depth = min(count_of(shapes, r"blocks\.(\d+)\."), VISION_LAYERS)
    return VisionTransformerParams(
        depth=config.get("vit_depth", depth),
        width=width,
        heads=config.get("vit_num_heads", max(1, width // 88)),
        hidden=shapes["blocks.0.mlp.fc1.weight"][0],
        patch=patch,
        grid=round((shapes["pos_embed"][1] - 1) ** 0.5),
    )


def vision_shapes(shapes: Shapes) -> Shapes:
    inner = {k.removeprefix(VISION_PREFIX): v for k, v in shapes.items() if VISION_PREFIX in k}
    return inner or shapes


def unused_block(key: str, params: VisionTransformerParams) -> bool:
    """Blocks of the original network after the last one that SEED uses."""
    found = re.match(r"(?:visual_encoder\.)?blocks\.(\d+)\.", key)
    return found is not None and int(found[1]) >= params.depth


def qformer_params(
    shapes: Shapes, stem: str, queries: str, heads: int, causal: bool
) -> QFormerParams:
    """Sizes of a Q-Former under ``stem``, its queries under the name ``queries``."""
    layer = f"{stem}.bert.encoder.layer."
    pattern = re.escape(layer) + r"(\d+)\."
    depth = count_of(shapes, pattern)
    reads = [i for i in range(depth) if f"{layer}{i}.crossattention.self.key.weight" in shapes]
    _, count, width = shapes[queries]
    return QFormerParams(
        depth=depth,
        width=width,
        heads=heads,
        hidden=shapes[f"{layer}0.intermediate_query.dense.weight"][0],
        queries=count,
        context_width=shapes[f"{layer}{reads[0]}.crossattention.self.key.weight"][1],
        cross_layers=tuple(reads),
        causal=causal,
    )


def recognise_tokenizer(checkpoint: Checkpoint, generation: int) -> SeedTokenizerParams | None:
    """Sizes of a SEED tokenizer, by its Q-Former, codebook and projection to the condition.

    The released SEED-2 file may hold unused parts with the names of SEED-1's; the reverse is
    not so. Only SEED's causal Q-Former has 32 queries; BERT's heads have 64 channels.
    """
    shapes, config = checkpoint.shapes, checkpoint.config
    needed = {"query_tokens", "quantize.embedding.weight", "encode_task_layer.0.weight"}
    if not needed <= {*shapes} or found_generation(shapes) != generation:
        return None
    if "Qformer.bert.encoder.layer.0.attention.self.query.weight" not in shapes:
        raise CheckpointError(
            f"{checkpoint.path.name} has the codebook and the way back of a SEED tokenizer, but no "
            f"Q-Former. Name its other file too: for SEED-1 causal_qformer.pth."
        )
    kind = "image" if generation == IMAGE_EMBEDDING else "text"
    heads = config.get("num_attention_heads", max(1, shapes["query_tokens"][2] // 64))
    qformer = qformer_params(shapes, "Qformer", "query_tokens", heads, causal=True)
    reverse = None
    if "reverse_tokens" in shapes and "image_down.0.weight" not in shapes:
        reverse = qformer_params(shapes, "Reverse_Qformer", "reverse_tokens", heads, causal=False)
    down = (shapes.get(f"image_down.{i}.weight", (0,))[0] for i in (0, 2, 4))
    vocab, code_width = shapes["quantize.embedding.weight"]
    width, _ = shapes["decode_task_layer.2.weight"]
    return SeedTokenizerParams(
        qformer=qformer,
        vocab=vocab,
        code_width=code_width,
        generation=generation,
        detokenizer=DetokenizerParams(
            codes=shapes[f"pos_embed_{kind}"][1],
            width=width,
            depth=count_of(shapes, rf"blocks_{kind}\.(\d+)\."),
            hidden=shapes[f"blocks_{kind}.0.mlp.fc1.weight"][0],
            heads=config.get("decode_block_heads", HEADS),
            condition_width=shapes[f"distill_{kind}_proj.weight"][0],
            reverse=reverse,
            down=() if reverse else tuple(down),
        ),
    )


def recognise_first_stage(checkpoint: Checkpoint) -> SeedContrastParams | None:
    """Sizes of what the first stage of training writes: a Q-Former that reads texts as well."""
    shapes, words = checkpoint.shapes, "Qformer.bert.embeddings.word_embeddings.weight"
    if not {"query_tokens", "vision_proj.weight", "text_proj.weight", words} <= {*shapes}:
        return None
    heads = checkpoint.config.get("num_attention_heads", max(1, shapes["query_tokens"][2] // 64))
    qformer = qformer_params(shapes, "Qformer", "query_tokens", heads, causal=True)
    positions = shapes["Qformer.bert.embeddings.position_embeddings.weight"][0]
    qformer = replace(qformer, vocab=shapes[words][0], positions=positions)
    return SeedContrastParams(qformer, shapes["vision_proj.weight"][0])


def found_generation(shapes: Shapes) -> int | None:
    for kind, generation in (("image", IMAGE_EMBEDDING), ("text", TEXT_FEATURES)):
        needed = {f"distill_{kind}_proj.weight", f"pos_embed_{kind}"}
        if needed <= {*shapes}:
            return generation
    return None


def joined_files(parts: Sequence[Checkpoint]) -> Checkpoint:
    """SEED-1's two tokenizer files as one, the later file's tensors replacing the earlier's."""
    tensors, config = {}, {}
    for part in parts:
        tensors |= part.tensors
        config |= part.config
    return replace(parts[-1], tensors=tensors, config=config)


def check_vision(
    vision: VisionTransformerParams, tokenizer: SeedTokenizerParams, names: tuple[str, str]
) -> None:
    """Raise CheckpointError unless the tokenizer reads states of this vision transformer."""
    if vision.width != tokenizer.qformer.context_width:
        raise CheckpointError(
            f"{names[0]} gives states of width {vision.width}, {names[1]} reads width "
            f"{tokenizer.qformer.context_width}. Use the vision transformer that belongs to the "
            f"tokenizer (for the public ones eva_vit_g.pth)."
        )


_QFORMER = (
    "{}.bert.embeddings.LayerNorm.*",
    "{}.bert.encoder.layer.*.attention.*",
    "{}.bert.encoder.layer.*.crossattention.*",
    "{}.bert.encoder.layer.*.intermediate_query.*",
    "{}.bert.encoder.layer.*.output_query.*",
)
_COMMON = (
    "query_tokens",
    "ln_vision.*",
    *(pattern.format("Qformer") for pattern in _QFORMER),
    "quantize.embedding.weight",
    "encode_task_layer.*",
    "decode_task_layer.*",
)
_REVERSE = ("reverse_tokens", *(pattern.format("Reverse_Qformer") for pattern in _QFORMER))
_NOTES = {
    "*.position_ids": "a row of consecutive numbers",
    "blocks.*": "rebuilds the Q-Former's states, for training only",
    "pos_embed": "positions of the blocks for training",
    "visual_encoder.*": "the vision transformer, which is loaded as a module of its own",
}


def _architecture(name: str, generation: int, used: tuple[str, ...], **more: Any) -> Architecture:
    return Architecture(
        name=name,
        kind="SEED tokenizer",
        recognise=lambda checkpoint: recognise_tokenizer(checkpoint, generation),
        module=SeedTokenizer,
        convert=lambda tensors: convert_tokenizer(tensors, generation),
        publish=publish_tokenizer,
        licence=LICENCE,
        ignored=_NOTES,
        used=(*_COMMON, *used),
        fingerprint=lambda state: codebook_fingerprint(state["embedding.weight"]),
        **more,
    )


ARCHITECTURES = (
    _architecture(
        "SEED-2 tokenizer",
        IMAGE_EMBEDDING,
        ("pos_embed_image", "blocks_image.*", "image_down.*", "distill_image_proj.*", *_REVERSE),
        origin=ORIGIN,
    ),
    _architecture(
        "SEED-1 tokenizer",
        TEXT_FEATURES,
        ("pos_embed_text", "blocks_text.*", "distill_text_proj.*", *_REVERSE),
        origin="https://github.com/AILab-CVC/SEED/blob/main/SEED-1.md",
    ),
    Architecture(
        name="SEED causal Q-Former",
        kind="first stage of a SEED tokenizer",
        recognise=recognise_first_stage,
        module=SeedContrast,
        convert=convert_first_stage,
        publish=publish_first_stage,
        licence=LICENCE,
        origin="https://github.com/AILab-CVC/SEED/tree/main/SEED_Tokenizer",
        ignored={
            "*.position_ids": "a row of consecutive numbers",
            "Qformer.cls.*": "BERT's word prediction, which the contrastive stage does not use",
            "itm_head.*": "BLIP-2's image-text matching, which this stage does not use",
            "visual_encoder.*": "the frozen vision transformer, a file of its own",
        },
    ),
    Architecture(
        name="EVA-CLIP vision transformer",
        kind="vision transformer",
        recognise=recognise_vision,
        module=VisionTransformer,
        convert=convert_vision,
        publish=publish_vision,
        licence="BSD-3-Clause (LAVIS)",
        origin="https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
        "eva_vit_g.pth",
        used=("cls_token", "pos_embed", "patch_embed.proj.*", "blocks.*", VISION_PREFIX + "*"),
        surplus=unused_block,
    ),
)
