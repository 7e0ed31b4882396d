"""A GLIGEN file in the published layout for the tiny Stable Diffusion checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_sd15 import Shapes, layer, values, write_with_holes

WIDTH, CONTEXT, FREQUENCIES = 320, 768, 8
BLOCKS = ("input_blocks.1.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1")


def shapes() -> Shapes:
    for block in BLOCKS:
        fuser = f"{block}.transformer_blocks.0.fuser"
        yield f"{fuser}.alpha_attn", ()
        yield f"{fuser}.alpha_dense", ()
        yield from layer(f"{fuser}.linear", WIDTH, CONTEXT)
        for projection in ("to_q", "to_k", "to_v"):
            yield from layer(f"{fuser}.attn.{projection}", WIDTH, WIDTH, bias=False)
        yield from layer(f"{fuser}.attn.to_out.0", WIDTH, WIDTH)
        yield from layer(f"{fuser}.ff.net.0.proj", 8 * WIDTH, WIDTH)
        yield from layer(f"{fuser}.ff.net.2", WIDTH, 4 * WIDTH)
        for norm in ("norm1", "norm2"):
            yield from layer(f"{fuser}.{norm}", WIDTH)
    yield "position_net.null_positive_feature", (CONTEXT,)
    yield "position_net.null_position_feature", (FREQUENCIES * 8,)
    yield from layer("position_net.linears.0", 512, CONTEXT + FREQUENCIES * 8)
    yield from layer("position_net.linears.2", 512, 512)
    yield from layer("position_net.linears.4", CONTEXT, 512)


def write(path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)

    def content(name: str, shape: tuple[int, ...]) -> bytes:
        if not shape:
            return torch.tensor(1.0).half().numpy().tobytes()
        return values(shape, generator)

    return write_with_holes(path, [*shapes()], content)
