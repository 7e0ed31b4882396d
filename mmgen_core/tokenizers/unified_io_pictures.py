"""Pictures as Unified-IO 1 and 2 take them: fitted into a square frame, padded, cut into patches;
and what they draw, brought back to the size and shape of the picture it belongs to.

Pictures are [H, W, 3] in 0..1, fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Placement:
    """Where a picture of ``height`` x ``width`` lies in a square frame of side ``side``."""

    height: int
    width: int
    side: int
    scaled_height: int
    scaled_width: int
    top: int
    left: int
    scale: float
    centred: bool  # in the middle (Unified-IO 2), not in the top left corner (Unified-IO)

    def boxes_to_frame(self, boxes_yxyx: Tensor) -> Tensor:
        """Boxes [..., 4] in pixels of the picture, in pixels of the frame."""
        return boxes_yxyx * self.scale + self._offsets(boxes_yxyx)

    def boxes_to_picture(self, boxes_yxyx: Tensor) -> Tensor:
        """The way back, cut at the picture's edges."""
        boxes = (boxes_yxyx - self._offsets(boxes_yxyx)) / self.scale
        most = boxes.new_tensor([self.height, self.width, self.height, self.width])
        return boxes.clamp(min=0).minimum(most)

    def _offsets(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.top, self.left, self.top, self.left])


def place_in_corner(height: int, width: int, side: int) -> Placement:
    """Unified-IO: the long side fills the frame; padded at the right and the bottom."""
    scale = side / max(height, width)
    return Placement(
        height, width, side, int(height * scale), int(width * scale), 0, 0, scale, False
    )


def place_centred(height: int, width: int, side: int) -> Placement:
    """Unified-IO 2: the same, padded on both sides, with the reference's fp32 arithmetic."""
    sizes = torch.tensor([height, width], dtype=torch.float32)
    scale = (torch.tensor(float(side)) / sizes).min()  # not side / sizes: that is a reciprocal
    scaled_height, scaled_width = (sizes * scale).int().tolist()
    top, left = (side - scaled_height) // 2, (side - scaled_width) // 2
    return Placement(
        height, width, side, scaled_height, scaled_width, top, left, float(scale), True
    )


def fit(image_HWC: Tensor, placement: Placement) -> tuple[Tensor, Tensor]:
    """The picture in its frame [S, S, 3], black around it, and where it lies [S, S], bool.

    Raises:
        ValueError: the picture is so narrow that nothing of it is left.
    """
    p = placement
    if min(p.scaled_height, p.scaled_width) < 1:
        raise ValueError(
            f"The picture of {p.width} x {p.height} pixels is too narrow: fitted into "
            f"{p.side} x {p.side} less than one pixel of its short side is left. Crop it first."
        )
    image = image_HWC.permute(2, 0, 1)[None]
    if (p.scaled_height, p.scaled_width) != (p.height, p.width):
        size = (p.scaled_height, p.scaled_width)
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    right = p.side - p.left - p.scaled_width
    bottom = p.side - p.top - p.scaled_height
    border = (p.left, right, p.top, bottom)
    inside = torch.ones(p.scaled_height, p.scaled_width, dtype=torch.bool, device=image.device)
    return F.pad(image.clamp(0, 1), border)[0].permute(1, 2, 0), F.pad(inside, border)


def clear_region(mask_SS: Tensor, placement: Placement, box_xyxy: Tensor) -> Tensor:
    """The mask without a region of the picture, in its pixels (in-painting)."""
    x1, y1, x2, y2 = box_xyxy.double().tolist()
    corners = placement.boxes_to_frame(torch.tensor([y1, x1, y2, x2], dtype=torch.float64))
    # Unified-IO rounds, Unified-IO 2 cuts.
    top, left, bottom, right = (corners if placement.centred else corners.round()).int().tolist()
    mask = mask_SS.clone()
    mask[top:bottom, left:right] = False
    return mask


def patch_mask(mask_SS: Tensor, grid: tuple[int, int], centred: bool) -> Tensor:
    """A pixel mask as one over patches [rows * columns]: the nearest pixel of each, with the
    reference's rule (Unified-IO takes the corner of a patch, Unified-IO 2 its middle)."""
    mode = "nearest-exact" if centred else "nearest"
    return F.interpolate(mask_SS[None, None].float(), grid, mode=mode)[0, 0].flatten() > 0.5


def normalised(image_SSC: Tensor, statistics: tuple) -> Tensor:
    mean, deviation = (image_SSC.new_tensor(values) for values in statistics)
    return (image_SSC - mean) / deviation


def patches(image_SSC: Tensor, patch: int) -> Tensor:
    """Patches [rows * columns, patch * patch * 3], row by row, values in the order (row, column,
    channel)."""
    cut = image_SSC.unflatten(0, (-1, patch)).unflatten(2, (-1, patch))
    return cut.transpose(1, 2).flatten(2).flatten(0, 1)


def undo(image_SSC: Tensor, placement: Placement) -> Tensor:
    """A drawn picture [S, S, 3] brought to the source's size and shape: the padding is cut off,
    the nearest pixels are taken, as the references do."""
    p, side = placement, image_SSC.shape[0]
    longest = max(p.height, p.width)
    if not p.centred:
        ratio = side / longest
        part = image_SSC[: int(ratio * p.height), : int(ratio * p.width)]
        return _resized(part, (p.height, p.width), "nearest")
    whole = _resized(image_SSC, (longest, longest), "nearest-exact")
    top, left = (longest - p.height) // 2, (longest - p.width) // 2
    return whole[top : top + p.height, left : left + p.width]


def _resized(image_HWC: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    return F.interpolate(image_HWC.permute(2, 0, 1)[None], size, mode=mode)[0].permute(1, 2, 0)
