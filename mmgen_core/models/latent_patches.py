"""Layers between latents and a transformer's tokens, as lucidrains/transfusion-pytorch has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PatchLayerParams:
    """How latents become tokens and back.

    Attributes:
        kind: "linear"; "identity" on the way in, where channels equal the width; or "conv", a
            strided convolution and its transpose.
        axes: of a latent grid, 0 where nothing says.
        axial: add an embedding of the grid's coordinates.
        channels_first: latents are [L, *grid], otherwise [*grid, L].
        shape: grid of tokens of a picture where nothing else is asked for.
        kernel, stride: of the convolutions.
    """

    channels: int
    kind: str = "linear"
    axes: int = 2
    axial: bool = False
    channels_first: bool = False
    shape: tuple[int, ...] | None = None
    kernel: int = 3
    stride: int = 2

    @property
    def padding(self) -> int:
        return (self.kernel - 1) // 2

    @property
    def reduction(self) -> int:
        """Latent cells per token along each axis."""
        return self.stride if self.kind == "conv" else 1


class AxialPositions(nn.Module):
    """An MLP per axis turns integer coordinates into embeddings, summed over the axes."""

    def __init__(self, axes: int, width: int, operations: Any, **kw):
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(
                operations.Linear(1, 2 * width, **kw),
                nn.SiLU(),
                operations.Linear(2 * width, 2 * width, **kw),
                nn.SiLU(),
                operations.Linear(2 * width, width, **kw),
            )
            for _ in range(axes)
        )

    def forward(self, grid: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Embeddings [*grid, C]."""
        total: Tensor | float = 0.0
        for axis, (mlp, length) in enumerate(zip(self.mlps, grid, strict=True)):
            at = mlp(torch.arange(length, dtype=dtype, device=device)[:, None])
            total = total + at.view(*(length if i == axis else 1 for i in range(len(grid))), -1)
        return total


def patch_in(params: PatchLayerParams, width: int, operations: Any, **kw) -> nn.Module:
    """Channels of latents to the model's width."""
    if params.kind == "identity":
        return nn.Identity()
    if params.kind == "linear":
        return operations.Linear(params.channels, width, **kw)
    size = {"stride": params.stride, "padding": params.padding}
    return operations.Conv2d(params.channels, width, params.kernel, **size, **kw)


def patch_out(params: PatchLayerParams, width: int, operations: Any, **kw) -> nn.Module:
    """The model's width to channels of latents; a grid comes back in the size it went in."""
    if params.kind != "conv":
        return operations.Linear(width, params.channels, bias=False, **kw)
    extra = params.stride - params.kernel + 2 * params.padding
    size = {"stride": params.stride, "padding": params.padding, "output_padding": extra}
    return operations.ConvTranspose2d(width, params.channels, params.kernel, **size, **kw)
