"""The objectives that queries learn by: SEED-X regresses image features (Ge et al. 2024, section
3.2), DreamLLM learns from a frozen diffusion model's own loss (Dong et al. 2024, section 3.2).

A document is ids with features in some places (``Context``), as at inference; all documents of a
batch go through the language model packed, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..conditioners.dreamllm import DreamTokens, dreaming
from ..conditioners.seed_x import SeedXTokens
from ..decoding.latent_diffusion import BETAS, TRAIN_STEPS
from ..decoding.stream import Context
from ..models.decoder import Decoder, Segment
from ..models.dream_queries import DreamProjector, DreamQueries
from ..models.qwen_vit import pooled_features
from ..models.seed_x_agent import SeedXAgent

SEED_X_WEIGHTS = {"text": 1.0, "features": 6.0}  # published
DREAM_WEIGHTS = {"text": 1.0, "noise": 10.0}  # of the second and third stage


@dataclass(frozen=True)
class Losses:
    """The parts of an objective, and their weighted sum."""

    text: Tensor
    picture: Tensor
    total: Tensor


def states_of(language: Decoder, contexts: Sequence[Context]) -> list[Tensor]:
    """Hidden states [n, C] of every document, with gradients."""
    device = next(language.parameters()).device
    x = [context.embed(language, device) for context in contexts]
    hidden = language(torch.cat(x), [Segment(None, len(part)) for part in x])
    return list(hidden.split([len(part) for part in x]))


def text_loss(
    language: Decoder, states: Sequence[Tensor], contexts: Sequence[Context], learned: Sequence
) -> Tensor:
    """Mean cross entropy of the ids that are to be learned.

    Args:
        learned: bool [n] per document: the ids that the model should write; never the first.
    """
    before = torch.cat([s[:-1][m[1:]] for s, m in zip(states, learned, strict=True)])
    targets = torch.cat([c.ids[1:][m[1:]] for c, m in zip(contexts, learned, strict=True)])
    if not len(targets):
        return before.new_zeros(())
    return F.cross_entropy(language.scores(before), targets.to(before.device))


def regress_features(
    language: Decoder,
    agent: SeedXAgent,
    tokens: SeedXTokens,
    contexts: Sequence[Context],
    features_BNC: Tensor,
    learned: Sequence[Tensor],
    weights: dict[str, float] = SEED_X_WEIGHTS,
) -> Losses:
    """SEED-X: every document holds one picture's tokens, whose states become its features.

    Args:
        features_BNC: the frozen vision encoder's features of the pictures; means over neighbours
            are the targets.
    """
    states = states_of(language, contexts)
    image = torch.tensor(tokens.image)
    own = torch.stack([s[torch.isin(c.ids, image)] for s, c in zip(states, contexts, strict=True)])
    drawn = agent.draw(own)
    targets = pooled_features(features_BNC, drawn.shape[1]).to(drawn)
    picture = F.mse_loss(drawn.float(), targets.float())
    text = text_loss(language, states, contexts, learned)
    return Losses(text, picture, weights["text"] * text + weights["features"] * picture)


def synthesise(
    language: Decoder,
    queries: DreamQueries,
    projector: DreamProjector,
    tokens: DreamTokens,
    contexts: Sequence[Context],
    learned: Sequence[Tensor],
    unet: Any,
    latents_BChw: Tensor,
    generator: torch.Generator,
    weights: dict[str, float] = DREAM_WEIGHTS,
) -> Losses:
    """DreamLLM: the loss of a frozen diffusion model that is conditioned on the dream queries.

    Args:
        contexts: captions, without the dream, which stands behind each.
        unet: diffusers' UNet; its weights take no gradients, but pass them on.
        latents_BChw: of the pictures that the captions describe.
        generator: a CPU generator of noise levels and noise.
    """
    device = latents_BChw.device
    dreams = queries(device)
    opened = [dreaming(context, tokens, dreams) for context in contexts]
    states = states_of(language, opened)
    context, _ = projector(torch.stack([s[-1 - len(dreams) : -1] for s in states]))
    times = torch.randint(0, TRAIN_STEPS, (len(latents_BChw),), generator=generator).to(device)
    noise = torch.randn(latents_BChw.shape, generator=generator).to(device)
    predicted = unet(noisy(latents_BChw, noise, times), times, context).sample
    picture = F.mse_loss(predicted.float(), noise.float())
    marks = [F.pad(m, (0, len(dreams) + 2)) for m in learned]
    for mark, whole in zip(marks, opened, strict=True):
        mark[len(whole.ids) - len(dreams) - 2] = True  # it learns where a picture begins
    text = text_loss(language, states, opened, marks)
    return Losses(text, picture, weights["text"] * text + weights["noise"] * picture)


def noisy(latents_BChw: Tensor, noise_BChw: Tensor, times_B: Tensor) -> Tensor:
    """Stable Diffusion's latents at noise levels 0..999."""
    roots = torch.linspace(BETAS["beta_start"] ** 0.5, BETAS["beta_end"] ** 0.5, TRAIN_STEPS)
    kept = (1 - roots.double() ** 2).cumprod(0).to(latents_BChw.device)[times_B]
    kept = kept.to(latents_BChw.dtype).view(-1, 1, 1, 1)
    return kept.sqrt() * latents_BChw + (1 - kept).sqrt() * noise_BChw
