"""Beam search, the way Hugging Face's generation does it: several texts side by side, of which
the likeliest is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .next_token import OnToken, TextRules, guided_scores
from .stream import DecoderStream


@dataclass
class _Finished:
    """The best finished texts, as many as beams, by log-probability over length^penalty."""

    beams: int
    penalty: float
    texts: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, text: list[int], log_probability: float, length: int) -> None:
        self.texts.append((log_probability / length**self.penalty, text))
        # Of equals the later one goes.
        self.texts = sorted(self.texts, key=lambda scored: -scored[0])[: self.beams]

    def closed(self, best_running: float, length: int) -> bool:
        """Whether no running text is expected to enter."""
        full = len(self.texts) == self.beams
        return full and self.texts[-1][0] >= best_running / length**self.penalty


@torch.inference_mode()
def search_text(
    stream: DecoderStream,
    rules: TextRules,
    length_penalty: float = 1.0,
    on_token: OnToken | None = None,
) -> list[int]:
    """The ids of the likeliest text found, without its stop.

    Args:
        stream: one row per beam, all with the same past.
    """
    beams, device = stream.batch, stream.hidden().device
    running: list[list[int]] = [[] for _ in range(beams)]
    scores_B = torch.full((beams,), -1e9, device=device)
    scores_B[0] = 0  # all beams are the same at first
    finished = _Finished(beams, length_penalty)
    for i in range(rules.limit):
        logits = guided_scores(stream, (1.0,), None).log_softmax(-1)
        totals = rules.admitted(logits) + scores_B[:, None]
        values, places = totals.flatten().topk(2 * beams)
        vocab = totals.shape[1]
        found = zip(
            values.tolist(), (places // vocab).tolist(), (places % vocab).tolist(), strict=True
        )
        kept: list[tuple[float, int, int]] = []
        for rank, (value, beam, token) in enumerate(found):
            if token not in rules.stops:
                kept.append((value, beam, token))
            elif rank < beams:
                finished.add(running[beam], value, i + 1)
            if len(kept) == beams:
                break
        if finished.closed(values[0].item(), i + 1):
            return finished.texts[0][1]
        running = [[*running[beam], token] for _, beam, token in kept]
        scores_B = torch.tensor([value for value, _, _ in kept], device=device)
        grow(stream, kept, device)
        if on_token is not None:
            on_token(i + 1, rules.limit, torch.tensor(running[:1]))
    for text, value in zip(running, scores_B.tolist(), strict=True):
        finished.add(text, value, rules.limit)
    return finished.texts[0][1]


def grow(stream: DecoderStream, kept: list[tuple[float, int, int]], device: torch.device) -> None:
    """Let every beam continue the one it came from, by its token."""
    stream.reorder(torch.tensor([beam for _, beam, _ in kept], device=device))
    tokens: Tensor = torch.tensor([[token] for _, _, token in kept], device=device)
    stream.push(tokens)
