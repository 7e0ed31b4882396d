"""SEED-X (Ge et al. 2024, arXiv 2404.14396): a language model that regresses image features from
64 query positions, and an SDXL that draws from them.

Public files: huggingface.co/AILab-CVC/SEED-X-17B (language models, agents, de-tokenizers) and the
vision transformer of huggingface.co/Qwen/Qwen-VL-Chat. Code Apache-2.0; the weights inherit the
licences of LLaMA 2, Qwen-VL and SDXL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.architecture import Architecture, Shapes
from ..checkpoints.files import Checkpoint
from ..models.attention_pool import AttentionPoolParams
from ..models.qwen_vit import EPS, QwenVit, QwenVitParams
from ..models.sdxl_adapter import SdxlAdapter, SdxlAdapterParams
from ..models.seed_x_agent import SeedXAgent, SeedXAgentParams
from .llama import renamed
from .var import count_of

ORIGIN = "https://huggingface.co/AILab-CVC/SEED-X-17B"
LICENCE = "Llama 2 Community, Tongyi Qianwen and SDXL OpenRAIL++-M conditions"
QWEN_PREFIX = "transformer.visual."  # within a whole Qwen-VL-Chat checkpoint
UNET_PREFIX = "unet."
VIT_HEADS, AGENT_HEADS, ADAPTER_HEAD_SIZE, POOL_HEAD_SIZE = 16, 32, 64, 128  # published


def recognise_vit(checkpoint: Checkpoint) -> QwenVitParams | None:
    """Sizes of Qwen-VL's vision transformer, alone or within a Qwen-VL-Chat checkpoint."""
    config = checkpoint.config.get("visual", checkpoint.config)
    shapes = {key.removeprefix(QWEN_PREFIX): shape for key, shape in checkpoint.shapes.items()}
    if "attn_pool.kv_proj.weight" not in shapes or "conv1.weight" not in shapes:
        return None
    width, _, patch, _ = shapes["conv1.weight"]
    pool_heads = max(1, shapes["attn_pool.query"][1] // POOL_HEAD_SIZE)
    return QwenVitParams(
        depth=count_of(shapes, r"transformer\.resblocks\.(\d+)\."),
        width=width,
        heads=config.get("heads", VIT_HEADS),
        hidden=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        patch=patch,
        positions=shapes["positional_embedding"][0],
        pool=pool_params(shapes, "attn_pool.", pool_heads, EPS),
        image_size=config.get("image_size", 448),
    )


def pool_params(shapes: Shapes, prefix: str, heads: int, eps: float) -> AttentionPoolParams:
    queries, width = shapes[f"{prefix}query"]
    return AttentionPoolParams(queries, width, heads, shapes[f"{prefix}kv_proj.weight"][1], eps)


def recognise_agent(checkpoint: Checkpoint) -> SeedXAgentParams | None:
    """Sizes of an agent file: both resamplers and the position table."""
    shapes, config = checkpoint.shapes, checkpoint.config
    names = ("input_resampler", "output_resampler")
    if any(f"{name}.query" not in shapes for name in names) or "patch_pos_embed" not in shapes:
        return None
    heads = (config.get(name, {}).get("num_heads", AGENT_HEADS) for name in names)
    pools = (pool_params(shapes, f"{n}.", h, 1e-5) for n, h in zip(names, heads, strict=True))
    return SeedXAgentParams(*pools)


def recognise_adapter(checkpoint: Checkpoint) -> SdxlAdapterParams | None:
    """Sizes of a de-tokenizer file's adapter; its UNet is loaded by itself."""
    shapes = checkpoint.shapes
    if "resampler.unet_attnpool.q_proj.weight" not in shapes:
        return None
    config = checkpoint.config.get("resampler", {})
    width, input_width = shapes["resampler.proj_in.weight"]
    head_size = config.get("dim_head", ADAPTER_HEAD_SIZE)
    return SdxlAdapterParams(
        depth=count_of(shapes, r"resampler\.layers\.(\d+)\."),
        width=width,
        head_size=head_size,
        queries=shapes["resampler.latents"][1],
        input_width=input_width,
        hidden=shapes["resampler.layers.0.1.1.weight"][0],
        context_widths=tuple(shapes[f"resampler.unet_proj_{i}.weight"][0] for i in (1, 2)),
        pooled_width=shapes["resampler.unet_attnpool.c_proj.weight"][0],
        pool_heads=width // head_size,
    )


def split_pools(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention pools: the joined q, k, v projection taken apart, tables named as such."""
    state = {}
    for key, tensor in tensors.items():
        stem, _, kind = key.rpartition(".attn.in_proj_")
        if stem:
            parts = zip("qkv", tensor.chunk(3), strict=True)
            state |= {f"{stem}.{part}.{kind}": value for part, value in parts}
        else:
            key = key.replace(".attn.out_proj.", ".out.") if _in_pool(key) else key
            state[key + ".weight" if key.endswith((".query", ".pos_embed")) else key] = tensor
    return state


def joined_pools(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back of ``split_pools``."""
    tensors = {}
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".q.")
        if stem and _in_pool(key):
            parts = [state[f"{stem}.{part}.{kind}"] for part in "qkv"]
            tensors[f"{stem}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif not (_in_pool(key) and (".k." in key or ".v." in key)):
            key = key.replace(".out.", ".attn.out_proj.") if _in_pool(key) else key
            table = key.endswith((".query.weight", ".pos_embed.weight"))
            tensors[key.removesuffix(".weight") if table else key] = tensor
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _in_pool(key: str) -> bool:
    return key.startswith(("attn_pool.", "input_resampler.", "output_resampler."))


_VIT_RENAMED = {"transformer.resblocks.": "blocks."}


def convert_vit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix off; the square matrix that features are multiplied with becomes a layer."""
    named = {
        renamed(key.removeprefix(QWEN_PREFIX), _VIT_RENAMED): tensor
        for key, tensor in tensors.items()
    }
    state = split_pools(named)
    state["proj.weight"] = state.pop("proj").T.contiguous()
    state["positional_embedding.weight"] = state.pop("positional_embedding")
    return state


def publish_vit(state: Mapping[str, Tensor], params: QwenVitParams) -> dict[str, Tensor]:
    back = {ours: file for file, ours in _VIT_RENAMED.items()}
    tensors = {renamed(key, back): tensor for key, tensor in joined_pools(state).items()}
    tensors["proj"] = tensors.pop("proj.weight").T.contiguous()
    tensors["positional_embedding"] = tensors.pop("positional_embedding.weight")
    return tensors


def convert_agent(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = split_pools(tensors)
    state["patch_pos_embed.weight"] = state.pop("patch_pos_embed")
    return state


def publish_agent(state: Mapping[str, Tensor], params: SeedXAgentParams) -> dict[str, Tensor]:
    tensors = joined_pools(state)
    tensors["patch_pos_embed"] = tensors.pop("patch_pos_embed.weight")
    return tensors


def convert_adapter(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("resampler."): tensor for key, tensor in tensors.items()}
    state["latents.weight"] = state.pop("latents")[0]
    table = "unet_attnpool.positional_embedding"
    state[f"{table}.weight"] = state.pop(table)
    return state


def publish_adapter(state: Mapping[str, Tensor], params: SdxlAdapterParams) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {f"resampler.{key}": tensor for key, tensor in state.items()}
    tensors["resampler.latents"] = tensors.pop("resampler.latents.weight")[None]
    table = "resampler.unet_attnpool.positional_embedding"
    tensors[table] = tensors.pop(f"{table}.weight")
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def widened_input(weight_oihw: Tensor, channels: int) -> Tensor:
    """A UNet's first convolution with more input channels, which at first do nothing: how SEED-X
    made the UNet that takes a picture's latent beside the noisy one."""
    missing = channels - weight_oihw.shape[1]
    return torch.nn.functional.pad(weight_oihw, (0, 0, 0, 0, 0, missing))


ARCHITECTURES = (
    Architecture(
        name="Qwen-VL vision transformer",
        kind="vision encoder",
        recognise=recognise_vit,
        module=QwenVit,
        convert=convert_vit,
        publish=publish_vit,
        licence="Tongyi Qianwen License",
        origin="https://huggingface.co/Qwen/Qwen-VL-Chat",
        ignored={
            "transformer.wte.*": "the language model of Qwen-VL-Chat",
            "transformer.h.*": "the language model of Qwen-VL-Chat",
            "transformer.ln_f.*": "the language model of Qwen-VL-Chat",
            "lm_head.*": "the language model of Qwen-VL-Chat",
        },
    ),
    Architecture(
        name="SEED-X agent",
        kind="resamplers",
        recognise=recognise_agent,
        module=SeedXAgent,
        convert=convert_agent,
        publish=publish_agent,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={"llm.*": "the language model, which has its own files"},
    ),
    Architecture(
        name="SEED-X de-tokenizer",
        kind="de-tokenizer",
        recognise=recognise_adapter,
        module=SdxlAdapter,
        convert=convert_adapter,
        publish=publish_adapter,
        licence=LICENCE,
        origin=ORIGIN,
        ignored={f"{UNET_PREFIX}*": "the UNet, which Load SEED-X De-tokenizer loads as a MODEL"},
    ),
)
