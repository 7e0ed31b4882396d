"""The next-token engine: one token after another, for pictures whose form is known ahead and for
texts that end by themselves.

It works on a ``Stream`` (``stream.py``), which may be a decoder-only transformer or any other
model that scores the next token. Nothing here waits for the device within a picture: what is
drawn stays on it, and which positions are drawn at all is known to the host.

Suffixes: b branches, B pictures or texts (rows), n tokens, V scored ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints.architecture import non_finite
from .noise import row_generators
from .sampling import draw, filter_logits
from .stream import Stream

# (tokens done, tokens in all, tokens so far [B, n]); may raise to stop the run.
OnToken = Callable[[int, int, Tensor], None]
FREE = -1  # in a plan: a token that is drawn


@dataclass(frozen=True)
class TokenSampling:
    """How an id is chosen from scores, in this order: penalty, temperature, top-k, top-p, min-p.

    Attributes:
        temperature: 0 takes the best id.
        top_k: number of ids kept, 0 for all.
        top_p: smallest probability mass kept, 0 or 1 for all.
        min_p: ids below this share of the best one's probability are dropped.
        repetition_penalty: scores of ids seen before are divided by it if positive, else
            multiplied (CTRL, arXiv 1909.05858); 1 for none.
        filters_first: top-k and top-p look at the scores before the temperature divides them
            (Unified-IO).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    filters_first: bool = False

    def __post_init__(self) -> None:
        shares = 0 <= self.top_p <= 1 and 0 <= self.min_p <= 1
        if not shares or min(self.temperature, self.top_k) < 0 or self.repetition_penalty <= 0:
            raise ValueError(
                f"temperature and top_k must not be negative, top_p and min_p must lie in 0..1, "
                f"repetition_penalty must be above 0; got {self}."
            )

    def penalised(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """The scores with those of ids in ``seen`` (bool, same shape) moved away."""
        if seen is None or self.repetition_penalty == 1:
            return logits
        by = self.repetition_penalty
        return torch.where(seen, torch.where(logits > 0, logits / by, logits * by), logits)

    def filtered(self, logits: Tensor) -> Tensor:
        """fp32 [..., V] after temperature and filters, -inf where dropped."""
        top_p = 0.0 if self.top_p == 1 else self.top_p
        if self.filters_first:
            logits = filter_logits(logits, self.top_k, top_p) / self.temperature
        else:
            logits = filter_logits(logits / self.temperature, self.top_k, top_p)
        if self.min_p > 0:
            p = logits.softmax(-1)
            logits = logits.masked_fill(p < self.min_p * p.amax(-1, keepdim=True), -torch.inf)
        return logits

    def choose(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Positions [...] among V scores [..., V]; ``noise`` as in ``sampling.draw``."""
        if self.temperature == 0:
            return logits.argmax(-1)
        return draw(self.filtered(logits), noise)


@dataclass(frozen=True)
class PicturePlan:
    """The tokens of a picture as far as they are known before it is drawn.

    Attributes:
        tokens: id of every position, or ``FREE`` for one that is drawn.
        blocks: the head's blocks that hold the ids which may be drawn.
        first_id: the id of the first of those.
        row: tokens of one row of the picture, after which it can be painted.
    """

    tokens: tuple[int, ...]
    blocks: slice
    first_id: int
    row: int

    @classmethod
    def grid(cls, height: int, width: int, blocks: slice, first_id: int) -> PicturePlan:
        """Nothing but codes, row by row."""
        return cls((FREE,) * (height * width), blocks, first_id, width)


def uniform_noise(seed: int, rows: int, count: int) -> Tensor:
    """Uniforms in (0, 1], [rows, count]; row i is what a single run with seed + i has."""
    return torch.stack([1 - torch.rand(count, generator=g) for g in row_generators(seed, rows)])


def guided_scores(
    stream: Stream, weights: Sequence[float], blocks: slice | None, hidden: Tensor | None = None
) -> Tensor:
    """Weighted sum over branches, fp32 [B, V]."""
    hidden = stream.hidden() if hidden is None else hidden
    scores_bBV = stream.scores(hidden, blocks)
    if len(weights) == 1:
        return scores_bBV[0]
    weights_b = torch.tensor(weights, dtype=torch.float32).to(scores_bBV.device)
    return torch.tensordot(weights_b, scores_bBV, dims=1)


@torch.inference_mode()
def draw_pictures(
    stream: Stream,
    weights: Sequence[float],
    plan: PicturePlan,
    sampling: TokenSampling,
    noise_Bn: Tensor,
    on_token: OnToken | None = None,
) -> Tensor:
    """Tokens int64 [B, n] of one picture per row, known ones included.

    Known tokens cost no pass of their own: they are read together with the next drawn one's
    predecessor. The last tokens stay pushed and unread.

    Args:
        weights: of the branches, see ``Branch``.
        noise_Bn: one number per position, or Exp(1) numbers [B, n, V] (``sampling.draw``).

    Raises:
        FloatingPointError: scores that are not finite.
    """
    device = stream.hidden().device
    noise = noise_Bn.to(device)
    total, B = len(plan.tokens), stream.batch
    known = torch.tensor(plan.tokens, dtype=torch.int64).to(device)
    tokens_Bn = known.expand(B, -1).clone()
    checksum = torch.zeros((), device=device)
    for i, token in enumerate(plan.tokens):
        if token == FREE:
            logits = guided_scores(stream, weights, plan.blocks)
            checksum += logits.sum()
            tokens_Bn[:, i] = sampling.choose(logits, noise[:, i]) + plan.first_id
        stream.push(tokens_Bn[:, i : i + 1])
        if on_token is not None:
            on_token(i + 1, total, tokens_Bn[:, : i + 1])
    check_finite(checksum, stream.model)
    return tokens_Bn


def check_finite(checksum: Tensor, model: nn.Module) -> None:
    """Scores may hold -inf for forbidden ids, but no NaN; one look per run."""
    if torch.isnan(checksum):
        raise non_finite("What the model scored", {"its file": model})


@dataclass(frozen=True)
class TextRules:
    """What may be written, and when a text ends.

    Attributes:
        stops: ids that end a text; the first one written is part of it.
        limit: tokens written at most.
        allowed: bool [V], ids that may be written; None for all.
        adjust: changes the scores [B, V] before anything else (SEED-X's odd mask).
    """

    stops: tuple[int, ...]
    limit: int
    allowed: Tensor | None = None
    adjust: Callable[[Tensor], Tensor] | None = None

    def admitted(self, logits: Tensor) -> Tensor:
        """The scores after these rules, -inf for ids that may not come."""
        if self.adjust is not None:
            logits = self.adjust(logits)
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed.to(logits.device), -torch.inf)
        return logits


@torch.inference_mode()
def write_text(
    stream: Stream,
    rules: TextRules,
    sampling: TokenSampling,
    noise_Bn: Tensor,
    seen_BV: Tensor | None = None,
    on_token: OnToken | None = None,
    weights: Sequence[float] = (1.0,),
) -> Tensor:
    """Tokens int64 [B, m], m <= limit: written until every row has shown a stop.

    A row that stopped earlier goes on; its part behind the stop means nothing. On an accelerator
    the end is looked for every few tokens, and what was written too much is taken back. The last
    token stays pushed and unread.

    Args:
        noise_Bn: uniforms, at least ``limit`` per row, or Exp(1) numbers [B, n, V].
        seen_BV: bool, ids in the prompt, for the repetition penalty; grows by what is written.
    """
    device = stream.hidden().device
    noise, stops = noise_Bn.to(device), torch.tensor(rules.stops, dtype=torch.int64).to(device)
    seen = None if seen_BV is None else seen_BV.to(device)
    tokens_Bn = torch.zeros(stream.batch, rules.limit, dtype=torch.int64, device=device)
    checksum = torch.zeros((), device=device)
    every = check_interval(device)
    for i in range(rules.limit):
        logits = guided_scores(stream, weights, None)
        checksum += logits.sum()
        logits = sampling.penalised(rules.admitted(logits), seen)
        tokens_Bn[:, i] = sampling.choose(logits, noise[:, i])
        if seen is not None:
            seen.scatter_(1, tokens_Bn[:, i : i + 1], True)
        stream.push(tokens_Bn[:, i : i + 1])
        if on_token is not None:
            on_token(i + 1, rules.limit, tokens_Bn[:, : i + 1])
        if (i + 1) % every == 0 or i + 1 == rules.limit:
            end = text_end(tokens_Bn[:, : i + 1], stops)
            if end is not None:
                take_back(stream, tokens_Bn[:, : i + 1], end)
                tokens_Bn = tokens_Bn[:, :end]
                break
    check_finite(checksum, stream.model)
    return tokens_Bn


def check_interval(device: torch.device) -> int:
    """Tokens between two looks at whether a text has ended; a look waits for an accelerator."""
    return 1 if device.type == "cpu" else 8


def text_end(tokens_Bn: Tensor, stops: Tensor) -> int | None:
    """Length up to the first stop of the row that shows one last; None while one shows none."""
    stopped = torch.isin(tokens_Bn, stops)
    if not bool(stopped.any(dim=1).all()):
        return None
    return int(stopped.int().argmax(dim=1).max()) + 1


def take_back(stream: Stream, tokens_Bn: Tensor, end: int) -> None:
    """Leave a stream as if only the first ``end`` of the tokens had been pushed."""
    extra = tokens_Bn.shape[1] - end
    if extra:
        stream.rewind(extra + 1)
        stream.push(tokens_Bn[:, end - 1 : end])
