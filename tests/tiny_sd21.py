"""A Stable Diffusion 2.1 unCLIP checkpoint as small as ComfyUI's stock loaders take it.

As ``tiny_sd15``: one level of U-Net, the small autoencoder, and the text encoder (OpenCLIP-H, 24
layers, 1024 wide) as a hole in the file that reads as zeros.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_sd15 import CLIP as CLIP_L
from tiny_sd15 import UNET, Shapes, clip, layer, taesd, unet, values, write_with_holes

CLIP = "cond_stage_model.model"
CONTEXT, LABELS = 1024, 2048


def unclip_unet(width: int = 320) -> Shapes:
    """SD 2's layout: linear projections around the attention, and class labels."""
    for name, shape in unet(width, CONTEXT):
        linear = name.endswith(("proj_in.weight", "proj_out.weight"))
        yield name, shape[:2] if linear else shape
    yield from layer(f"{UNET}.label_emb.0.0", 4 * width, LABELS)
    yield from layer(f"{UNET}.label_emb.0.2", 4 * width, 4 * width)


def clip_h(width: int = CONTEXT, layers: int = 24) -> Shapes:
    yield f"{CLIP}.token_embedding.weight", (49408, width)
    yield f"{CLIP}.positional_embedding", (77, width)
    yield f"{CLIP}.text_projection", (width, width)
    for i in range(layers):
        block = f"{CLIP}.transformer.resblocks.{i}"
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from layer(f"{block}.attn.out_proj", width, width)
        yield from layer(f"{block}.mlp.c_fc", 4 * width, width)
        yield from layer(f"{block}.mlp.c_proj", width, 4 * width)
        yield from layer(f"{block}.ln_1", width)
        yield from layer(f"{block}.ln_2", width)
    yield from layer(f"{CLIP}.ln_final", width)


NORMS = (".in_layers.0.weight", ".out_layers.0.weight", "norm.weight", "out.0.weight")


def strong(name: str, shape: tuple[int, ...], generator: torch.Generator) -> bytes:
    """Random values; norms that pass everything on, so that conditions show in the picture."""
    is_norm = name.endswith(NORMS) or ".norm" in name and name.endswith("weight")
    if name.startswith(UNET) and is_norm:
        return torch.ones(shape).half().numpy().tobytes()
    return values(shape, generator)


def write(path: Path) -> Path:
    return write_strong(path, [*unclip_unet(), *taesd(), *clip_h()], CLIP)


def write_sd15(path: Path) -> Path:
    """``tiny_sd15``'s checkpoint with the same strong U-Net."""
    return write_strong(path, [*unet(), *taesd(), *clip()], CLIP_L)


def write_strong(path: Path, shapes: list, hole: str) -> Path:
    generator = torch.Generator().manual_seed(1)

    def content(name: str, shape: tuple[int, ...]) -> bytes | None:
        return None if name.startswith(hole) else strong(name, shape, generator)

    return write_with_holes(path, shapes, content)
