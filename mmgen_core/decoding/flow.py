"""Solvers that turn noise into latents: flows (midpoint) and the paper's DDPM."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (time, latents, whether this is the last evaluation) -> flow, shaped as the latents
Velocity = Callable[[Tensor, Tensor, bool], Tensor]
OnStep = Callable[[int, int, Tensor], None]


def midpoint(
    velocity: Velocity, noise: Tensor, times: Tensor, on_step: OnStep | None = None
) -> Tensor:
    """Integrate dx/dt = velocity over the grid ``times`` with two evaluations per interval."""
    x, intervals = noise, len(times) - 1
    for step, (start, stop) in enumerate(zip(times[:-1], times[1:], strict=True)):
        span = stop - start
        halfway = x + velocity(start, x, False) * (span / 2)
        x = x + span * velocity(start + span / 2, halfway, step == intervals - 1)
        if on_step is not None:
            on_step(step + 1, intervals, x)
    return x


@dataclass(frozen=True)
class NoiseSchedule:
    """The cosine schedule of Nichol and Dhariwal (2021): share of the picture left per step."""

    alphas_cumprod: Tensor  # fp32 [steps], falling

    @classmethod
    def cosine(cls, steps: int = 1000) -> NoiseSchedule:
        def level(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - level((i + 1) / steps) / level(i / steps), 0.999) for i in range(steps)]
        return cls((1 - torch.tensor(betas, dtype=torch.float32)).cumprod(0))

    def timesteps(self, count: int) -> list[int]:
        """``count`` steps, noisiest first, evenly from 0 ("leading").

        Raises:
            ValueError: more steps than the schedule has.
        """
        total = len(self.alphas_cumprod)
        if not 1 <= count <= total:
            raise ValueError(f"steps must lie in 1..{total}, found {count}.")
        ratio = total // count
        return [i * ratio for i in range(count)][::-1]

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of pictures [B, ...] at steps t [B]."""
        kept = self.alphas_cumprod.to(x0.device)[t].view(-1, *(1,) * (x0.ndim - 1))
        return kept.sqrt() * x0 + (1 - kept).sqrt() * noise

    def step(self, x: Tensor, epsilon: Tensor, t: int, before: int, noise: Tensor | None) -> Tensor:
        """One ancestral step from t to ``before`` (below 0: the clean picture), with the
        posterior's variance ("fixed small") times ``noise``; none is added at t = 0."""
        now = float(self.alphas_cumprod[t])
        then = float(self.alphas_cumprod[before]) if before >= 0 else 1.0
        alpha = now / then
        x0 = (x - (1 - now) ** 0.5 * epsilon) / now**0.5
        mean = then**0.5 * (1 - alpha) / (1 - now) * x0 + alpha**0.5 * (1 - then) / (1 - now) * x
        if t == 0 or noise is None:
            return mean
        variance = max((1 - then) / (1 - now) * (1 - alpha), 1e-20)
        return mean + variance**0.5 * noise
