"""From an image embedding to what a Stable Diffusion unCLIP U-Net takes as class labels.

ComfyUI's stock unCLIPConditioning does this itself; this serves notebooks and training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 1000


def squared_cosine_alphas(steps: int = LEVELS, highest_beta: float = 0.999) -> Tensor:
    """Cumulative alphas of the squared-cosine schedule (Nichol & Dhariwal 2021), fp32 [steps]."""

    def share(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = (1 - share((i + 1) / steps) / share(i / steps) for i in range(steps))
    betas = torch.tensor([min(beta, highest_beta) for beta in betas], dtype=torch.float32)
    return torch.cumprod(1 - betas, dim=0)


def level_embedding(level_B: Tensor, width: int) -> Tensor:
    """Sinusoid of a noise level, fp32 [B, width], cosines first."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=level_B.device) / half)
    angles = level_B.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def class_labels(
    embedding_BC: Tensor,
    noise_BC: Tensor,
    level: int = 0,
    mean_C: Tensor | float = 0.0,
    std_C: Tensor | float = 1.0,
) -> Tensor:
    """The noised embedding and the embedding of its noise level, [B, 2 C].

    Level 0 is not "no noise": its deviation is 0.0064.

    Args:
        mean_C, std_C: of the embeddings, between which the noise is added; the public H model
            has 0 and 1.
    """
    alpha = squared_cosine_alphas()[level].to(embedding_BC.device)
    scaled = (embedding_BC - mean_C) / std_C
    noised = (alpha.sqrt() * scaled + (1 - alpha).sqrt() * noise_BC) * std_C + mean_C
    levels = torch.full((len(embedding_BC),), level, device=embedding_BC.device)
    return torch.cat([noised, level_embedding(levels, embedding_BC.shape[-1])], dim=-1)


def guided_labels(labels_BC: Tensor, negative_BC: Tensor | None = None) -> Tensor:
    """Labels of both guidance halves, the unconditional one first: zeros, level part included,
    unless there is a negative embedding (which the reference noises at level 0)."""
    negative = torch.zeros_like(labels_BC) if negative_BC is None else negative_BC
    return torch.cat([negative, labels_BC])
