"""One token of a text after the other: penalties, filters, a draw, and what a grammar allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..conditioners.text_writer import TextSettings
from .sampling import draw, filter_logits

_UNSEEN = 1e-3  # of the mass: what is left out when a grammar picks from the likeliest tokens
_EXAMINED = 256  # tokens looked at by then; more only while none is allowed


class NoTokenAllowed(ValueError):
    """No token of the vocabulary may follow."""


class TokenChooser:
    """Chooses the tokens of one text; the same seed makes the same choices.

    All on the CPU in fp32, so that a text does not depend on the device (rounding may).
    """

    def __init__(self, settings: TextSettings):
        self.settings = settings
        generator = torch.Generator("cpu").manual_seed(settings.seed % 2**64)
        self._noise = 1 - torch.rand(settings.max_tokens, generator=generator)

    def choose(
        self,
        scores: Tensor,
        written: Sequence[int],
        allowed: Callable[[int], bool] | None = None,
    ) -> int:
        """The next token.

        Args:
            scores: [V], on any device.
            written: tokens of the text so far.
            allowed: whether a token may follow; asked for the likeliest ones only.

        Raises:
            ValueError: scores that are not finite, or no allowed token.
        """
        logits = scores.detach().float().cpu()
        # -inf forbids a token; anything else that is not finite is a broken model
        if torch.isnan(logits).any() or not torch.isfinite(logits.max()):
            raise ValueError(
                "The language model's scores are not finite: its weights are damaged, or this "
                "precision overflows. Try dtype fp32 or bf16."
            )
        logits = self._penalised(logits, written)
        settings = self.settings
        if settings.temperature > 0:
            logits = logits / settings.temperature
        if allowed is not None:
            logits = _only(logits, allowed)
        if settings.temperature == 0:
            return int(logits.argmax())
        logits = filter_logits(logits, settings.top_k)
        if settings.min_p > 0:
            least = logits.max() + torch.tensor(settings.min_p).log()
            logits = logits.masked_fill(logits < least, -torch.inf)
        if settings.top_p < 1:
            logits = filter_logits(logits, 0, max(settings.top_p, 1e-9))
        return int(draw(logits, self._noise[len(written)]))

    def _penalised(self, logits: Tensor, written: Sequence[int]) -> Tensor:
        settings = self.settings
        if not written or (settings.repetition_penalty == 1 and settings.presence_penalty == 0):
            return logits
        ids = torch.tensor(sorted(set(written)))
        values = logits[ids]
        penalty = settings.repetition_penalty or 1.0  # 0 on the stock node: off
        values = torch.where(values < 0, values * penalty, values / penalty)
        return logits.index_copy(0, ids, values - settings.presence_penalty)


def _only(logits: Tensor, allowed: Callable[[int], bool]) -> Tensor:
    """The likeliest allowed tokens; the rest, and what is too unlikely to look at, is -inf."""
    order = logits.argsort(descending=True)
    seen = logits[order].softmax(-1).cumsum(-1)
    kept: list[int] = []
    for rank, token in enumerate(order.tolist()):
        if logits[token] == -torch.inf:
            break
        if kept and (rank >= _EXAMINED or 1 - float(seen[rank]) < _UNSEEN):
            break
        if allowed(token):
            kept.append(token)
    if not kept:
        raise NoTokenAllowed("No token of this model's vocabulary fits the form of the text.")
    mask = torch.full_like(logits, -torch.inf)
    return mask.index_copy(0, torch.tensor(kept), logits[torch.tensor(kept)])
