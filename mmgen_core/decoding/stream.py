"""What a next-token run reads: contexts, read once, and the streams that grow from them.

Guidance compares scores of several contexts (a full prompt, an empty one) for the same new
tokens. Each context is a branch with a cache of its own; all branches and pictures of a step go
through the weights in one packed pass.

Suffixes: b branches, B pictures (rows), n tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..models.decoder import Decoder, Segment
from .kv_cache import KVCache

PART = 512  # tokens of a context read in one pass, so that reading can be stopped between them


@dataclass(frozen=True, eq=False)
class Context:
    """A prompt of one branch.

    Attributes:
        ids: int64 [n].
        features: [m, C] embeddings that stand in place of some ids (pictures read as features).
        at: int64 [m], their positions.
    """

    ids: Tensor
    features: Tensor | None = None
    at: Tensor | None = None

    def embed(self, model: Decoder, device: torch.device) -> Tensor:
        """[n, C] on the device."""
        x = model.embed_ids(self.ids.to(device))
        if self.features is not None:
            x = x.index_copy(0, self.at.to(device), self.features.to(x))
        return x

    def equals(self, other: Context) -> bool:
        pairs = ((self.ids, other.ids), (self.features, other.features), (self.at, other.at))
        return all(a is b or (None not in (a, b) and same(a, b)) for a, b in pairs)


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


@dataclass(frozen=True, eq=False)
class Branch:
    """A context and its weight in the guided scores, which are the weighted sum over branches."""

    context: Context
    weight: float = 1.0


def merged(branches: Sequence[Branch]) -> list[Branch]:
    """Equal contexts as one branch, and none of weight 0: the same scores with fewer rows.

    Chameleon's three branches (full, pictures only, nothing) become two where the prompt has no
    picture; guidance 1 needs the full prompt alone.
    """
    kept: list[Branch] = []
    for branch in branches:
        for i, other in enumerate(kept):
            if branch.context.equals(other.context):
                kept[i] = Branch(other.context, other.weight + branch.weight)
                break
        else:
            kept.append(branch)
    return [branch for branch in kept if branch.weight != 0]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Contexts that were read: keys and values of each, and the hidden state after each.

    A run copies what it continues, so a prefix serves any number of seeds and batch sizes.
    """

    contexts: tuple[Context, ...]
    caches: tuple[KVCache, ...]
    hidden_bC: Tensor

    def serves(self, contexts: Sequence[Context]) -> bool:
        pairs = zip(self.contexts, contexts, strict=False)
        return len(contexts) == len(self.contexts) and all(a.equals(b) for a, b in pairs)


@torch.inference_mode()
def prefill(
    model: Decoder,
    contexts: Sequence[Context],
    device: torch.device,
    on_pass: Callable[[], None] | None = None,
) -> Prefix:
    """Read contexts of any length, packed, at most ``PART`` tokens of each in a pass.

    Args:
        on_pass: called before every pass; may raise to stop.
    """
    x = [context.embed(model, device) for context in contexts]
    if not all(len(part) for part in x):
        raise ValueError("A context without tokens cannot be continued.")
    caches = [model.cache(1, len(part), device) for part in x]
    last = [x[0]] * len(x)
    for start in range(0, max(map(len, x)), PART):
        if on_pass is not None:
            on_pass()
        chosen = [i for i, part in enumerate(x) if len(part) > start]
        parts = [x[i][start : start + PART] for i in chosen]
        segments = [Segment(caches[i], len(part)) for i, part in zip(chosen, parts, strict=True)]
        hidden = model(torch.cat(parts), segments).split([len(part) for part in parts])
        for i, part in zip(chosen, hidden, strict=True):
            last[i] = part[-1]
    return Prefix(tuple(contexts), tuple(caches), torch.stack(last))


class Stream(Protocol):
    """Branches that grow by the same tokens, for B pictures or texts side by side."""

    batch: int
    model: nn.Module

    def push(self, ids_Bn: Tensor) -> None:
        """Append tokens; they are read when the hidden state is asked for."""

    def hidden(self) -> Tensor:
        """State [b, B, C] after all that was pushed."""

    def scores(self, hidden: Tensor, blocks: slice | None) -> Tensor:
        """fp32 logits [..., V], or of some of the head's blocks."""

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` pushed tokens; at least one token must be pushed next."""


class DecoderStream:
    """A ``Stream`` of a decoder-only transformer."""

    def __init__(self, model: Decoder, prefix: Prefix, batch: int, room: int):
        """
        Args:
            room: tokens that will be pushed at most.
        """
        self.model, self.batch = model, batch
        self.caches = [cache.fork(batch, cache.length + room) for cache in prefix.caches]
        self._hidden_bBC = prefix.hidden_bC[:, None].expand(-1, batch, -1)
        self._pending: list[Tensor] = []

    def push(self, ids_Bn: Tensor) -> None:
        self._pending.append(ids_Bn)

    def hidden(self) -> Tensor:
        if self._pending:
            ids_Bn = torch.cat(self._pending, dim=1)
            self._pending = []
            self._hidden_bBC = self.feed(self.model.embed_ids(ids_Bn))[:, :, -1]
        return self._hidden_bBC

    def feed(self, x_BnC: Tensor) -> Tensor:
        """Read embeddings at once; hidden states [b, B, n, C] of every new position.

        What was pushed before must have been read (``hidden``).
        """
        if self._pending:
            raise ValueError("Pushed tokens must be read before others are fed.")
        b, (B, n, _) = len(self.caches), x_BnC.shape
        packed = x_BnC.flatten(0, 1).repeat(b, 1)
        hidden = self.model(packed, [Segment(cache, n) for cache in self.caches])
        hidden_bBnC = hidden.view(b, B, n, -1)
        self._hidden_bBC = hidden_bBnC[:, :, -1]
        return hidden_bBnC

    def scores(self, hidden: Tensor, blocks: slice | None) -> Tensor:
        return self.model.scores(hidden, blocks)

    def rewind(self, count: int) -> None:
        while count and self._pending:
            last = self._pending.pop()
            kept = max(last.shape[1] - count, 0)
            if kept:
                self._pending.append(last[:, :kept])
            count -= last.shape[1] - kept
        for cache in self.caches:
            cache.length -= count

    def keep(self, branches: Sequence[int]) -> None:
        """Go on with some of the branches only, in the given order."""
        self._hidden_bBC = self.hidden()[list(branches)]
        self.caches = [self.caches[i] for i in branches]

    def reorder(self, rows: Tensor) -> None:
        """Let row i continue what row ``rows[i]`` has been, after all was read (beam search)."""
        self._hidden_bBC = self.hidden()[:, rows]
        for cache in self.caches:
            cache.reorder(rows)

    def join(self, prefix: Prefix, room: int) -> None:
        """Add the branches of a prefix behind those there are."""
        hidden = self.hidden()
        added = [cache.fork(self.batch, cache.length + room) for cache in prefix.caches]
        more = prefix.hidden_bC[:, None].expand(-1, self.batch, -1)
        self.caches, self._hidden_bBC = self.caches + added, torch.cat([hidden, more])
