"""Pictures of any size from a model that draws one: windows of its own size are filled in turn,
each with what is known around it. Text to image, in-painting and extrapolation are the same here:
a canvas of codes, some unknown.

Suffixes: B pictures, h x w codes of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .masked import UNKNOWN, MaskedNoise, MaskedSampling, Prompts, draw_codes, masked_noise

DIRECTIONS = ("left", "right", "up", "down")


class OnStep(Protocol):
    def __call__(self, step: int, total: int, canvas_Bhw: Tensor) -> None:
        """After every step; may raise to stop."""


Window = tuple[int, int]  # its top and left code


@dataclass
class Painter:
    """Fills windows of a canvas.

    Attributes:
        side: codes along a side of what the model draws.
        generators: one per picture; their numbers go to the windows in turn.
    """

    side: int
    sampling: MaskedSampling
    generators: Sequence[torch.Generator]

    def noise(self) -> list[MaskedNoise]:
        return masked_noise(self.generators, self.side**2, self.sampling.steps)

    def fill(
        self,
        prompts: Prompts,
        canvas_Bhw: Tensor,
        windows: Sequence[Window],
        on_step: OnStep | None = None,
        done: int = 0,
        total: int | None = None,
    ) -> Tensor:
        """The canvas with all that is unknown under the windows drawn.

        Args:
            done, total: windows that came before, and all of the run, for ``on_step``.
        """
        canvas, side, steps = canvas_Bhw.clone(), self.side, self.sampling.steps
        every = (total if total is not None else done + len(windows)) * steps
        for number, (top, left) in enumerate(windows, start=done):
            place = canvas[:, top : top + side, left : left + side]

            def report(step: int, _: int, codes_BN: Tensor, base=number * steps, at=place) -> None:
                at.copy_(codes_BN.unflatten(1, (side, side)))
                if on_step is not None:
                    on_step(base + step, every, canvas)

            start = place.flatten(1).clone()
            codes = draw_codes(prompts, start, self.sampling, self.noise(), report)
            place.copy_(codes.unflatten(1, (side, side)))
        return canvas


def windows_of(unknown_hw: Tensor, side: int) -> list[Window]:
    """Windows that cover all unknown codes, row by row, overlapping by half.

    Raises:
        ValueError: the canvas is smaller than a window.
    """
    tops, lefts = (starts(length, side) for length in unknown_hw.shape)
    left_over, chosen = unknown_hw.clone(), []
    for top in tops:
        for left in lefts:
            part = left_over[top : top + side, left : left + side]
            if part.any():
                chosen.append((top, left))
                part.fill_(False)
    return chosen


def starts(length: int, side: int) -> list[int]:
    """First codes of windows along an axis, half a window apart, the last one at the end."""
    if length < side:
        raise ValueError(
            f"The picture is {length} codes wide or high, this model draws {side}: make the "
            f"picture larger, or choose a model that draws smaller ones."
        )
    return [*range(0, length - side, max(side // 2, 1)), length - side]


def extend(
    canvas_Bhw: Tensor, direction: str, side: int, offset: int
) -> tuple[Tensor, list[Window]]:
    """The canvas with unknown codes added on one side, and the windows that fill them.

    A window keeps side / 2 - offset known codes at its far edge.

    Raises:
        ValueError: unknown direction, or an offset that leaves nothing to keep or to draw.
    """
    if direction not in DIRECTIONS:
        raise ValueError(
            f"Unknown direction {direction!r}; write {', '.join(DIRECTIONS)}, one per step."
        )
    added = side // 2 + offset
    if not 0 < added < side:
        raise ValueError(
            f"offset must lie in {1 - side // 2}..{side - side // 2 - 1}, is {offset}."
        )
    B, h, w = canvas_Bhw.shape
    starts(min(h, w), side)
    sideways = direction in ("left", "right")
    new = canvas_Bhw.new_full((B, h, added) if sideways else (B, added, w), UNKNOWN)
    parts = [canvas_Bhw, new] if direction in ("right", "down") else [new, canvas_Bhw]
    canvas = torch.cat(parts, dim=2 if sideways else 1)
    _, h, w = canvas.shape
    if sideways:
        left = w - side if direction == "right" else 0
        return canvas, [(top, left) for top in starts(h, side)]
    top = h - side if direction == "down" else 0
    return canvas, [(top, left) for left in starts(w, side)]
