"""Pictures as vision encoders take them: sizes, grids of tiles, CLIP's normalisation.

Resizing is Pillow's, on 8-bit pixels, as in the references; so the pixels are theirs exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..tokenizers.pixels import normalised as pixels_normalised

MAX_RATIO = 50  # of a picture's sides; beyond it a resized side would vanish
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def to_pil(image_HW3: Tensor) -> Image.Image:
    """8-bit RGB of a picture [H, W, 3] in 0..1.

    Raises:
        ValueError: not finite, no RGB picture, or too narrow to be resized.
    """
    if image_HW3.ndim != 3 or image_HW3.shape[-1] < 3:
        raise ValueError(f"A picture has shape [H, W, 3], this one has {list(image_HW3.shape)}.")
    height, width = image_HW3.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise ValueError(
            f"A picture of {width} x {height} pixels is too narrow: its longer side is more than "
            f"{MAX_RATIO} times the shorter one. Crop it."
        )
    if not torch.isfinite(image_HW3).all():
        raise ValueError("The picture holds values that are no numbers (NaN or infinite).")
    pixels = image_HW3[..., :3].float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.numpy())


def normalised(pictures: Sequence[Image.Image]) -> Tensor:
    """[B, 3, H, W] with CLIP's mean and deviation."""
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return pixels_normalised(torch.from_numpy(pixels).float() / 255).contiguous()


def squashed(image_HW3: Tensor, side: int) -> Tensor:
    """[1, 3, side, side]: the picture without its ratio, bilinear (SEED-X's de-tokenizer)."""
    return normalised([to_pil(image_HW3).resize((side, side), BILINEAR)])


def resized(image_HW3: Tensor, size: tuple[int, int]) -> Tensor:
    """[height, width, 3] in 0..1 at (width, height), bicubic, without its ratio."""
    pixels = np.asarray(to_pil(image_HW3).resize(size, BICUBIC))
    return torch.from_numpy(pixels.copy()).float() / 255


def centre_crop(image_HW3: Tensor, side: int) -> Tensor:
    """[1, 3, side, side]: shorter side resized, bicubic, middle cut out (CLIP, DreamLLM)."""
    picture = to_pil(image_HW3)
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((side * width // short, side * height // short), BICUBIC)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return normalised([picture.crop((left, top, left + side, top + side))])


@dataclass(frozen=True)
class Grid:
    """A grid of square tiles."""

    columns: int
    rows: int

    @classmethod
    def parse(cls, text: str) -> Grid:
        """ "2x1" is two tiles side by side."""
        return cls(*map(int, text.split("x")))


READING_GRIDS = tuple(map(Grid.parse, "1x1 1x2 1x3 2x1 3x1 1x4 4x1 2x2".split()))
EDITING_GRIDS = (Grid(1, 1),)


def best_grid(size: tuple[int, int], grids: Sequence[Grid], side: int) -> Grid:
    """SEED-X's grid for a picture of (width, height): of the one that keeps most pixels and the
    one of the nearest ratio the smaller."""
    keeping = max(grids, key=lambda grid: _kept_pixels(size, grid, side))
    nearest = min(grids, key=lambda grid: _distance(size, grid, side))
    smaller = nearest.columns * nearest.rows < keeping.columns * keeping.rows
    return nearest if smaller else keeping


def _kept_pixels(size: tuple[int, int], grid: Grid, side: int) -> tuple[int, int]:
    """Pixels that are kept when the picture is fitted in, then few empty ones."""
    width, height = grid.columns * side, grid.rows * side
    scale = min(width / size[0], height / size[1])
    fitted = int(size[0] * scale) * int(size[1] * scale)
    kept = min(fitted, size[0] * size[1])
    return kept, kept - width * height


def _distance(size: tuple[int, int], grid: Grid, side: int) -> tuple[Fraction, Fraction]:
    """How far the ratios are apart, then the areas; both as the larger over the smaller."""

    def apart(a: Fraction, b: Fraction) -> Fraction:
        return max(a / b, b / a)

    width, height = grid.columns * side, grid.rows * side
    ratio = apart(Fraction(*size), Fraction(width, height))
    return ratio, apart(Fraction(size[0] * size[1]), Fraction(width * height))


def tiles(
    image_HW3: Tensor, side: int, grids: Sequence[Grid] = READING_GRIDS
) -> tuple[Tensor, Tensor]:
    """A picture as SEED-X reads it: the tiles of its grid row by row, then the whole.

    Returns:
        pixels [tiles + 1, 3, side, side], and the centres of the parts [tiles + 1, 2] in 0..1.
    """
    picture = to_pil(image_HW3)
    grid = best_grid(picture.size, grids, side)
    large = picture.resize((grid.columns * side, grid.rows * side), BICUBIC)
    parts, centres = [], []
    for row in range(grid.rows):
        for column in range(grid.columns):
            left, top = column * side, row * side
            parts.append(large.crop((left, top, left + side, top + side)))
            centres.append(((column + 0.5) / grid.columns, (row + 0.5) / grid.rows))
    parts.append(picture.resize((side, side), BICUBIC))
    return normalised(parts), torch.tensor([*centres, (0.5, 0.5)])
