"""All random numbers of a picture, drawn up front on the CPU.

One generator per batch row, seeded with seed + row: the same seed gives the same picture on
every device and in every batch position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaleNoise:
    """Random numbers of one scale for B pictures of n tokens over V codes.

    Attributes:
        draw: uniforms in (0, 1], [B, n], one per id; or Exp(1) numbers [B, n, V], which a
            recorded run of a reference has.
        gumbel: Exp(1) numbers [B, n, V] for mixing codes, if that is wanted.
    """

    draw: Tensor
    gumbel: Tensor | None = None

    def to(self, device: torch.device) -> ScaleNoise:
        gumbel = None if self.gumbel is None else self.gumbel.to(device)
        return ScaleNoise(self.draw.to(device), gumbel)


def row_generators(seed: int, rows: int) -> Iterator[torch.Generator]:
    """One CPU generator per row; seeds wrap at 64 bits."""
    for row in range(rows):
        yield torch.Generator("cpu").manual_seed((seed + row) % 2**64)


def scale_noise(
    seed: int, rows: int, counts: list[int], vocab: int, mixing: bool
) -> list[ScaleNoise]:
    """Noise of every scale.

    Args:
        counts: tokens of every scale.
        mixing: also draw the Gumbel numbers of smooth sampling.
    """
    draws, gumbels = [], []
    for generator in row_generators(seed, rows):
        draws.append(1 - torch.rand(sum(counts), generator=generator))
        if mixing:
            gumbels.append(torch.empty(sum(counts), vocab).exponential_(generator=generator))
    per_scale = torch.stack(draws).split(counts, dim=1)
    if not mixing:
        return [ScaleNoise(draw) for draw in per_scale]
    mixed = torch.stack(gumbels).split(counts, dim=1)
    return [ScaleNoise(*pair) for pair in zip(per_scale, mixed, strict=True)]
