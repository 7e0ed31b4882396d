"""Unified-IO 2 (Lu et al. 2023, arXiv 2312.17172): one encoder-decoder for text and pictures.

Public files: huggingface.co/allenai/uio2-{large,xl,xxl}[-bfloat16], ``pytorch_model.bin``; code
Apache-2.0, the weights name no licence. A file holds the transformer and the image tokenizer.
Audio is left out: no node of this pack makes or reads sound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint
from ..models.encoder_decoder import StackParams
from ..models.unified_io_2 import UnifiedIO2, UnifiedIO2Params, image_blocks
from ..models.unified_io_2_vision import ResamplerParams, VisionParams
from .unified_io_system import unified_io_2_system
from .var import count_of

ORIGIN = "https://huggingface.co/allenai/uio2-large (also -xl, -xxl, and -bfloat16 of each)"
LICENCE = "not stated for the weights; code Apache-2.0"
VIT = "input_embedders.image.image_encoder.vision_transformer."
RESAMPLER = "input_embedders.image_history.resampler.perceiver."
VQGAN = "target_embedders.image.vqgan."
CODEBOOK = f"{VQGAN}quantize.embedding.weight"
MARKER = "input_embedders.image_history.modality_embedding"


def recognise(checkpoint: Checkpoint) -> UnifiedIO2Params | None:
    """Sizes of a Unified-IO 2 file; grids and the ViT's heads by its config or as published."""
    shapes, config = checkpoint.shapes, checkpoint.config
    if (
        MARKER not in shapes
        or "decoder.layers_0.encoder_decoder_attention.query.weight" not in shapes
    ):
        return None
    t5 = part_of(config, "t5_config")
    text_vocab, width = shapes["text_token_embedder.weight"]
    head_size = shapes["decoder.layers_0.self_attention.query_norm.scale"][0]
    stack = StackParams(
        width=width,
        heads=shapes["decoder.layers_0.self_attention.query.weight"][0] // head_size,
        head_size=head_size,
        mlp_width=shapes["decoder.layers_0.mlp.wi_0.weight"][0],
        encoder_depth=count_of(shapes, r"encoder\.layers_(\d+)\."),
        decoder_depth=count_of(shapes, r"decoder\.layers_(\d+)\."),
        rotary=True,
        tanh_gelu=False,
    )
    image_patch, target_patch = t5.get("image_vit_patch_size", 16), _target_patch(shapes)
    return UnifiedIO2Params(
        stack=stack,
        vision=_vision(shapes, part_of(config, "image_vit_cfg")),
        history=_resampler(shapes, part_of(config, "image_history_cfg")),
        text_vocab=text_vocab,
        image_vocab=shapes["image_token_embedder.weight"][0],
        codes=shapes[CODEBOOK][0],
        grid=_grid(t5, "default_image_vit_size", 384, image_patch),
        history_grid=_grid(t5, "default_image_history_vit_size", 256, image_patch),
        target_grid=_grid(t5, "default_image_size", 256, target_patch),
        text_limit=t5.get("encoder_max_text_length", 512),
        stride=target_patch,
    )


def part_of(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of a config; empty where it has none, as another model's file beside has."""
    part = config.get(key)
    return part if isinstance(part, Mapping) else {}


def _grid(t5: Mapping[str, Any], key: str, published: int, patch: int) -> tuple[int, int]:
    rows, columns = t5.get(key, (published, published))
    return rows // patch, columns // patch


def _target_patch(shapes: Shapes) -> int:
    """Pixels per code: the tokenizer halves a picture once per level but the last."""
    return 2 ** (count_of(shapes, VQGAN.replace(".", r"\.") + r"encoder\.down_(\d+)_") - 1)


def _vision(shapes: Shapes, config: Mapping[str, Any]) -> VisionParams:
    width, patch_values = shapes[f"{VIT}embedding.weight"]
    return VisionParams(
        depth=count_of(shapes, VIT.replace(".", r"\.") + r"transformer\.resblocks\.(\d+)\."),
        width=width,
        heads=config.get("num_heads", width // 64),
        mlp_width=shapes[f"{VIT}transformer.resblocks.0.mlp.fc1.weight"][0],
        patch_values=patch_values,
        positions=shapes[f"{VIT}positional_embedding"][0],
    )


def _resampler(shapes: Shapes, config: Mapping[str, Any]) -> ResamplerParams:
    attention = f"{RESAMPLER}layers_0.xattention."
    latents, width = shapes[f"{RESAMPLER}latents"]
    inner = shapes[f"{attention}query.weight"][0]
    cosine = f"{attention}logit_scale" in shapes
    if cosine:
        heads = shapes[f"{attention}logit_scale"][0]
    else:
        heads = inner // shapes[f"{attention}query_norm.scale"][0]
    return ResamplerParams(
        depth=count_of(shapes, RESAMPLER.replace(".", r"\.") + r"layers_(\d+)\."),
        width=width,
        heads=heads,
        head_size=inner // heads,
        mlp_width=shapes[f"{RESAMPLER}layers_0.mlp.wi.weight"][0],
        latents=latents,
        scaled_cosine=cosine,
        frames=config.get("max_frames", 8),
    )


_WHOLE = {
    "text_token_embedder.weight": "text_embed.weight",
    "image_token_embedder.weight": "image_embed.weight",
    "input_embedders.text.modality_embedding": "modality.text",
    "input_embedders.image.modality_embedding": "modality.image",
    MARKER: "modality.history",
    "target_embedders.text.modality_embedding": "modality.text_target",
    "target_embedders.image.modality_embedding": "modality.image_target",
    "input_embedders.image.projection.weight": "image_project.weight",
    "input_embedders.image_history.pre_projection.weight": "history_project.weight",
    "input_embedders.image_history.post_projection.weight": "history_out.weight",
    f"{VIT}class_embedding": "vision.class_embed",
    f"{VIT}positional_embedding": "vision.position.weight",
    f"{VIT}embedding.weight": "vision.patch.weight",
    f"{RESAMPLER}latents": "resampler.latents.weight",
}
_PARTS = (
    (VIT, "vision."),
    (RESAMPLER, "resampler."),
    ("transformer.resblocks.", "blocks."),
    ("pre_ln.", "norm."),
    (".ln_1.", ".norm_1."),
    (".ln_2.", ".norm_2."),
    (".attn.query_in_proj_", ".q."),
    (".attn.key_in_proj_", ".k."),
    (".attn.value_in_proj_", ".v."),
    (".attn.out_proj.", ".o."),
    (".mlp.fc1.", ".up."),
    (".mlp.fc2.", ".down."),
    ("layers_", "layers."),
    (".pre_xattention_norm.", ".norm."),
    (".pre_attention_norm.", ".attention_norm."),
    (".pre_self_attention_norm.", ".attention_norm."),
    (".pre_cross_attention_norm.", ".cross_norm."),
    (".pre_mlp_norm.", ".mlp_norm."),
    (".encoder_decoder_attention.", ".cross."),
    (".self_attention.", ".attention."),
    (".xattention.", "."),
    (".query_norm.", ".q_norm."),
    (".key_norm.", ".k_norm."),
    (".query.", ".q."),
    (".key.", ".k."),
    (".value.", ".v."),
    (".out.", ".o."),
    (".mlp.wi.", ".up."),
    (".mlp.wi_0.", ".mlp.gate."),
    (".mlp.wi_1.", ".mlp.up."),
    (".mlp.wo.", ".mlp.down."),
    ("encoder.encoder_norm.", "encoder.norm."),
    ("decoder.decoder_norm.", "decoder.norm."),
    ("perceiver_norm.", "norm."),
)


def renamed(key: str) -> str:
    if key in _WHOLE:
        return _WHOLE[key]
    for theirs, ours in _PARTS:
        key = key.replace(theirs, ours)
    if key.startswith("resampler."):
        key = key.replace(".mlp.down.", ".down.")
    return re.sub(r"\.scale$", ".weight", key)


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames, and the embedding tables a second time, as output heads; the image tokenizer's
    codebook says where in the image table its codes end."""
    state = {renamed(key): tensor for key, tensor in tensors.items() if key != CODEBOOK}
    for kind in ("text", "image"):
        if f"{kind}_embed.weight" in state:
            state[f"{kind}_head.weight"] = state[f"{kind}_embed.weight"]
    if "image_head.weight" in state and CODEBOOK in tensors:
        table = state.pop("image_head.weight")
        sizes = image_blocks(len(table), len(tensors[CODEBOOK]))
        state |= {f"image_head.{i}.weight": t for i, t in enumerate(table.split_with_sizes(sizes))}
    return state


def publish(state: Mapping[str, Tensor], params: UnifiedIO2Params) -> dict[str, Tensor]:
    """The published layout (without audio and the image tokenizer) of a model."""
    back = {ours: theirs for theirs, ours in _WHOLE.items()}
    tensors = {}
    for key, tensor in state.items():
        if not key.startswith(("text_head.", "image_head.")):
            tensors[back.get(key) or _published(key)] = tensor.contiguous()
    return tensors


def _published(key: str) -> str:
    """The name whose conversion is ``key``."""
    part, rest = key.split(".", 1)
    if part == "vision":
        return _published_vision(rest)
    layer = re.fullmatch(r"layers\.(\d+)\.(.*)", rest)
    if layer is None:
        names = {
            "norm.weight": "perceiver_norm.scale" if part == "resampler" else f"{part}_norm.scale"
        }
        names["context_norm.weight"] = "context_norm.scale"
        return (RESAMPLER if part == "resampler" else f"{part}.") + names[rest]
    prefix = RESAMPLER if part == "resampler" else f"{part}."
    return f"{prefix}layers_{layer[1]}.{_published_layer(part, layer[2])}"


_LETTERS = {"q": "query", "k": "key", "v": "value", "o": "out"}


def _published_layer(part: str, rest: str) -> str:
    names = rest.split(".")
    if part == "resampler":
        special = {"norm": "pre_xattention_norm.scale", "mlp_norm": "pre_mlp_norm.scale"}
        special |= {"up": "mlp.wi.weight", "down": "mlp.wo.weight"}
        if names[0] in special:
            return special[names[0]]
        return "xattention." + _published_attention(names)
    if names[0] == "mlp":
        return {"gate": "mlp.wi_0", "up": "mlp.wi_1", "down": "mlp.wo"}[names[1]] + ".weight"
    own = "attention" if part == "encoder" else "self_attention"
    blocks = {"attention": own, "cross": "encoder_decoder_attention"}
    if names[0] in blocks:
        return f"{blocks[names[0]]}.{_published_attention(names[1:])}"
    norms = {"attention_norm": f"pre_{own}_norm", "cross_norm": "pre_cross_attention_norm"}
    return norms.get(names[0], "pre_mlp_norm") + ".scale"


def _published_attention(names: list[str]) -> str:
    if names == ["logit_scale"]:
        return "logit_scale"
    letter, _, norm = names[0].partition("_")
    return f"{_LETTERS[letter]}_norm.scale" if norm else f"{_LETTERS[letter]}.weight"


def _published_vision(rest: str) -> str:
    names = rest.split(".")
    if names[0] == "norm":
        return f"{VIT}pre_ln.{names[1]}"
    block = f"{VIT}transformer.resblocks.{names[1]}."
    layers = {"norm_1": "ln_1.", "norm_2": "ln_2.", "up": "mlp.fc1.", "down": "mlp.fc2."}
    layers |= {"o": "attn.out_proj."}
    layers |= {s: f"attn.{_LETTERS[s]}_in_proj_" for s in "qkv"}
    return f"{block}{layers[names[2]]}{names[3]}"


TOKENIZER_REASON = "the image tokenizer's, which Load Image Tokenizer takes from the same file"
TOKENIZER_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
AUDIO_REASON = "sound is not made or read here"
ARCHITECTURES = (
    Architecture(
        name="Unified-IO 2",
        kind="next-token model",
        recognise=recognise,
        module=UnifiedIO2,
        convert=convert,
        publish=publish,
        system=unified_io_2_system,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={
            **{f"{VQGAN}{part}.*": TOKENIZER_REASON for part in TOKENIZER_PARTS},
            "audio_token_embedder.*": AUDIO_REASON,
            "input_embedders.audio.*": AUDIO_REASON,
            "input_embedders.audio_history.*": AUDIO_REASON,
            "target_embedders.audio.*": AUDIO_REASON,
        },
    ),
)
