"""Text and pictures in one stream with a ``PaperTransfusion``: text token by token, pictures by
DDPM with the stream so far in the cache.

A picture's patches see each other and all before them. While they are solved they are not kept
in the cache; the finished ones are read once more as a clean picture, and the text goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.decoder import Segment
from ..models.paper_transfusion import PaperTransfusion
from .flow import NoiseSchedule, OnStep
from .flow_sequence import Part, Picture
from .flow_stream import StreamSampling, pick
from .kv_cache import KVCache


@dataclass(frozen=True)
class Diffusion:
    """The DDPM loop: steps of the trained 1000, and guidance (1 is off)."""

    steps: int = 250
    guidance: float = 3.0


class Denoiser:
    """The guided noise of pictures [B, L, h, w] behind cached streams of B rows."""

    def __init__(self, model: PaperTransfusion, branches: Sequence[KVCache], guidance: float):
        self.model, self.branches, self.guidance = model, branches, guidance

    def __call__(self, x: Tensor, t: int) -> Tensor:
        t_B = torch.full((len(x),), t, device=x.device)
        patches = self.model.patches(x, t_B)
        tokens = patches.tokens
        flat = tokens.flatten(0, 1).repeat(len(self.branches), 1)
        n = tokens.shape[1]
        segments = [Segment(cache, n, "full", keep=False) for cache in self.branches]
        hidden = self.model.decoder(flat, segments).chunk(len(self.branches))
        noises = [self.model.noise_of(part.view(tokens.shape), patches) for part in hidden]
        if len(noises) == 1:
            return noises[0]
        return noises[1] + self.guidance * (noises[0] - noises[1])


def solve(
    denoise: Denoiser,
    noise: Tensor,
    diffusion: Diffusion,
    step_noise: Sequence[Tensor],
    on_step: OnStep | None = None,
) -> Tensor:
    """Pictures from noise. ``step_noise`` has one entry per step."""
    schedule, x = NoiseSchedule.cosine(), noise
    steps = schedule.timesteps(diffusion.steps)
    ratio = len(schedule.alphas_cumprod) // diffusion.steps
    for i, (t, fresh) in enumerate(zip(steps, step_noise, strict=True)):
        x = schedule.step(x, denoise(x, t), t, t - ratio, fresh.to(x.device))
        if on_step is not None:
            on_step(i + 1, len(steps), x)
    return x


class DiffusionStream:
    """One stream in the making."""

    def __init__(
        self,
        model: PaperTransfusion,
        prompt: Sequence[Part],
        sampling: StreamSampling,
        device: torch.device | str,
    ):
        self.model, self.sampling, self.device = model, sampling, device
        self.parts: list[Part] = [torch.tensor([model.params.bos])]
        self.cache = model.decoder.cache(1, 256, device)
        self._read(self.parts[0])
        for part in prompt:
            self.append(part)
        self.new_tokens = 0

    def append(self, part: Part) -> None:
        """Read more text, or a clean picture with the marks around it."""
        if isinstance(part, Picture):
            if self.last_id != self.model.params.boi:
                self.append(torch.tensor([self.model.params.boi]))
            self._read_picture(part.latents)
            self.parts.append(part)
            self.parts.append(torch.tensor([self.model.params.eoi]))
            self._read(self.parts[-1])
            return
        if len(part):
            self._read(part)
            if isinstance(self.parts[-1], Picture):
                self.parts.append(part.cpu())
            else:
                self.parts[-1] = torch.cat([self.parts[-1], part.cpu()])

    def _read(self, ids: Tensor) -> None:
        self._make_room(len(ids))
        x = self.model.decoder.embed_ids(ids.to(self.device))
        self.hidden = self.model.decoder(x, [Segment(self.cache, len(ids))])[-1]

    def _read_picture(self, latents: Tensor) -> None:
        now = torch.zeros(1, dtype=torch.int64, device=self.device)
        tokens = self.model.patches(latents[None].to(self.device), now).tokens[0]
        self._make_room(len(tokens))
        self.model.decoder(tokens, [Segment(self.cache, len(tokens), "full")])

    def _make_room(self, count: int) -> None:
        if self.cache.length + count > self.cache.capacity:
            self.cache = self.cache.fork(1, self.cache.length + count + 512)

    @property
    def last_id(self) -> int | None:
        part = self.parts[-1]
        return None if isinstance(part, Picture) else int(part[-1])

    def write(self, uniform: Tensor) -> None:
        """Append the next text token; [EOI] is never chosen."""
        logits = self.model.decoder.scores(self.hidden).clone()
        logits[self.model.params.eoi] = -torch.inf
        self.append(torch.tensor([pick(logits, self.sampling, uniform.to(logits.device))]))
        self.new_tokens += 1

    def denoiser(self, count: int, rows: int = 1) -> Denoiser:
        """For pictures of ``count`` patches behind the stream, which ends with [BOI]."""
        p, caches = self.model.params, [self.cache]
        if self.sampling.guidance != 1:
            empty = torch.tensor([p.bos, p.boi], device=self.device)
            cache = self.model.decoder.cache(1, 2, self.device)
            self.model.decoder(self.model.decoder.embed_ids(empty), [Segment(cache, 2)])
            caches.append(cache)
        branches = [cache.fork(rows, cache.length + count) for cache in caches]
        return Denoiser(self.model, branches, self.sampling.guidance)

    def draw(
        self, noise: Tensor, step_noise: Sequence[Tensor], on_step: OnStep | None = None
    ) -> Tensor:
        """Pictures [B, L, h, w] behind the stream, one per noise; the stream stays as it is."""
        count = noise.shape[-2] * noise.shape[-1] // self.model.params.patch**2
        denoise = self.denoiser(count, len(noise))
        diffusion = Diffusion(self.sampling.steps, self.sampling.guidance)
        return solve(denoise, noise, diffusion, step_noise, on_step)


def random_steps(
    generators: Sequence[torch.Generator], size: tuple[int, ...], steps: int
) -> tuple[Tensor, list[Tensor]]:
    """Starting noise [B, *size] and that of every step; one generator per picture."""
    numbers = torch.stack([torch.randn(steps + 1, *size, generator=g) for g in generators], dim=1)
    return numbers[0], list(numbers[1:])


def generate(
    model: PaperTransfusion,
    prompt: Sequence[Part],
    seed: int,
    sampling: StreamSampling,
    device: torch.device | str,
    on_step: OnStep | None = None,
) -> list[Part]:
    """Continue a prompt with text and pictures until the text's end or ``max_tokens``.

    Args:
        prompt: without [BOS]. Ends with [BOI] to begin with a picture.

    Returns:
        The whole stream, prompt and special ids included.
    """
    p, side = model.params, model.params.side
    grid = sampling.shape or (side // p.patch, side // p.patch)
    size = (p.channels, *(length * p.patch for length in grid))
    generator = torch.Generator("cpu").manual_seed(seed % 2**64)
    stream = DiffusionStream(model, prompt, sampling, device)
    while stream.new_tokens <= sampling.max_tokens:
        if stream.last_id == p.boi:
            noise, steps = random_steps([generator], size, sampling.steps)
            drawn = stream.draw(noise.to(device), steps, on_step)[0]
            stream.append(Picture(drawn))
            stream.new_tokens += grid[0] * grid[1]
            continue
        stream.write(1 - torch.rand((), generator=generator))
        if stream.last_id == p.bos:  # begins the next document
            break
    return [
        replace(part, latents=part.latents.cpu()) if isinstance(part, Picture) else part
        for part in stream.parts
    ]
