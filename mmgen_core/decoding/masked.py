"""The masked engine: a picture's codes are drawn all at once and the least sure are masked again,
in a few steps (MaskGIT, arXiv 2202.04200; as Show-o's ``t2i_generate`` has it).

A prompt never sees the picture, so its keys and values are made once. A step reads the picture's
rows alone: they see the prompt and each other, so attention needs no mask, and of the head only
the rows of the image codes are used.

Suffixes: B pictures, N codes of a picture, V codes of the codebook, C width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ..checkpoints.architecture import non_finite
from ..models.decoder import Segment
from ..models.show_o import ShowO
from .kv_cache import KVCache
from .sampling import draw, filter_logits

SCHEDULES = ("cosine", "linear", "pow0.5", "pow2", "sigmoid")
UNKNOWN = -1  # a code not known yet

# (step, steps, codes [B, N] with ``UNKNOWN`` where masked); may raise to stop the run.
OnStep = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class MaskedSampling:
    """How codes are chosen.

    Attributes:
        steps: passes over the picture.
        guidance: w of (1 + w) prompt - w empty: 0 is off, 4 is what other tools call 5.
        schedule: which share stays masked after each step.
        temperature: of the chance in which codes are masked again; it falls to 0 at the end.
        top_k: draw among this many likeliest codes; 0 for all.
    """

    steps: int = 16
    guidance: float = 1.75
    schedule: str = "cosine"
    temperature: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0 or self.temperature < 0 or self.top_k < 0:
            raise ValueError(
                f"steps must be at least 1, guidance, temperature and top_k must not be negative; "
                f"got {self}."
            )
        masked_share(self.schedule, torch.tensor(0.5))

    def temperatures(self) -> list[float]:
        """Of every step: the reference multiplies what is left by 1 - r each time."""
        values, temperature = [], self.temperature
        for step in range(self.steps):
            temperature = temperature * (1.0 - (step + 1) / self.steps)
            values.append(temperature)
        return values

    def masked_counts(self, count: int) -> list[int]:
        """How many of ``count`` codes the schedule leaves masked after each step, in fp32 as in
        the reference: at r = 2/3 the cosine lies below one half."""
        ratios = [torch.tensor((step + 1) / self.steps) for step in range(self.steps)]
        return [int((count * masked_share(self.schedule, r)).floor()) for r in ratios]


def masked_share(schedule: str, r: Tensor) -> Tensor:
    """Share of the codes that stays masked when the share ``r`` of the steps is done.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule == "cosine":
        return torch.cos(r * math.pi * 0.5)
    if schedule == "linear":
        return (1 - r).clamp(1e-6, 1.0)
    if schedule.startswith("pow") and schedule[3:].replace(".", "", 1).isdigit():
        return (1 - r ** float(schedule[3:])).clamp(1e-6, 1.0)
    if schedule == "sigmoid":
        start, end = torch.tensor(-3.0), torch.tensor(3.0)
        low, high = start.sigmoid(), end.sigmoid()
        return ((high - (r * (end - start) + start).sigmoid()) / (high - low)).clamp(1e-6, 1.0)
    raise ValueError(
        f"Unknown schedule {schedule}. Known: {', '.join(SCHEDULES)}, or pow and a number."
    )


@dataclass(frozen=True)
class MaskedNoise:
    """Random numbers of one step.

    Attributes:
        draw: uniforms in (0, 1], [B, N], one per code; or Exp(1) numbers [B, N, V], which a
            recorded run of the reference has.
        order: uniforms [B, N] for which codes are masked again.
    """

    draw: Tensor
    order: Tensor


def masked_noise(
    generators: Sequence[torch.Generator], count: int, steps: int
) -> list[MaskedNoise]:
    """Noise of every step, one generator per picture."""
    numbers = [torch.rand(steps, 2, count, generator=g) for g in generators]
    per_step = torch.stack(numbers, dim=2).unbind(0)  # [2, B, N] each
    return [MaskedNoise(1 - draws, order) for draws, order in per_step]


def remask(confidence_BN: Tensor, unknown_BN: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Which codes to mask again, bool [B, N], and how many were to be, [B, 1].

    The least sure ones, at least one and fewer than were unknown; equals of the first that stays
    stay too.
    """
    unknown = unknown_BN.sum(dim=-1, keepdim=True)
    count = torch.clamp(unknown - 1, max=wanted).clamp(min=1)
    border = confidence_BN.sort(dim=-1).values.gather(1, count)
    return confidence_BN < border, count


def confidence(p_BN: Tensor, unknown_BN: Tensor, temperature: float, order_BN: Tensor) -> Tensor:
    """How sure each code is, with Gumbel noise; known codes are surer than any."""
    p = torch.where(unknown_BN, p_BN, torch.finfo(p_BN.dtype).max)
    gumbel = -(-order_BN.clamp(min=1e-20).log()).clamp(min=1e-20).log()
    return p.clamp(min=1e-20).log() + temperature * gumbel


def known_or_drawn(codes_BN: Tensor, drawn_BN: Tensor) -> Tensor:
    """Codes [B, N], those that were not known taken from the draw."""
    return torch.where(codes_BN == UNKNOWN, drawn_BN, codes_BN)


class Prompts:
    """Keys and values of the prompts and, for guidance, of the empty one, made once per run."""

    def __init__(
        self,
        model: ShowO,
        prompts: Sequence[Tensor],
        empty: Tensor | None,
        count: int,
        device: torch.device | str,
    ):
        """
        Args:
            prompts: int64 ids per picture. Equal neighbours share one reading.
            empty: ids of the empty prompt; None for no guidance.
            count: codes of a picture.
        """
        self.model, self.guided = model, empty is not None
        groups = [
            (ids, len(list(same))) for ids, same in groupby(map(tuple, map(Tensor.tolist, prompts)))
        ]
        if empty is not None:
            groups.append((tuple(empty.tolist()), len(prompts)))
        texts = [torch.tensor(ids, dtype=torch.int64, device=device) for ids, _ in groups]
        caches = [model.decoder.cache(1, len(ids), device) for ids in texts]
        segments = [Segment(cache, len(ids)) for cache, ids in zip(caches, texts, strict=True)]
        model.decoder(model.decoder.embed_ids(torch.cat(texts)), segments)
        room = count + 2
        self.caches: list[KVCache] = [
            cache.fork(rows, cache.length + room)
            for cache, (_, rows) in zip(caches, groups, strict=True)
        ]

    def scores(self, codes_BN: Tensor) -> Tensor:
        """Raw logits [branches * B, N, V]: the prompts' rows, then those of the empty prompt."""
        p, decoder = self.model.params, self.model.decoder
        B, N = codes_BN.shape
        ids = torch.where(codes_BN == UNKNOWN, p.mask, codes_BN + p.first_code)
        ends = [ids.new_full((B, 1), end) for end in (p.soi, p.eoi)]
        x = decoder.embed_ids(torch.cat([ends[0], ids, ends[1]], dim=1)).flatten(0, 1)
        segments = [Segment(cache, N + 2, "full", keep=False) for cache in self.caches]
        hidden = decoder(x.repeat(1 + self.guided, 1), segments).unflatten(0, (-1, N + 2))
        return self.model.code_scores(hidden[:, 1:-1])


def guided(logits: Tensor, guidance: float) -> Tensor:
    """[B, N, V] of the rows of both branches, or the rows themselves where there is one."""
    if guidance <= 0:
        return logits
    prompt, empty = logits.chunk(2)
    return (1 + guidance) * prompt - guidance * empty


@torch.inference_mode()
def draw_codes(
    prompts: Prompts,
    codes_BN: Tensor,
    sampling: MaskedSampling,
    noise: Sequence[MaskedNoise],
    on_step: OnStep | None = None,
) -> Tensor:
    """Codes [B, N] with all that are ``UNKNOWN`` drawn; the others are never changed.

    Raises:
        FloatingPointError: scores that are not finite.
    """
    device, N = codes_BN.device, codes_BN.shape[1]
    schedule = zip(sampling.masked_counts(N), sampling.temperatures(), noise, strict=True)
    checksum = torch.zeros((), device=device)
    drawn = codes_BN
    for step, (wanted, temperature, numbers) in enumerate(schedule):
        logits = guided(prompts.scores(codes_BN), sampling.guidance)
        checksum += logits.sum()
        logits = filter_logits(logits, sampling.top_k)
        unknown = codes_BN == UNKNOWN
        drawn = known_or_drawn(codes_BN, draw(logits, numbers.draw.to(device)))
        p = logits.softmax(-1).gather(-1, drawn[..., None])[..., 0]
        sure = confidence(p, unknown, temperature, numbers.order.to(device))
        masking, _ = remask(sure, unknown, wanted)
        codes_BN = torch.where(masking & unknown, UNKNOWN, drawn)
        if on_step is not None:
            last = step + 1 == sampling.steps
            on_step(step + 1, sampling.steps, drawn if last else codes_BN)
    if not torch.isfinite(checksum):
        raise non_finite("What the model scored", {"its file": prompts.model})
    return drawn
