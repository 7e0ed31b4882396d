"""Layouts as pixels: masks of the boxes, a picture of the plan, pictures put into their boxes."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .layouts import Layout, LayoutObject


def box_masks(layout: Layout, feather: int = 0) -> Tensor:
    """A mask [N, H, W] of every box, 1 inside.

    Args:
        feather: pixels over which a box fades out, inside of its edge; an edge that lies on the
            canvas's own does not fade.
    """
    rows = torch.arange(layout.height, dtype=torch.float32)
    columns = torch.arange(layout.width, dtype=torch.float32)
    masks = [
        _ramp(rows, o.y, o.bottom, layout.height, feather)[:, None]
        * _ramp(columns, o.x, o.right, layout.width, feather)[None]
        for o in layout.objects
    ]
    return torch.stack(masks)


def _ramp(places: Tensor, start: int, end: int, side: int, feather: int) -> Tensor:
    inside = ((places >= start) & (places < end)).float()
    if feather <= 0:
        return inside
    far = torch.full_like(places, torch.inf)
    from_start = places - start + 1 if start > 0 else far
    from_end = end - places if end < side else far
    return inside * (torch.minimum(from_start, from_end) / (feather + 1)).clamp(0, 1)


def background_mask(masks: Tensor) -> Tensor:
    """What no box covers, [1, H, W]."""
    return 1 - masks.amax(0, keepdim=True)


def picture(layout: Layout) -> Tensor:
    """The boxes with their labels, [1, H, W, 3]: large ones first, so that none is hidden."""
    image = Image.new("RGB", (layout.width, layout.height), "white")
    pen = ImageDraw.Draw(image, "RGBA")
    size = max(10, round(min(layout.width, layout.height) / 24))
    font = ImageFont.load_default(size)
    order = sorted(range(len(layout.objects)), key=lambda i: -layout.objects[i].area)
    for i in order:
        _draw_box(pen, layout.objects[i], _colour(i), font, size)
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]


def _draw_box(pen: ImageDraw.ImageDraw, entry: LayoutObject, colour, font, size: int) -> None:
    line = max(1, size // 6)
    corners = (entry.x, entry.y, entry.right - 1, entry.bottom - 1)
    pen.rectangle(corners, fill=(*colour, 70), outline=(*colour, 255), width=line)
    words, text = entry.description.split(), ""
    y = entry.y + line + 1
    for word in [*words, ""]:
        longer = f"{text} {word}".strip()
        full = pen.textlength(longer, font=font) > entry.width - 2 * line - 2
        if text and (full or not word):
            if y + size > entry.bottom:
                return
            pen.text((entry.x + line + 2, y), text, fill=(20, 20, 20, 255), font=font)
            y, longer = y + size + 1, word
        text = longer


def _colour(index: int) -> tuple[int, int, int]:
    """Colours far from each other: the golden angle around the wheel."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def compose(
    layout: Layout,
    pictures: Sequence[Tensor],
    background: Tensor | None = None,
    feather: int = 0,
    clear_white: float = 0.0,
) -> Tensor:
    """Pictures [h, w, 3] scaled into their boxes, in the order of the objects; [1, H, W, 3].

    Args:
        background: [H, W, 3] of any size, scaled to the canvas; white where there is none.
        clear_white: how much of a near-white ground around a drawing to see through, 0 to 1.

    Raises:
        ValueError: not one picture for each box.
    """
    if len(pictures) != len(layout.objects):
        raise ValueError(
            f"{len(pictures)} pictures for {len(layout.objects)} boxes: draw one for each box, "
            f"from the labels in their order."
        )
    size = (layout.height, layout.width)
    canvas = torch.ones(*size, 3) if background is None else _scaled(background, *size)
    masks = box_masks(layout, feather)
    order = sorted(range(len(pictures)), key=lambda i: -layout.objects[i].area)
    for i in order:
        entry = layout.objects[i]
        drawn = _scaled(pictures[i], entry.height, entry.width)
        rows, columns = slice(entry.y, entry.bottom), slice(entry.x, entry.right)
        alpha = masks[i, rows, columns, None] * _opacity(drawn, clear_white)
        canvas[rows, columns] = canvas[rows, columns] * (1 - alpha) + drawn * alpha
    return canvas[None]


def _opacity(image: Tensor, clear_white: float) -> Tensor:
    """[h, w, 1]: 0 on white, 1 on everything that is a step away from it."""
    if clear_white <= 0:
        return torch.ones_like(image[..., :1])
    darkest = image.amin(-1, keepdim=True)
    return ((1 - darkest) / clear_white).clamp(0, 1)


def _scaled(image: Tensor, height: int, width: int) -> Tensor:
    """[h, w, 3] in another size, smooth, without aliasing."""
    image_1chw = image[..., :3].float().cpu().permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(
        image_1chw, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return scaled[0].permute(1, 2, 0).clamp(0, 1)
