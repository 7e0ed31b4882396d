"""Text and pictures in one stream with a ``FlowTransformer`` (the lucidrains layout).

A picture's tokens are solved from noise with the stream so far in the cache; text goes token by
token. What the reference's ``sample_many`` computes, with these of its habits: a [som] that the
model writes itself is not read back before the picture (its place in the count is the
picture's), and the keys and values kept of a picture are those of the solver's last evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.decoder import Segment
from ..models.flow_transformer import FlowTransformer, FlowTransformerParams
from .flow import OnStep, midpoint
from .flow_sequence import Part, Picture, closed, joined_text, pack, picture_size, token_grid
from .kv_cache import KVCache
from .sampling import draw


@dataclass(frozen=True)
class StreamSampling:
    """How a stream is continued.

    Attributes:
        steps: points of the solver's time grid; it evaluates twice in between.
        guidance: 1 turns guidance off.
        temperature: of text; 0 takes the likeliest.
        min_p: text tokens below this share of the likeliest one's probability are left out.
        max_tokens: the stream ends after this many new tokens, patches included.
        shape: grid of tokens of pictures that the model starts by itself; None for its default.
    """

    steps: int = 16
    guidance: float = 3.0
    temperature: float = 1.0
    min_p: float = 0.1
    max_tokens: int = 2048
    shape: tuple[int, ...] | None = None


class Denoiser:
    """The guided flow of pictures [B, ...] behind a cached stream.

    Args:
        branches: caches of B rows: the stream's, and with guidance that of nulls.
        position: rotary position that all patches share.
    """

    def __init__(
        self,
        model: FlowTransformer,
        branches: Sequence[KVCache],
        position: int,
        kind: int,
        guidance: float,
    ):
        self.model, self.branches, self.kind = model, branches, kind
        self.position, self.guidance = position, guidance

    def __call__(self, time: Tensor, x: Tensor, last: bool) -> Tensor:
        tokens = self.model.embed_latents(x, self.kind)
        B, *grid, C = tokens.shape
        n = math.prod(grid)
        flat = tokens.reshape(B * n, C).repeat(len(self.branches), 1)
        index = torch.zeros(len(flat), dtype=torch.int64, device=x.device)
        times = self.model.times(time.reshape(1), index, torch.ones_like(index, dtype=torch.bool))
        segments = [
            Segment(cache, n, "full", keep=last and i == 0) for i, cache in enumerate(self.branches)
        ]
        hidden = self.model(flat, segments, torch.full_like(index, self.position), times)
        flows = [
            self.model.flow(part.view(B, *grid, C), self.kind)
            for part in hidden.chunk(len(self.branches))
        ]
        if len(flows) == 1:
            return flows[0]
        return flows[1] + self.guidance * (flows[0] - flows[1])


def latents_alone(model: FlowTransformer, kind: int, time_B: Tensor, x: Tensor) -> Tensor:
    """The flow of pictures [B, ...] without any text: no positions, no mask."""
    tokens = model.embed_latents(x, kind)
    B, *grid, C = tokens.shape
    n = math.prod(grid)
    index = torch.arange(B, device=x.device).repeat_interleave(n)
    times = model.times(time_B, index, torch.ones_like(index, dtype=torch.bool))
    segments = [Segment(None, n, "full", rows=B)]
    hidden = model(tokens.reshape(B * n, C), segments, None, times)
    return model.flow(hidden.view(B, *grid, C), kind)


class FlowStream:
    """One stream in the making: its parts, its cache, and the token not yet read."""

    def __init__(
        self,
        model: FlowTransformer,
        prompt: Sequence[Part],
        sampling: StreamSampling,
        device: torch.device | str,
    ):
        self.model, self.sampling, self.device = model, sampling, device
        self.parts = joined_text([torch.tensor([model.params.sos]), *prompt])
        packed = pack(model, [self.parts], device)
        room = min(sampling.max_tokens, 512) + 1
        self.cache = model.cache(1, packed.counts[0] + room, device)
        hidden = model(packed.x_NC, packed.segments([self.cache]), packed.positions_N, packed.times)
        self.hidden, self.position = hidden[-1], packed.following[0]
        self.unread: int | None = None  # the last token, where it is not in the cache
        self.new_tokens = 0

    @property
    def last_id(self) -> int | None:
        part = self.parts[-1]
        return None if isinstance(part, Picture) or not len(part) else int(part[-1])

    @property
    def asked_kind(self) -> int | None:
        """The kind of picture that the last token opens, if it does."""
        kinds = range(len(self.model.params.kinds))
        return next((k for k in kinds if self.last_id == self.model.params.som(k)), None)

    @property
    def finished(self) -> bool:
        ended = self.last_id == self.model.params.eos and self.new_tokens > 0
        return ended or self.new_tokens > self.sampling.max_tokens

    def write(self, uniform: Tensor) -> None:
        """Append the next text token, drawn with one uniform in (0, 1]."""
        if self.unread is not None:
            self._read(self.unread)
        logits = self.model.scores(self.hidden)
        chosen = pick(logits, self.sampling, uniform.to(logits.device))
        self.parts[-1] = torch.cat([self.parts[-1], torch.tensor([chosen])])
        self.unread, self.new_tokens = chosen, self.new_tokens + 1

    def _read(self, token: int) -> None:
        self._make_room(1)
        x = self.model.embed_ids(torch.tensor([token], device=self.device))
        at = torch.tensor([self.position], device=self.device)
        self.hidden = self.model(x, [Segment(self.cache, 1)], at)[-1]
        self.position += 1

    def draw(self, noise: Tensor, on_step: OnStep | None = None) -> None:
        """Solve a picture from noise, append it and its [eom]."""
        kind = self.asked_kind or 0
        x = solve(self, noise[None], on_step)[0]
        grid = token_grid(self.model.params, Picture(x, kind))
        self.parts += [Picture(x, kind), torch.tensor([self.model.params.eom(kind)])]
        self.unread = self.model.params.eom(kind)
        self.position += 1
        self.new_tokens += math.prod(grid)

    def branches(self, length: int, rows: int = 1) -> list[KVCache]:
        """Caches for a picture of ``length`` tokens: the stream's, and the nulls' if guided."""
        self._make_room(length)
        caches = [self.cache]
        if self.sampling.guidance != 1:
            null = self.model.params.null
            history = [
                p if isinstance(p, Picture) else torch.full_like(p, null) for p in self.parts
            ]
            packed = pack(self.model, [history], self.device)
            cache = self.model.cache(1, packed.counts[0] + length, self.device)
            segments = packed.segments([cache])
            self.model(packed.x_NC, segments, packed.positions_N, packed.times)
            caches.append(cache)
        if rows == 1:
            return caches
        return [cache.fork(rows, cache.length + length) for cache in caches]

    def _make_room(self, count: int) -> None:
        if self.cache.length + count > self.cache.capacity:
            self.cache = self.cache.fork(1, self.cache.length + count + 256)


def solve(stream: FlowStream, noise: Tensor, on_step: OnStep | None = None) -> Tensor:
    """Pictures [B, ...] that continue the stream, all from the same text, one noise each."""
    model, sampling = stream.model, stream.sampling
    kind = stream.asked_kind or 0
    length = math.prod(token_grid(model.params, Picture(noise[0], kind)))
    branches = stream.branches(length, len(noise))
    denoise = Denoiser(model, branches, stream.position, kind, sampling.guidance)
    times = torch.linspace(0, 1, sampling.steps, device=noise.device)
    return midpoint(denoise, noise, times, on_step)


def pick(logits_V: Tensor, sampling: StreamSampling, uniform: Tensor) -> int:
    """The next token from fp32 logits."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V / sampling.temperature
    p = logits_V.softmax(-1)
    kept = logits_V.masked_fill(p < sampling.min_p * p.max(), -torch.inf)
    return int(draw(kept[None], uniform.reshape(1)))


def generate(
    model: FlowTransformer,
    prompt: Sequence[Part],
    seed: int,
    sampling: StreamSampling,
    device: torch.device | str,
    on_step: OnStep | None = None,
    noise: Sequence[Tensor] = (),
) -> list[Part]:
    """Continue a prompt with text and pictures until [eos] or ``max_tokens``.

    Args:
        prompt: without [sos]. Ends with [som] to begin with a picture.
        noise: noises [*latents] of the first pictures; further ones come from the seed.

    Returns:
        The whole stream, prompt and special ids included.
    """
    generator = torch.Generator("cpu").manual_seed(seed % 2**64)
    stream = FlowStream(model, closed(model.params, prompt), sampling, device)
    given = iter(noise)
    while not stream.finished:
        kind = stream.asked_kind
        if kind is None:
            stream.write(1 - torch.rand((), generator=generator))
            continue
        grid = asked_grid(model.params, stream, kind)
        size = picture_size(model.params, kind, grid)
        start = next(given, None)
        if start is None:
            start = torch.randn(size, generator=generator)
        stream.draw(start.to(device), on_step)
    return [
        replace(p, latents=p.latents.cpu()) if isinstance(p, Picture) else p for p in stream.parts
    ]


def asked_grid(params: FlowTransformerParams, stream: FlowStream, kind: int) -> tuple[int, ...]:
    """The grid of tokens that is to be drawn: what the text says behind [meta] (the reference's
    sampler reads that only where it is one number), the caller's, or the file's default.

    Raises:
        ValueError: nothing says how large.
    """
    p = params.kinds[kind]
    said = params.read_shape(stream.parts[-1])
    shape = said if said is not None and len(said) == p.axes else stream.sampling.shape or p.shape
    if shape is None:
        raise ValueError(
            "The model starts a picture, but neither its text nor its file says of which size. "
            "Set width and height."
        )
    return shape
