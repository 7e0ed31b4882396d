"""DreamLLM (Dong et al. 2024, arXiv 2309.11499): a language model whose learned queries take the
place of the text encoder of Stable Diffusion 2.1.

Public files: huggingface.co/RunpeiDong/dreamllm-7b-chat-aesthetic-v1.0. Code Apache-2.0 with a use
policy; the weights inherit the conditions of Vicuna, LLaMA and Stable Diffusion 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..checkpoints.architecture import Architecture
from ..checkpoints.files import Checkpoint
from ..models.clip_vision import ClipVision, ClipVisionParams
from ..models.dream_queries import (
    DreamProjector,
    DreamProjectorParams,
    DreamQueries,
    DreamQueriesParams,
)
from .llama import renamed
from .var import count_of

ORIGIN = "https://huggingface.co/RunpeiDong/dreamllm-7b-chat-aesthetic-v1.0"
LICENCE = "conditions of LLaMA, Vicuna and Stable Diffusion 2.1 (OpenRAIL++-M)"
VISION_PREFIX = "clip_vision_model.vision_model."
CLIP_HEAD_SIZE = 64
VISION_FILE = "clip_vision_embedding.bin"
QUERIES_FILE = "dream_embedding.bin"
PROJECTOR_FILE = "stable_diffusion_head.bin"


def recognise_vision(checkpoint: Checkpoint) -> ClipVisionParams | None:
    """Sizes of the CLIP vision tower and its projector. The tower's last layer is not run: its
    states before it are what the projector takes."""
    shapes = checkpoint.shapes
    config = checkpoint.config.get("vision_config", {})  # beside it lies the language model's own
    table = f"{VISION_PREFIX}embeddings.position_embedding.weight"
    if table not in shapes or not any(key.startswith("projector.") for key in shapes):
        return None
    width, _, patch, _ = shapes[f"{VISION_PREFIX}embeddings.patch_embedding.weight"]
    first = f"{VISION_PREFIX}encoder.layers.0.mlp.fc1.weight"
    return ClipVisionParams(
        depth=count_of(shapes, re.escape(VISION_PREFIX) + r"encoder\.layers\.(\d+)\.") - 1,
        width=width,
        heads=config.get("num_attention_heads", width // CLIP_HEAD_SIZE),
        hidden=shapes[first][0],
        patch=patch,
        positions=shapes[table][0],
        output_widths=layer_widths(checkpoint, "projector."),
    )


def layer_widths(checkpoint: Checkpoint, prefix: str) -> tuple[int, ...]:
    """Output widths of a projector's layers: one, or several of a sequence with GELUs."""
    shapes = checkpoint.shapes
    names = [k for k in shapes if k.startswith(prefix) and k.endswith("weight")]
    return tuple(shapes[name][0] for name in sorted(names))


def recognise_queries(checkpoint: Checkpoint) -> DreamQueriesParams | None:
    shape = checkpoint.shapes.get("dream_queries")
    return DreamQueriesParams(*shape[-2:]) if shape and len(checkpoint.shapes) == 1 else None


def recognise_projector(checkpoint: Checkpoint) -> DreamProjectorParams | None:
    """Sizes of the condition projector: of the whole head file, or saved alone."""
    shapes = checkpoint.shapes
    own = {key for key in shapes if not key.startswith(("unet.", "vae."))}
    pattern = r"(projector\.){1,2}(\d\.)?weight|global_projector\.projector\.weight"
    if not own or not all(re.fullmatch(pattern, key) for key in own):
        return None
    widths = layer_widths(checkpoint, "projector.")
    first = min(key for key in own if key.startswith("projector."))
    pooled = shapes.get("global_projector.projector.weight", (0,))[0]
    return DreamProjectorParams((shapes[first][1], *widths), pooled)


_VISION_RENAMED = {
    f"{VISION_PREFIX}embeddings.class_embedding": "class_embedding.weight",
    f"{VISION_PREFIX}embeddings.": "",
    f"{VISION_PREFIX}pre_layrnorm.": "pre_norm.",
    f"{VISION_PREFIX}encoder.layers.": "layers.",
}


def convert_vision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames; the tower's last layer, which is never run, stays behind."""
    last = count_of(
        {key: () for key in tensors}, re.escape(VISION_PREFIX) + r"encoder\.layers\.(\d+)\."
    )
    unused = f"{VISION_PREFIX}encoder.layers.{last - 1}."
    state = {
        projector_key(renamed(key, _VISION_RENAMED), "projector."): tensor
        for key, tensor in tensors.items()
        if not key.startswith(unused)
    }
    state["class_embedding.weight"] = state["class_embedding.weight"].reshape(1, -1)
    return state


def projector_key(key: str, ours: str) -> str:
    """``projector.projector.weight`` (one layer) or ``projector.projector.2.weight`` (the second
    of two, after a GELU) as the layer's number in a list."""
    found = re.fullmatch(r"(?:projector\.){1,2}(?:(\d+)\.)?(weight|bias)", key)
    return f"{ours}{int(found[1] or 0) // 2}.{found[2]}" if found else key


def published_key(key: str, ours: str, count: int) -> str:
    """The way back of ``projector_key``, of ``count`` layers."""
    found = re.fullmatch(rf"{re.escape(ours)}(\d+)\.(weight|bias)", key)
    if not found:
        return key
    return f"projector.projector.{f'{2 * int(found[1])}.' if count > 1 else ''}{found[2]}"


def publish_vision(state: Mapping[str, Tensor], params: ClipVisionParams) -> dict[str, Tensor]:
    """The published layout; the layer that is never run is a copy of the one before it."""
    tensors = {}
    for key, tensor in state.items():
        name = published_key(key, "projector.", len(params.output_widths))
        if name == key:
            place = {"layers": "encoder.", "pre_norm": ""}.get(key.split(".")[0], "embeddings.")
            name = VISION_PREFIX + place + key.replace("pre_norm.", "pre_layrnorm.")
        tensors[name.replace("class_embedding.weight", "class_embedding")] = tensor
        if key.startswith(f"layers.{params.depth - 1}."):
            unused = key.replace(f".{params.depth - 1}.", f".{params.depth}.", 1)
            tensors[f"{VISION_PREFIX}encoder.{unused}"] = tensor.clone()
    table = f"{VISION_PREFIX}embeddings.class_embedding"
    tensors[table] = tensors[table].flatten()
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def convert_queries(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"queries.weight": tensors["dream_queries"].flatten(0, -2)}


def publish_queries(state: Mapping[str, Tensor], params: DreamQueriesParams) -> dict[str, Tensor]:
    return {"dream_queries": state["queries.weight"][None].contiguous()}


def convert_projector(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {k.replace("global_projector.projector.", "pooled."): v for k, v in tensors.items()}
    return {projector_key(key, "layers."): tensor for key, tensor in named.items()}


def publish_projector(
    state: Mapping[str, Tensor], params: DreamProjectorParams
) -> dict[str, Tensor]:
    count = len(params.widths) - 1
    named = {published_key(key, "layers.", count): t.contiguous() for key, t in state.items()}
    return {k.replace("pooled.", "global_projector.projector."): v for k, v in named.items()}


ARCHITECTURES = (
    Architecture(
        name="DreamLLM vision encoder",
        kind="vision encoder",
        recognise=recognise_vision,
        module=ClipVision,
        convert=convert_vision,
        publish=publish_vision,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={
            "*.position_ids": "a row of consecutive numbers",
            "*.post_layernorm.*": "stands after the layer that is not run",
        },
    ),
    Architecture(
        name="DreamLLM dream queries",
        kind="dream queries",
        recognise=recognise_queries,
        module=DreamQueries,
        convert=convert_queries,
        publish=publish_queries,
        licence=LICENCE,
        origin=ORIGIN,
    ),
    Architecture(
        name="DreamLLM condition projector",
        kind="condition projector",
        recognise=recognise_projector,
        module=DreamProjector,
        convert=convert_projector,
        publish=publish_projector,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={
            "unet.*": "Stable Diffusion 2.1's own UNet, frozen: load it with Load Checkpoint",
            "vae.*": "Stable Diffusion 2.1's own VAE, frozen: load it with Load Checkpoint",
        },
    ),
)
