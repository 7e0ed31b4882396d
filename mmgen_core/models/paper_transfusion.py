"""Transfusion as its paper describes it: the shared decoder reads text ids and noised patches of
latents; the patches' states give the noise. What the paper leaves open is this pack's reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decoder import Decoder, DecoderParams
from .patch_unet import PatchUNet


@dataclass(frozen=True)
class PaperTransfusionParams:
    """Sizes.

    Attributes:
        channels: of the latents.
        patch: latent cells along a side of a patch.
        time_width: of the time's sinusoid.
        bos, boi, eoi: ids that begin a text, and begin and end a picture.
        side: latent cells along a side of a picture the model was trained for.
        unet: widths of the U-Net patch layers, fine to coarse; empty for linear ones.
    """

    decoder: DecoderParams
    channels: int
    patch: int
    time_width: int
    bos: int
    boi: int
    eoi: int
    side: int = 32
    unet: tuple[int, ...] = ()

    @property
    def patch_width(self) -> int:
        return self.channels * self.patch**2


def patchify(latents_BLhw: Tensor, patch: int) -> Tensor:
    """[B, n, L * patch * patch], patches in raster order, each as channel, row, column."""
    B, L, h, w = latents_BLhw.shape
    x = latents_BLhw.view(B, L, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, h // patch * (w // patch), L * patch**2)


def unpatchify(patches_BnP: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """The latents [B, L, *size] of ``patchify``."""
    rows, columns = size[0] // patch, size[1] // patch
    x = patches_BnP.unflatten(1, (rows, columns)).unflatten(-1, (-1, patch, patch))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def time_features(t_B: Tensor, width: int) -> Tensor:
    """Sinusoid [B, width] of time steps, fp32."""
    power = torch.arange(width // 2, device=t_B.device, dtype=torch.float32) / (width // 2)
    angle = t_B[:, None].float() * 10000.0**-power
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimeEmbed(nn.Module):
    def __init__(self, width_in: int, width: int, operations: Any, **kw):
        super().__init__()
        self.up = operations.Linear(width_in, width, **kw)
        self.out = operations.Linear(width, width, **kw)

    def forward(self, features: Tensor) -> Tensor:
        return self.out(F.silu(self.up(features)))


@dataclass(frozen=True)
class Patches:
    """Latents as tokens [B, n, C], and what is needed on the way back.

    Attributes:
        size: (h, w) of the latents.
        skips: features of the U-Net patch layers.
    """

    tokens: Tensor
    size: tuple[int, int]
    skips: Sequence[Tensor] = ()


class PaperTransfusion(nn.Module):
    def __init__(
        self,
        params: PaperTransfusionParams,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ):
        super().__init__()
        self.params = params
        p, kw = params, {"dtype": dtype, "device": device}
        self.decoder = Decoder(p.decoder, dtype, device, operations)
        time = p.unet[0] if p.unet else p.patch_width
        self.time_embed = TimeEmbed(p.time_width, time, operations, **kw)
        if p.unet:
            self.patch_net = PatchUNet(p.channels, p.unet, p.decoder.width, operations, **kw)
        else:
            self.patch_in = operations.Linear(p.patch_width, p.decoder.width, **kw)
            self.patch_out = operations.Linear(p.decoder.width, p.patch_width, **kw)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.decoder.compute_dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        self.decoder.compute_dtype = dtype

    def patches(self, x_BLhw: Tensor, t_B: Tensor) -> Patches:
        """Latents with the noise of time steps t as tokens.

        Raises:
            ValueError: a side is no multiple of the patch.
        """
        p = self.params
        h, w = x_BLhw.shape[-2:]
        if h % p.patch or w % p.patch:
            raise ValueError(
                f"Latents of {w} x {h} cells do not divide into patches of {p.patch} x {p.patch}."
            )
        time = self.time_embed(time_features(t_B, p.time_width).to(self.compute_dtype))
        x = x_BLhw.to(self.compute_dtype)
        if p.unet:
            tokens, skips = self.patch_net.tokens(x, time)
            return Patches(tokens, (h, w), skips)
        return Patches(self.patch_in(patchify(x, p.patch) + time[:, None]), (h, w))

    def noise_of(self, hidden_BnC: Tensor, patches: Patches) -> Tensor:
        """The predicted noise, fp32 [B, L, h, w], of the patches' final states."""
        if self.params.unet:
            return self.patch_net.latents(hidden_BnC, patches.skips).float()
        return unpatchify(self.patch_out(hidden_BnC).float(), self.params.patch, patches.size)
