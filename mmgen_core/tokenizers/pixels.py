"""Pictures as vision encoders were trained to see them: resized like Pillow does, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resized(image_BHWC: Tensor, size: tuple[int, int], method: str) -> Tensor:
    """Pictures in 0..1 at (height, width), in steps of 1/255, fp32 on the CPU.

    Pillow's filters on 8-bit pictures, not torch's: the encoders were trained on their rounding.
    """
    bytes_BHWC = image_BHWC[..., :3].mul(255).round().clamp(0, 255).to("cpu", torch.uint8)
    if tuple(bytes_BHWC.shape[1:3]) != tuple(size):
        pictures = (Image.fromarray(picture) for picture in bytes_BHWC.numpy())
        pictures = (p.resize((size[1], size[0]), FILTERS[method]) for p in pictures)
        bytes_BHWC = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
    return bytes_BHWC.float() / 255


def normalised(
    image_BHWC: Tensor, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """Pixels [B, 3, H, W] of mean 0 and deviation 1 over the training pictures."""
    mean_C, std_C = (torch.tensor(v, device=image_BHWC.device) for v in (mean, std))
    return ((image_BHWC[..., :3] - mean_C) / std_C).movedim(-1, 1)
