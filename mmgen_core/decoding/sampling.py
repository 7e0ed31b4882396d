"""Filters and draws over logits. All in fp32, all without a host synchronisation."""

from __future__ import annotations

import torch
from torch import Tensor


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Top-k, then top-p over the survivors; the rest becomes -inf, the best always stays.

    Equal values at either border are all kept. Only the k best are sorted: the filters keep a
    prefix of the descending order, so one threshold per row says it all.

    Args:
        logits: fp32 [..., V].
        top_k: number of codes kept; 0 keeps all.
        top_p: smallest probability mass kept; 0 turns the filter off.
    """
    vocab = logits.shape[-1]
    if (top_k <= 0 or top_k >= vocab) and top_p <= 0:
        return logits
    best = logits.topk(min(top_k, vocab) if top_k > 0 else vocab, dim=-1).values
    threshold = best[..., -1:]
    if top_p > 0:
        # Mass of everything strictly better; ties with the k-th best are part of the total.
        total = logits.masked_fill(logits < threshold, -torch.inf).logsumexp(-1, keepdim=True)
        mass = (best - total).exp()
        keep = mass.cumsum(-1) - mass < top_p
        keep[..., 0] = True
        threshold = best.masked_fill(~keep, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < threshold, -torch.inf)


def draw(logits: Tensor, noise: Tensor) -> Tensor:
    """One id per position, distributed as softmax(logits).

    Args:
        logits: fp32 [..., V], -inf where forbidden.
        noise: uniforms in (0, 1] of shape [...], for the inverse of the cumulative
            distribution; or Exp(1) numbers [..., V], for the race argmax(p / q), which is what
            ``torch.multinomial`` computes on a CPU, so that recorded runs can be repeated.
    """
    p = logits.softmax(-1)
    if noise.ndim == p.ndim:
        return (p / noise).argmax(-1)
    cumulative = p.cumsum(-1)
    # Forbidden codes are flat stretches, which a target above 0 never ends in.
    target = noise[..., None] * cumulative[..., -1:]
    ids = torch.searchsorted(cumulative, target)[..., 0]
    return ids.clamp_(max=logits.shape[-1] - 1)  # past the end where logits are NaN


def gumbel_mixture(logits: Tensor, exponential: Tensor, temperature: float) -> Tensor:
    """Gumbel-softmax weights [..., V] over the codes, from Exp(1) numbers of the same shape."""
    return ((logits - exponential.log()) / temperature).softmax(-1)
