"""Drawing from conditions with a diffusers UNet and scheduler, as SEED-X's and DreamLLM's own
scripts do. For notebooks, training and tests: in ComfyUI the stock samplers do this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, EulerDiscreteScheduler

TRAIN_STEPS = 1000
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COMMON = {**BETAS, "num_train_timesteps": TRAIN_STEPS, "timestep_spacing": "leading"}


@dataclass(frozen=True)
class Condition:
    """One guidance branch: context [B, N, C], SDXL's pooled vector [B, P], and the latent
    [B, 4, h, w] of a picture to be edited."""

    context: Tensor
    pooled: Tensor | None = None
    image: Tensor | None = None


def guided(predictions: Sequence[Tensor], guidance: float, image_guidance: float = 1.0) -> Tensor:
    """Predictions away from the last branch: of (positive, negative) ordinary guidance, of (text
    and image, image alone, nothing) that of InstructPix2Pix."""
    if len(predictions) == 1:
        return predictions[0]
    text, middle = predictions[:2]
    base = middle
    if len(predictions) == 3:
        base = predictions[2] + image_guidance * (middle - predictions[2])
    return base + guidance * (text - middle)


def leading_timesteps(steps: int) -> list[int]:
    """The noise levels of the references' schedules, from noisy to clean. Where the steps do not
    divide 1000 they begin below the noisiest level: 150 steps at 895."""
    return [1 + i * (TRAIN_STEPS // steps) for i in reversed(range(steps))]


def sigmas(timesteps: Sequence[int]) -> Tensor:
    """Noise over signal [steps + 1] at Stable Diffusion's noise levels, and 0 at the end."""
    roots = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, TRAIN_STEPS)
    kept = (1 - roots.double() ** 2).cumprod(0)[list(timesteps)]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1)]).float()


def ancestral_schedule(steps: int) -> DDPMScheduler:
    """DreamLLM's: Stable Diffusion 2.1-base's settings read as DDPM."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        **COMMON, clip_sample=False, variance_type="fixed_small", steps_offset=1
    )
    scheduler.set_timesteps(steps)
    return scheduler


def euler_schedule(steps: int) -> EulerDiscreteScheduler:
    """SEED-X's: SDXL's own."""
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(**COMMON, steps_offset=1)
    scheduler.set_timesteps(steps)
    return scheduler


def draw(
    unet: Any,
    scheduler: Any,
    noise_BChw: Tensor,
    conditions: Sequence[Condition],
    guidance: float,
    image_guidance: float = 1.0,
    time_ids: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Latents [B, 4, h, w] drawn from unit noise.

    Args:
        conditions: the branches in the order of ``guided``.
        time_ids: SDXL's size numbers (height, width, 0, 0, height, width).
        generator: of the noise that an ancestral schedule adds.
        on_step: called with step, total and the latents so far.
    """
    conditions = tuple(reversed(conditions))  # the references' order: nothing first
    rows = len(conditions)
    context = torch.cat([condition.context for condition in conditions])
    added = None
    if conditions[0].pooled is not None:
        ids = torch.tensor([time_ids], dtype=context.dtype, device=context.device)
        pooled = torch.cat([condition.pooled for condition in conditions])
        added = {"text_embeds": pooled, "time_ids": ids.expand(len(pooled), -1)}
    latents = noise_BChw * scheduler.init_noise_sigma
    images = _images(conditions, noise_BChw)
    options = {} if generator is None else {"generator": generator}
    for step, time in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latents.repeat(rows, 1, 1, 1), time)
        x = x if images is None else torch.cat([x, images], dim=1)
        predicted = unet(x, time, context, added_cond_kwargs=added).sample
        eps = guided(predicted.chunk(rows)[::-1], guidance, image_guidance)
        latents = scheduler.step(eps, time, latents, **options).prev_sample
        if on_step is not None:
            on_step(step + 1, len(scheduler.timesteps), latents)
    return latents


def _images(conditions: Sequence[Condition], like: Tensor) -> Tensor | None:
    """The branches' image latents, zeros where a branch has none; None where no one has."""
    if all(condition.image is None for condition in conditions):
        return None
    zeros = torch.zeros_like(like)
    return torch.cat([zeros if c.image is None else c.image for c in conditions])
