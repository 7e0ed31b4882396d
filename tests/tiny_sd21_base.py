"""A Stable Diffusion 2.1-base checkpoint as small as ComfyUI's stock loaders take it: no text
encoder, which DreamLLM takes the place of."""

from __future__ import annotations

from pathlib import Path

from tiny_sd15 import taesd
from tiny_sd21 import unclip_unet, write_strong


def write(path: Path) -> Path:
    shapes = [*unclip_unet(), *taesd()]
    return write_strong(path, [s for s in shapes if "label_emb" not in s[0]], "no hole")
