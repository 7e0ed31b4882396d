"""Causal-driven stable sampling (STAR, arXiv 2406.10797, section 3.4): a large map's tokens are
placed in several steps, the surest first, later ones given those before.

Suffixes: B pictures, n tokens of the map, C code channels, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .sampling import draw, filter_logits

NOISY_STEPS = 5  # in the first steps chance, not confidence, decides what is placed


@dataclass(frozen=True)
class StepNoise:
    """Random numbers of one step: ``draw`` as in ``ScaleNoise``; ``order`` [B, n] uniforms."""

    draw: Tensor
    order: Tensor

    def to(self, device: torch.device) -> StepNoise:
        return StepNoise(self.draw.to(device), self.order.to(device))


def step_count(mode: str, scale: int) -> int:
    """Steps of one map, as published: eight, in the mode of the 1024 px model 15 at the last."""
    return 15 if mode == "1024" and scale > 12 else 8


def uses_base_head(mode: str, scale: int, step: int) -> bool:
    """Whether a step draws from the base transformer's logits instead of the refiner's."""
    return mode == "1024" and step < NOISY_STEPS and scale < 13


def tokens_per_step(count: int, steps: int) -> list[int]:
    """How many tokens each step places: an arccosine schedule, few first, at least one each."""
    weights = [math.acos(1 - i / (steps - 1)) for i in range(steps)]
    placed = [max(round(w / sum(weights) * count), 1) for w in weights[:-1]]
    return [*placed, count - sum(placed)]


@dataclass
class PlacedMap:
    """A map in the making: ids [B, n], their code vectors [B, n, C], which are placed [B, n]."""

    ids: Tensor
    h: Tensor
    placed: Tensor

    @classmethod
    def empty(cls, batch: int, count: int, channels: int, device: torch.device) -> PlacedMap:
        ids = torch.zeros(batch, count, dtype=torch.int64, device=device)
        h = torch.zeros(batch, count, channels, device=device)
        return cls(ids, h, torch.zeros(batch, count, dtype=torch.bool, device=device))

    def place(self, confidence_Bn: Tensor, count: int, ids: Tensor, codebook: Tensor) -> Tensor:
        """Place the ``count`` surest tokens; those placed before stay. Returns the choice."""
        chosen = confidence_Bn.topk(count, dim=-1).indices
        new = torch.zeros_like(self.placed).scatter_(1, chosen, True) & ~self.placed
        self.ids = torch.where(new, ids, self.ids)
        self.h = torch.where(new[..., None], F.embedding(ids, codebook), self.h)
        self.placed = self.placed | new
        return chosen


def place_map(
    mode: str,
    scale: int,
    base_logits: Callable[[], Tensor],
    refined_logits: Callable[[Tensor], Tensor],
    filters: tuple[int, float],
    codebook_VC: Tensor,
    noise: list[StepNoise],
) -> PlacedMap:
    """All steps of one map.

    Args:
        base_logits: guided logits [B, n, V] of the base transformer.
        refined_logits: code vectors placed so far [B, n, C] to guided logits [B, n, V].
        filters: top-k and top-p.
        noise: one entry per step.
    """
    B, count = noise[0].order.shape
    state = PlacedMap.empty(B, count, codebook_VC.shape[1], codebook_VC.device)
    base = base_logits() if uses_base_head(mode, scale, 0) else None
    schedule = tokens_per_step(count, len(noise))
    for step, (amount, numbers) in enumerate(zip(schedule, noise, strict=True)):
        from_base = uses_base_head(mode, scale, step)
        logits = filter_logits(base if from_base else refined_logits(state.h), *filters)
        ids = draw(logits, numbers.draw)
        confidence = logits.softmax(-1).gather(-1, ids[..., None])[..., 0]
        if from_base:  # here the reference chooses among all positions, placed ones included
            state.place(confidence, amount, ids, codebook_VC)
        order = numbers.order if step < NOISY_STEPS else confidence
        state.place(order * ~state.placed, amount, ids, codebook_VC)
    return state
