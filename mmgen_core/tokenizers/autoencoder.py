"""Convolutional encoder and decoder of the latent-diffusion "vq" family (Esser et al. 2021).

Module names are those of the published files, so state dicts load without renaming.
Tensors run channels-last: convolutions and group norms are faster so, on CPU and CUDA alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class AutoencoderParams:
    channels: int  # width of level 0
    multipliers: tuple[int, ...]  # width of level l = channels * multipliers[l]
    blocks: int  # residual blocks per encoder level; the decoder has one more
    latent_channels: int
    norm_groups: int = 32
    attention: tuple[int, ...] | None = None  # levels with attention; None: the coarsest

    @property
    def attention_levels(self) -> tuple[int, ...]:
        return (len(self.multipliers) - 1,) if self.attention is None else self.attention

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def stride(self) -> int:
        return 2 ** (len(self.multipliers) - 1)


class ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, groups: int, operations: Any, **kw):
        super().__init__()
        self.norm1 = operations.GroupNorm(groups, width_in, eps=1e-6, **kw)
        self.conv1 = operations.Conv2d(width_in, width_out, 3, padding=1, **kw)
        self.norm2 = operations.GroupNorm(groups, width_out, eps=1e-6, **kw)
        self.conv2 = operations.Conv2d(width_out, width_out, 3, padding=1, **kw)
        changes = width_in != width_out
        self.nin_shortcut = operations.Conv2d(width_in, width_out, 1, **kw) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h.add_(x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions; q, k, v fused in one 1x1 convolution."""

    def __init__(self, width: int, groups: int, operations: Any, **kw):
        super().__init__()
        self.norm = operations.GroupNorm(groups, width, eps=1e-6, **kw)
        self.qkv = operations.Conv2d(width, 3 * width, 1, **kw)
        self.proj_out = operations.Conv2d(width, width, 1, **kw)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        qkv = self.qkv(self.norm(x_BCHW)).permute(0, 2, 3, 1).reshape(B, 1, H * W, 3 * C)
        h = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        return x_BCHW + self.proj_out(h.reshape(B, H, W, C).permute(0, 3, 1, 2))


class _Sampler(nn.Module):
    """Holder of the one convolution that the files call ``downsample.conv`` / ``upsample.conv``."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv


class Downsample(_Sampler):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # padded right and bottom only, as trained


class Upsample(_Sampler):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    def __init__(self, widths_in: list[int], width: int, attention: bool, groups: int, **kw):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(w, width, groups, **kw) for w in widths_in)
        count = len(widths_in) if attention else 0
        self.attn = nn.ModuleList(AttentionBlock(width, groups, **kw) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        return x


class Middle(nn.Module):
    def __init__(self, width: int, groups: int, **kw):
        super().__init__()
        self.block_1 = ResidualBlock(width, width, groups, **kw)
        self.attn_1 = AttentionBlock(width, groups, **kw)
        self.block_2 = ResidualBlock(width, width, groups, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Picture [B, 3, H, W] in -1..1 to features [B, latent, H/stride, W/stride]."""

    def __init__(self, params: AutoencoderParams, operations: Any, **kw):
        super().__init__()
        p, kw = params, {"operations": operations, **kw}
        groups, last = p.norm_groups, len(p.widths) - 1
        conv = {k: v for k, v in kw.items() if k != "operations"}
        self.conv_in = operations.Conv2d(3, p.channels, 3, padding=1, **conv)
        self.down = nn.ModuleList()
        width = p.channels
        for level, out in enumerate(p.widths):
            widths_in = ([width] + [out] * (p.blocks - 1))[: p.blocks]
            stage = Level(widths_in, out, level in p.attention_levels, groups, **kw)
            width = out if p.blocks else width
            if level != last:
                down = operations.Conv2d(width, width, 3, stride=2, **conv)
                stage.downsample = Downsample(down)
            self.down.append(stage)
        self.mid = Middle(width, groups, **kw)
        self.norm_out = operations.GroupNorm(groups, width, eps=1e-6, **conv)
        self.conv_out = operations.Conv2d(width, p.latent_channels, 3, padding=1, **conv)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image.contiguous(memory_format=torch.channels_last))
        for stage in self.down:
            x = stage(x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x)), inplace=True))


class Decoder(nn.Module):
    """Features [B, latent, h, w] to picture [B, 3, h*stride, w*stride], about -1..1."""

    def __init__(self, params: AutoencoderParams, operations: Any, **kw):
        super().__init__()
        p, kw = params, {"operations": operations, **kw}
        groups = p.norm_groups
        conv = {k: v for k, v in kw.items() if k != "operations"}
        width = p.widths[-1]
        self.conv_in = operations.Conv2d(p.latent_channels, width, 3, padding=1, **conv)
        self.mid = Middle(width, groups, **kw)
        stages = []
        for level, out in reversed(list(enumerate(p.widths))):
            attention = level in p.attention_levels
            stage = Level([width] + [out] * p.blocks, out, attention, groups, **kw)
            if level:
                stage.upsample = Upsample(operations.Conv2d(out, out, 3, padding=1, **conv))
            stages.append(stage)
            width = out
        self.up = nn.ModuleList(reversed(stages))  # files number levels from the finest
        self.norm_out = operations.GroupNorm(groups, width, eps=1e-6, **conv)
        self.conv_out = operations.Conv2d(width, 3, 3, padding=1, **conv)

    def forward(self, features: Tensor) -> Tensor:
        x = self.mid(self.conv_in(features.contiguous(memory_format=torch.channels_last)))
        for stage in reversed(self.up):
            x = stage(x)
            if hasattr(stage, "upsample"):
                x = stage.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x), inplace=True))
