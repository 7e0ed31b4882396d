"""All random numbers of a picture, drawn up front on the CPU.

One generator per batch row, seeded with seed + row: the same seed gives the same picture on
every device and in every batch position.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def row_generators(seed: int, rows: int) -> Iterator[torch.Generator]:
    """One CPU generator per row; seeds wrap at 64 bits."""
    for row in range(rows):
        yield torch.Generator("cpu").manual_seed((seed + row) % 2**64)


def exponential_noise(seed: int, rows: int, counts: list[int], vocab: int, draws: int) -> list:
    """Exp(1) numbers for next-scale sampling.

    Args:
        counts: tokens of every scale.
        draws: independent sets per scale (1 for ids, 2 if Gumbel noise is needed as well).

    Returns:
        per scale a tuple of ``draws`` fp32 tensors [rows, count, vocab].
    """
    per_row = [
        [tuple(_exponential(g, n, vocab) for _ in range(draws)) for n in counts]
        for g in row_generators(seed, rows)
    ]
    return [
        tuple(torch.stack(sets) for sets in zip(*scale, strict=True))
        for scale in zip(*per_row, strict=True)
    ]


def _exponential(generator: torch.Generator, count: int, vocab: int) -> Tensor:
    return torch.empty(count, vocab).exponential_(generator=generator)
