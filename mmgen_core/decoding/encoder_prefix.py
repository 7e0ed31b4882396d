"""Prompts that an encoder reads, as the prefix of a next-token run.

The decoder's own sequence begins with the target's start tokens; what it reads of a prompt lies
in the caches as keys and values for cross-attention, computed here once, whatever the number of
pictures and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..models.decoder import Segment
from ..models.encoder_decoder import CrossCache
from .stream import Prefix


class Target(Protocol):
    """An encoder-decoder's decoder for one kind of answer.

    Attributes:
        start: the ids that its sequences begin with.
    """

    start: tuple[int, ...]
    device: torch.device

    def read(self, prompt: Any) -> CrossCache:
        """Encode a prompt; the cache of one row has room for the start tokens."""

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Embeddings [..., C]."""

    def __call__(self, x_NC: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Hidden states [N, C]."""


@torch.inference_mode()
def read_prompts(
    target: Target, prompts: Sequence[Any], on_pass: Callable[[], None] | None = None
) -> Prefix:
    """Encode prompts of any length, each by itself, and read the start tokens after them.

    Args:
        prompts: of the target's model, one per branch.
        on_pass: called before every prompt; may raise to stop.
    """
    caches = []
    for prompt in prompts:
        if on_pass is not None:
            on_pass()
        caches.append(target.read(prompt))
    start = torch.tensor(target.start, dtype=torch.int64, device=target.device)
    x = target.embed_ids(start).repeat(len(prompts), 1)
    hidden = target(x, [Segment(cache, len(start)) for cache in caches])
    last = hidden.view(len(prompts), len(start), -1)[:, -1]
    return Prefix(tuple(prompts), tuple(caches), last)
