"""Speculative Jacobi decoding (Teng et al. 2024, arXiv 2410.01699): several tokens of a picture in
one pass, without training.

A pass reads the newest token and guesses for those after it, and gives scores for each. Guesses
are the previous pass's own samples. Two rules decide which of them stand:

- shared noise: every position keeps its random number, so its sample is a function of the scores.
  A guess stands if the scores that saw only standing tokens give the same id again. The picture is
  the very one of plain sampling with the same numbers.
- rejection: the paper's. A guess stands with probability min(1, p / q) of its new and its old
  probability; the picture's distribution is that of plain sampling, the picture is another one.

Ids are counted from the plan's first one; the number V behind the last stands for the token that
a position's plan prescribes. Suffixes: K positions of a pass, V ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .next_token import FREE, OnToken, PicturePlan, TokenSampling, check_finite
from .noise import row_generators
from .sampling import draw
from .stream import DecoderStream


@dataclass(frozen=True)
class Speculation:
    """How pictures are drawn several tokens at a time.

    Attributes:
        window: tokens of a pass.
        rule: "shared noise" (the picture of plain sampling) or "rejection" (the paper's).
    """

    window: int = 16
    rule: str = "shared noise"

    def __post_init__(self) -> None:
        if self.window < 2 or self.rule not in ("shared noise", "rejection"):
            raise ValueError(
                f"The window must have at least 2 tokens and the rule be 'shared noise' or "
                f"'rejection'; got {self.window}, {self.rule!r}."
            )


def verify(
    drafts_K: Tensor, draft_p_KV: Tensor, model_p_KV: Tensor, uniform_K: Tensor
) -> tuple[int, Tensor | None]:
    """The paper's test, left to right (its algorithm 1).

    Args:
        drafts_K: guesses; entry 0 is the newest standing token and not tested.
        draft_p_KV: the distribution that each guess was drawn from.
        model_p_KV: new distributions; entry i is of the position after guess i.
        uniform_K: numbers in [0, 1); guess i stands while its number is below min(1, p / q).

    Returns:
        how many guesses stand, and the distribution [V] to draw the next token from where one
        was rejected (None where none was: the last entry of ``model_p_KV`` is it).
    """
    guesses = drafts_K[1:, None]
    p = model_p_KV[:-1].gather(1, guesses)[:, 0]
    q = draft_p_KV[1:].gather(1, guesses)[:, 0]
    stands = uniform_K[1:] < (p / q).clamp(max=1)
    count = int(stands.long().cumprod(0).sum())
    if count == len(stands):
        return count, None
    residual = (model_p_KV[count] - draft_p_KV[count + 1]).clamp(min=0)
    return count, residual / residual.sum()


class WindowReader:
    """Reads the newest token and guesses in one pass, and takes back what does not stand."""

    def __init__(
        self,
        stream: DecoderStream,
        weights: Sequence[float],
        plan: PicturePlan,
        sampling: TokenSampling,
    ):
        self.stream, self.weights, self.plan, self.sampling = stream, weights, plan, sampling
        self.vocab = sum(stream.model.params.blocks[plan.blocks])
        self.checksum = torch.zeros(())

    def scores(self, ids_K: Tensor) -> Tensor:
        """Guided fp32 scores [K, V] of the positions after each id."""
        hidden_bKC = self.stream.feed(self.stream.model.embed_ids(ids_K[None]))[:, 0]
        return self._guided(hidden_bKC)

    def first_scores(self) -> Tensor:
        """The same [1, V] of the position after all that was pushed."""
        return self._guided(self.stream.hidden())

    def _guided(self, hidden_bKC: Tensor) -> Tensor:
        scores_bKV = self.stream.scores(hidden_bKC, self.plan.blocks)
        weights_b = torch.tensor(self.weights, dtype=torch.float32).to(scores_bKV.device)
        guided = torch.tensordot(weights_b, scores_bKV, dims=1)
        self.checksum = self.checksum.to(guided.device) + guided.sum()
        return guided

    def distributions(self, scores_KV: Tensor, start: int) -> Tensor:
        """[K, V + 1] after filters; where the plan prescribes a token, all on the last entry."""
        logits = self.sampling.filtered(scores_KV)
        p = F.pad(logits.softmax(-1), (0, 1))
        known = torch.tensor([t != FREE for t in self.plan.tokens[start : start + len(p)]])
        p[known.to(p.device)] = F.one_hot(torch.tensor(p.shape[1] - 1), p.shape[1]).to(p)
        return p

    def take_back(self, count: int) -> None:
        """Forget the last ``count`` ids of the last pass."""
        for cache in self.stream.caches:
            cache.length -= count


@torch.inference_mode()
def draw_picture(
    stream: DecoderStream,
    weights: Sequence[float],
    plan: PicturePlan,
    sampling: TokenSampling,
    speculation: Speculation,
    noise_1n: Tensor,
    seed: int,
    on_token: OnToken | None = None,
) -> Tensor:
    """Tokens [1, n] of one picture, as ``draw_pictures`` gives them; a batch is a loop over seeds.

    Args:
        stream: with room for n + ``speculation.window`` tokens, and batch 1.
        noise_1n: the numbers of plain sampling, used by the shared-noise rule and for first tokens.
        seed: of the numbers that the rejection rule needs besides.
    """
    if sampling.temperature == 0 and speculation.rule == "rejection":
        speculation = Speculation(speculation.window)  # greedy: both rules say the same
    reader = WindowReader(stream, weights, plan, sampling)
    run = _SharedNoise if speculation.rule == "shared noise" else _Rejection
    state = run(reader, speculation.window, noise_1n[0], seed)
    while state.done < len(plan.tokens):
        state.advance()
        if on_token is not None:
            on_token(state.done, len(plan.tokens), state.tokens[None, : state.done])
    check_finite(reader.checksum, stream.model)
    stream.push(state.tokens[None, state.done - 1 :])  # read up to the token before it
    return state.tokens[None]


class _Run(ABC):
    """Tokens that stand, and guesses for those behind them."""

    def __init__(self, reader: WindowReader, window: int, noise_n: Tensor, seed: int):
        self.reader, self.plan, self.window = reader, reader.plan, window
        self.device = reader.stream.hidden().device
        self.noise_n, self.done = noise_n.to(self.device), 0
        self.known = torch.tensor(self.plan.tokens).to(self.device)
        self.tokens = self.known.clone()  # behind ``done``: guesses, where there are any
        self.guessed = 0  # how many positions behind ``done`` hold guesses

    def advance(self) -> None:
        """One pass: at least one more token stands."""
        if self.done == 0:
            self.settle(self.reader.first_scores(), 0, 1)
            return
        count = min(self.window, len(self.plan.tokens) - self.done)
        self.fill(count - 1)
        ids = self.tokens[self.done - 1 : self.done - 1 + count]
        scores = self.reader.scores(ids)
        before = self.done
        self.settle(scores, count - 1, count)
        self.reader.take_back(count - (self.done - before))

    @abstractmethod
    def settle(self, scores_KV: Tensor, guesses: int, count: int) -> None:
        """Move ``done`` on over guesses that stand and one more token."""

    def fill(self, count: int) -> None:
        """Guess positions that have no guess yet: the code to the left goes on."""
        for i in range(self.done + self.guessed, self.done + count):
            if self.plan.tokens[i] == FREE:
                self.tokens[i] = self.last_code(i)
        self.guessed = max(self.guessed, count)

    def last_code(self, before: int) -> Tensor | int:
        """The nearest drawn token to the left of a position, the first id where there is none."""
        for i in range(before - 1, -1, -1):
            if self.plan.tokens[i] == FREE:
                return self.tokens[i]
        return self.plan.first_id


class _SharedNoise(_Run):
    def settle(self, scores_KV: Tensor, guesses: int, count: int) -> None:
        start, stop = self.done, self.done + count
        noise = self.noise_n[start:stop]
        fresh = self.reader.sampling.choose(scores_KV, noise) + self.plan.first_id
        known = self.known[start:stop]
        fresh = torch.where(known == FREE, fresh, known)
        same = fresh[:guesses] == self.tokens[start : start + guesses]
        stands = int(same.long().cumprod(0).sum())
        self.tokens[start:stop] = fresh  # behind the standing ones: the next guesses
        self.done, self.guessed = start + stands + 1, count - stands - 1


class _Rejection(_Run):
    def __init__(self, reader: WindowReader, window: int, noise_n: Tensor, seed: int):
        super().__init__(reader, window, noise_n, seed)
        generator = next(row_generators(seed, 1))
        shape = (len(self.plan.tokens), 3, window)
        numbers = torch.rand(shape, generator=generator, dtype=torch.float32)
        self.numbers = iter(numbers.to(self.device))  # per pass: tests, fresh draws, next token
        self.q: Tensor | None = None  # [guesses, V + 1], what each guess was drawn from

    def settle(self, scores_KV: Tensor, guesses: int, count: int) -> None:
        start, (tests, draws, chosen) = self.done, next(self.numbers)
        p = self.reader.distributions(scores_KV, start)
        fresh = draw(p.log(), 1 - draws[:count])
        local, q = self.local(start, guesses), self.proposals(start, guesses)
        first = torch.zeros(1, dtype=torch.int64, device=self.device)
        stands, residual = verify(
            torch.cat([first, local]), F.pad(q, (0, 0, 1, 0)), p, F.pad(tests[:guesses], (1, 0))
        )
        if residual is not None:
            fresh[stands] = draw(residual.log()[None], 1 - chosen[:1])[0]
        at = start + stands
        self.tokens[at : start + count] = self.globals(fresh[stands:], at)
        self.done, self.guessed, self.q = at + 1, count - stands - 1, p[stands + 1 :]

    def local(self, start: int, count: int) -> Tensor:
        """Guesses as ids counted from the plan's first, or V."""
        known = self.known[start : start + count] != FREE
        ids = self.tokens[start : start + count] - self.plan.first_id
        return ids.masked_fill(known, self.reader.vocab)

    def globals(self, local: Tensor, start: int) -> Tensor:
        known = self.known[start : start + len(local)]
        return torch.where(known == FREE, local + self.plan.first_id, known)

    def proposals(self, start: int, count: int) -> Tensor:
        """Distributions of the guesses: the last pass's, and certainty for those made up."""
        size = self.reader.vocab + 1
        drawn = self.q[:count] if self.q is not None else torch.zeros(0, size, device=self.device)
        made_up = self.local(start, count)[len(drawn) :]
        return torch.cat([drawn, F.one_hot(made_up, size).to(drawn)])
