"""Learned queries within a language model's stream: positions whose inputs are known ahead and
whose hidden states are wanted (SEED-X's image tokens, DreamLLM's dream queries).

The references feed SEED-X's 64 image tokens one by one. All of them are known once a picture is
opened, so they are read in one pass with the same result.

Suffixes: b branches, B rows, n queries, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.decoder import Decoder, Segment
from .kv_cache import KVCache
from .next_token import OnToken, TextRules, TokenSampling, write_text
from .stream import Context, DecoderStream


@dataclass(frozen=True, eq=False)
class QuerySpan:
    """A picture's place in the stream.

    Attributes:
        opening, closing: the ids around the queries.
        queries: their input embeddings [n, C].
    """

    opening: int
    closing: int
    queries: Tensor

    def __len__(self) -> int:
        return len(self.queries)


@torch.inference_mode()
def tail_states(
    model: Decoder,
    contexts: Sequence[Context],
    count: int,
    device: torch.device,
    masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Hidden states [b, count, C] at the last positions of contexts of any length, in one pass
    without a cache: the weights are read once, whatever they are streamed from.

    Args:
        masks: bool [n, n] per context, what a token sees; by default all before it and itself.
    """
    x = [context.embed(model, device) for context in contexts]
    attend = masks or ["causal"] * len(x)
    segments = [Segment(None, len(part), seen) for part, seen in zip(x, attend, strict=True)]
    hidden = model(torch.cat(x), segments).split([len(part) for part in x])
    return torch.stack([states[-count:] for states in hidden])


def memory_required(model: Decoder, tokens: int, cached: int = 0) -> int:
    """Bytes that a run takes beside the weights: the widest activations of a pass over so many
    tokens, scores of the last one, and a cache of so many."""
    p, size = model.params, model.compute_dtype.itemsize
    widest = 6 * p.width + 3 * p.mlp_width
    cache = KVCache.nbytes(p.depth, 1, p.kv_heads, cached, p.head_width, model.compute_dtype)
    attention = p.heads * tokens * 4 * 64  # parts of the scores that are held at once
    return tokens * widest * size + attention + 8 * p.vocab * 4 + 2 * cache


@torch.inference_mode()
def read_span(stream: DecoderStream, span: QuerySpan) -> Tensor:
    """Hidden states [b, B, n, C] of a span that begins here. Its closing id stays unread.

    The opening id may have been pushed, but not read.
    """
    model, B = stream.model, stream.batch
    device = stream.caches[0].keys.device
    ids = torch.tensor([[span.opening]], device=device)
    x = torch.cat([model.embed_ids(ids)[0], span.queries.to(device, model.compute_dtype)])
    hidden_bBnC = stream.feed(x.expand(B, -1, -1))[:, :, 1:]
    stream.push(torch.full((B, 1), span.closing, dtype=torch.int64, device=device))
    return hidden_bBnC


@dataclass(frozen=True, eq=False)
class TurnRules:
    """How a text with pictures in it is written.

    Attributes:
        stops: ids that end it.
        limit: ids at most, those of the spans included.
        span_ids: the ids of a span's queries. One of them written outside of a span is followed
            by the rest of them (SEED-X).
        opened: the prompt ends with the opening id, which has not been read.
        pause: stop after a picture, for the caller to draw it and show it to the model. One that
            was opened is finished beyond the limit then.
        allowed, adjust: as in ``TextRules``.
    """

    stops: tuple[int, ...]
    limit: int
    span: QuerySpan
    span_ids: tuple[int, ...]
    opened: bool = False
    pause: bool = False
    allowed: Tensor | None = None
    adjust: Callable[[Tensor], Tensor] | None = None

    def text(self, limit: int) -> TextRules:
        """Rules for the text up to the next picture."""
        chain = tuple(dict.fromkeys((self.span.opening, self.span.closing, *self.span_ids)))
        stops = tuple(dict.fromkeys((*self.stops, *chain)))
        return TextRules(stops, limit, self.allowed, self.adjust)


@dataclass(frozen=True, eq=False)
class Turn:
    """What a model wrote.

    Attributes:
        ids: the new ids, those of the spans in full.
        spans: hidden states [n, C] of the complete spans among them.
        ended: "stop", "picture" (it pauses after one) or "limit".
        cut: the limit fell within a span, whose picture is lost.
    """

    ids: list[int]
    spans: list[Tensor]
    ended: str
    cut: bool = False


@torch.inference_mode()
def write_turn(
    stream: DecoderStream,
    rules: TurnRules,
    sampling: TokenSampling,
    noise_1n: Tensor,
    on_token: OnToken | None = None,
    seen_1V: Tensor | None = None,
) -> Turn:
    """Text, and at every opening id a span in one pass, until a stop, a picture or the limit.

    Args:
        stream: of one row and one branch, with room for the limit and a span.
        noise_1n: uniforms, at least ``limit``.
        seen_1V: bool, ids in the prompt, for the repetition penalty.
    """
    ids, spans, opened = [], [], rules.opened
    forced = (*rules.span_ids, rules.span.closing)
    while opened or len(ids) < rules.limit:
        room = rules.limit - len(ids)
        if opened and room < len(forced) and not rules.pause:
            return Turn([*ids, *forced[:room]], spans, "limit", cut=True)
        if opened:
            spans.append(read_span(stream, rules.span)[0, 0])
            ids += forced
            if rules.pause:
                return Turn(ids, spans, "picture")
        noise = noise_1n[:, len(ids) :]
        if not len(ids) < rules.limit:
            break
        new = _write(stream, rules, ids, sampling, noise, on_token, seen_1V)
        ids += new
        if new[-1] in rules.stops:
            return Turn(ids, spans, "stop")
        opened = new[-1] == rules.span.opening
        if opened:
            stream.rewind(1)  # it is read together with the queries
        elif new[-1] in rules.span_ids:
            rest = forced[forced.index(new[-1]) + 1 :][: rules.limit - len(ids)]
            stream.push(torch.tensor([rest], dtype=torch.int64, device=stream.hidden().device))
            ids += rest
    return Turn(ids, spans, "limit")


def _write(
    stream, rules: TurnRules, before: list[int], sampling, noise_1n, on_token, seen_1V
) -> list[int]:
    """Text up to the next picture; progress counts and shows what was written before."""

    def counted(count: int, total: int, tokens: Tensor) -> None:
        done = torch.tensor([before], dtype=torch.int64, device=tokens.device)
        on_token(len(before) + count, rules.limit, torch.cat([done, tokens], dim=1))

    seen = None
    if seen_1V is not None:
        seen = seen_1V.clone()
        seen[0, before] = True
    text = rules.text(rules.limit - len(before))
    written = write_text(stream, text, sampling, noise_1n, seen, on_token and counted)
    return written[0].tolist()


def seen_ids(context: Context, vocab: int) -> Tensor:
    """bool [1, vocab]: the ids of a prompt."""
    seen = torch.zeros(1, vocab, dtype=torch.bool)
    seen[0, context.ids] = True
    return seen
