"""A Stable Diffusion 1.x checkpoint, and its text encoder alone, as small as ComfyUI's stock
loaders take them.

One level of U-Net, the small autoencoder TAESD in place of the full one, and CLIP at its full
size, which the loader insists on: zeros, as a hole in the file, so that they take no disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import torch

UNET, VAE = "model.diffusion_model", "first_stage_model"
CLIP = "cond_stage_model.transformer.text_model"
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def residual(name: str, width_in: int, width: int, embedding: int) -> Shapes:
    yield from layer(f"{name}.in_layers.0", width_in)
    yield from layer(f"{name}.in_layers.2", width, width_in, 3, 3)
    yield from layer(f"{name}.emb_layers.1", width, embedding)
    yield from layer(f"{name}.out_layers.0", width)
    yield from layer(f"{name}.out_layers.3", width, width, 3, 3)
    if width_in != width:
        yield from layer(f"{name}.skip_connection", width, width_in, 1, 1)


def spatial_transformer(name: str, width: int, context: int) -> Shapes:
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", width, width, 1, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context)):
        yield from layer(f"{block}.{attention}.to_q", width, width, bias=False)
        yield from layer(f"{block}.{attention}.to_k", width, source, bias=False)
        yield from layer(f"{block}.{attention}.to_v", width, source, bias=False)
        yield from layer(f"{block}.{attention}.to_out.0", width, width)
    yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from layer(f"{block}.{norm}", width)
    yield from layer(f"{name}.proj_out", width, width, 1, 1)


def unet(width: int = 320, context: int = 768) -> Shapes:
    embedding = 4 * width
    yield from layer(f"{UNET}.time_embed.0", embedding, width)
    yield from layer(f"{UNET}.time_embed.2", embedding, embedding)
    yield from layer(f"{UNET}.input_blocks.0.0", width, 4, 3, 3)
    for place, width_in in (
        ("input_blocks.1", width),
        ("output_blocks.0", 2 * width),
        ("output_blocks.1", 2 * width),
    ):
        yield from residual(f"{UNET}.{place}.0", width_in, width, embedding)
        yield from spatial_transformer(f"{UNET}.{place}.1", width, context)
    yield from residual(f"{UNET}.middle_block.0", width, width, embedding)
    yield from spatial_transformer(f"{UNET}.middle_block.1", width, context)
    yield from residual(f"{UNET}.middle_block.2", width, width, embedding)
    yield from layer(f"{UNET}.out.0", width)
    yield from layer(f"{UNET}.out.2", 4, width, 3, 3)


def clip(name: str = CLIP, width: int = 768, layers: int = 12) -> Shapes:
    yield f"{name}.embeddings.token_embedding.weight", (49408, width)
    yield f"{name}.embeddings.position_embedding.weight", (77, width)
    for i in range(layers):
        block = f"{name}.encoder.layers.{i}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{block}.self_attn.{projection}", width, width)
        yield from layer(f"{block}.mlp.fc1", 4 * width, width)
        yield from layer(f"{block}.mlp.fc2", width, 4 * width)
        yield from layer(f"{block}.layer_norm1", width)
        yield from layer(f"{block}.layer_norm2", width)
    yield from layer(f"{name}.final_layer_norm", width)


def taesd() -> Shapes:
    def block(name: str) -> Shapes:
        for i in (0, 2, 4):
            yield from layer(f"{name}.conv.{i}", 64, 64, 3, 3)

    encoder, decoder = f"{VAE}.taesd_encoder", f"{VAE}.taesd_decoder"
    yield from layer(f"{encoder}.0", 64, 3, 3, 3)
    yield from layer(f"{encoder}.14", 4, 64, 3, 3)
    yield from layer(f"{decoder}.1", 64, 4, 3, 3)
    yield from layer(f"{decoder}.19", 3, 64, 3, 3)
    for part, strided, blocks in (
        (encoder, (2, 6, 10), (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)),
        (decoder, (7, 12, 17), (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)),
    ):
        for i in strided:
            yield from layer(f"{part}.{i}", 64, 64, 3, 3, bias=False)
        for i in blocks:
            yield from block(f"{part}.{i}")


def values(shape: tuple[int, ...], generator: torch.Generator) -> bytes:
    fan_in = prod(shape[1:])
    noise = torch.randn(shape, generator=generator) / fan_in**0.5
    norm_or_bias = len(shape) == 1
    return (0.1 * noise if norm_or_bias else noise).half().numpy().tobytes()


def write(path: Path) -> Path:
    """Write the checkpoint, fp16; CLIP's part is never written, and reads as zeros."""
    generator = torch.Generator().manual_seed(0)

    def content(name: str, shape: tuple[int, ...]) -> bytes | None:
        return None if name.startswith(CLIP) else values(shape, generator)

    return write_with_holes(path, [*unet(), *taesd(), *clip()], content)


def write_text_encoder(path: Path, seed: int = 0) -> Path:
    """The text encoder alone, in transformers' layout: one random layer, the others zeros, which
    pass on what they get."""
    generator = torch.Generator().manual_seed(seed)

    def content(name: str, shape: tuple[int, ...]) -> bytes | None:
        if ".layers." in name and ".layers.0." not in name:
            return None
        is_norm = "norm" in name and name.endswith("weight")
        return torch.ones(shape).half().numpy().tobytes() if is_norm else values(shape, generator)

    return write_with_holes(path, [*clip("text_model")], content)


def write_with_holes(
    path: Path,
    shapes: list[tuple[str, tuple[int, ...]]],
    content: Callable[[str, tuple[int, ...]], bytes | None],
) -> Path:
    """A safetensors file in fp16; tensors without content are holes, and read as zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header, offset = {}, 0
    for name, shape in shapes:
        end = offset + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes:
            data = content(name, shape)
            if data is not None:
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                file.write(data)
        file.truncate(8 + len(text) + offset)
    return path
