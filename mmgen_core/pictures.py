"""Input pictures brought to the sizes that models were trained with, by Pillow as they were.

Pictures are float [H, W, C] in 0..1, sizes are (width, height).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Size = tuple[int, int]


def to_pil(image_HWC: Tensor) -> Image.Image:
    """As 8-bit RGB; a picture with alpha is laid over white."""
    pixels = (image_HWC.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if pixels.shape[-1] == 4:
        alpha = pixels[:, :, 3:] / 255.0
        pixels = ((1 - alpha) * 255 + alpha * pixels[:, :, :3]).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def from_pil(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255


def square_crop(image_HWC: Tensor, side: int) -> Tensor:
    """The middle square, its side scaled to ``side`` (Chameleon: Lanczos on the short side)."""
    picture = to_pil(image_HWC)
    scale = side / min(picture.size)
    picture = picture.resize(
        (round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS
    )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return from_pil(picture.crop((left, top, left + side, top + side)))


def grid_sizes(target: int, patch: int = 32, max_ratio: float = 4.0) -> list[Size]:
    """Sizes of about target x target pixels with sides in multiples of ``patch`` (Lumina-mGPT)."""
    area = (target // patch) ** 2
    sizes, w, h = [], area, 1
    while w > 0:
        if max(w, h) / min(w, h) <= max_ratio:
            sizes.append((w * patch, h * patch))
        if (h + 1) * w <= area:
            h += 1
        else:
            w -= 1
    return sizes


def nearest_size(size: Size, sizes: Sequence[Size]) -> Size:
    """The size of which a picture covers the most once scaled; of equal ones the largest."""

    def covered(other: Size) -> float:
        ratios = other[0] / size[0], other[1] / size[1]
        return min(ratios) / max(ratios)

    return max(sizes, key=lambda other: (covered(other), other))


def fill_crop(image_HWC: Tensor, size: Size, seed: int | None = None) -> Tensor:
    """Scaled to cover ``size`` and cropped (Lumina-mGPT: box halving, then bicubic).

    Args:
        seed: of the random crop offset that the model was trained with; None crops the middle.
    """
    picture = to_pil(image_HWC)
    while picture.width >= 2 * size[0] and picture.height >= 2 * size[1]:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(size[0] / picture.width, size[1] / picture.height)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )
    spare = picture.width - size[0], picture.height - size[1]
    if seed is None:
        left, top = spare[0] // 2, spare[1] // 2
    else:
        generator = random.Random(seed)
        left, top = generator.randint(0, spare[0]), generator.randint(0, spare[1])
    return from_pil(picture.crop((left, top, left + size[0], top + size[1])))
