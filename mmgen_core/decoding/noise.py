"""All random numbers of a picture, drawn up front on the CPU.

One generator per batch row, seeded with seed + row: the same seed gives the same picture on
every device and in every batch position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .stable_sampling import StepNoise


@dataclass(frozen=True)
class ScaleNoise:
    """Random numbers of one scale for B pictures of n tokens over V codes.

    Attributes:
        draw: uniforms in (0, 1], [B, n], one per id; or Exp(1) numbers [B, n, V], which a
            recorded run of a reference has.
        gumbel: Exp(1) numbers [B, n, V] for mixing codes, if that is wanted.
        steps: of a map that is placed in steps, in place of ``draw``.
    """

    draw: Tensor
    gumbel: Tensor | None = None
    steps: list[StepNoise] = field(default_factory=list)

    def to(self, device: torch.device) -> ScaleNoise:
        gumbel = None if self.gumbel is None else self.gumbel.to(device)
        return ScaleNoise(self.draw.to(device), gumbel, [step.to(device) for step in self.steps])


def row_generators(seed: int, rows: int) -> Iterator[torch.Generator]:
    """One CPU generator per row; seeds wrap at 64 bits."""
    for row in range(rows):
        yield torch.Generator("cpu").manual_seed((seed + row) % 2**64)


def scale_noise(
    seed: int, rows: int, counts: list[int], vocab: int, mixing: bool, steps: list[int]
) -> list[ScaleNoise]:
    """Noise of every scale.

    Args:
        counts: tokens of every scale.
        mixing: also draw the Gumbel numbers of smooth sampling.
        steps: per scale, in how many steps its map is placed; 0 for at once.
    """
    per_row = [
        _row_noise(generator, counts, vocab, mixing, steps)
        for generator in row_generators(seed, rows)
    ]
    return [_stacked(scale) for scale in zip(*per_row, strict=True)]


def _row_noise(
    generator: torch.Generator, counts: list[int], vocab: int, mixing: bool, steps: list[int]
) -> list[ScaleNoise]:
    """One picture's numbers, without the batch dimension. What few runs need is drawn last, so
    that the same seed gives the same ids with and without it."""
    draws = (1 - torch.rand(sum(counts), generator=generator)).split(counts)
    gumbels: list[Tensor | None] = [None] * len(counts)
    if mixing:
        everything = torch.empty(sum(counts), vocab).exponential_(generator=generator)
        gumbels = list(everything.split(counts))
    placing = [
        [
            StepNoise(
                1 - torch.rand(count, generator=generator), torch.rand(count, generator=generator)
            )
            for _ in range(amount)
        ]
        for count, amount in zip(counts, steps, strict=True)
    ]
    return [ScaleNoise(*parts) for parts in zip(draws, gumbels, placing, strict=True)]


def _stacked(rows: tuple[ScaleNoise, ...]) -> ScaleNoise:
    mixing = rows[0].gumbel is not None
    return ScaleNoise(
        torch.stack([row.draw for row in rows]),
        torch.stack([row.gumbel for row in rows]) if mixing else None,
        [
            StepNoise(torch.stack([s.draw for s in step]), torch.stack([s.order for s in step]))
            for step in zip(*(row.steps for row in rows), strict=True)
        ],
    )
