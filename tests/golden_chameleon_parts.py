"""What golden cases of Chameleon's family share: vocabularies without a file, scores, noise."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch

from mmgen_core.decoding import next_token
from mmgen_core.decoding.next_token import TokenSampling
from mmgen_core.decoding.stream import DecoderStream
from mmgen_core.models.decoder import Decoder, Segment
from mmgen_core.tokenizers.text import TextTokenizer
from mmgen_core.training.chameleon_data import code_name

# Names of the cases that give none: 64 image codes, then text from id 76.
NAMES = {
    "<s>": 0,
    "<pad>": 1,
    "</s>": 2,
    "<racm3:break>": 69,
    "<eoss>": 68,
    "<reserved08706>": 70,
    "w0": 76,
}


class Names(TextTokenizer):
    """A case's vocabulary: its marks, image codes from id 4 on, words from "w0" on."""

    path = Path("tokenizer.json")

    def __init__(self, names: dict[str, int], codes: int, vocab: int):
        first = names.get("w0", names["<reserved08706>"] + 6)
        marks = {name: i for name, i in names.items() if name != "w0"}
        images = {code_name(code): 4 + code for code in range(codes)}
        words = {f"w{i - first}": i for i in range(first, vocab)}
        self._names = {"<unk>": 3, **marks, **images, **words}

    @property
    def vocabulary(self) -> dict[str, int]:
        return self._names

    def encode(self, text: str) -> list[int]:
        return [self._names[word] for word in text.split()]

    def decode(self, ids) -> str:
        return " ".join(str(i) for i in ids)


def names_of(case) -> Names:
    config = case.spec["config"]
    names = config.get("vocab", NAMES)
    codes = config.get("n_image_tokens", names["<eoss>"] - 4)
    return Names(names, codes, config["vocab_size"])


@torch.inference_mode()
def teacher(model: Decoder, ids) -> torch.Tensor:
    """Scores [n, V] after every id of a sequence."""
    ids = torch.as_tensor(ids)
    return model.scores(model(model.embed_ids(ids), [Segment(None, len(ids))]))


class Seen:
    """What a run computed for each drawn token, in order."""

    def __init__(self) -> None:
        self.guided: list[torch.Tensor] = []  # [B, V of the blocks]
        self.raw: list[torch.Tensor] = []  # [b, B, V], every id
        self.masked: list[torch.Tensor] = []  # of texts: before the repetition penalty
        self.penalised: list[torch.Tensor] = []


@contextmanager
def spied(monkeypatch, model: Decoder, change=None):
    """Notes scores while a run goes on; ``change(scores, blocks)`` may alter the guided ones."""
    seen = Seen()
    guided, scores = next_token.guided_scores, DecoderStream.scores
    penalised = TokenSampling.penalised

    def note_guided(stream, weights, blocks, hidden=None):
        found = guided(stream, weights, blocks, hidden)
        seen.guided.append(found.clone())
        return found if change is None else change(found, blocks)

    def note_scores(stream, hidden, blocks):
        seen.raw.append(model.scores(hidden))
        return scores(stream, hidden, blocks)

    def note_penalised(sampling, logits, before):
        found = penalised(sampling, logits, before)
        seen.masked.append(logits.clone())
        seen.penalised.append(found.clone())
        return found

    with monkeypatch.context() as context:
        context.setattr(next_token, "guided_scores", note_guided)
        context.setattr(DecoderStream, "scores", note_scores)
        context.setattr(TokenSampling, "penalised", note_penalised)
        yield seen


def race_noise(seed: int, steps: int, rows: int, vocab: int) -> torch.Tensor:
    """The Exp(1) numbers [rows, steps, V] that torch.multinomial draws on a CPU, step by step."""
    generator = torch.Generator().manual_seed(seed)
    numbers = [torch.empty(rows, vocab).exponential_(generator=generator) for _ in range(steps)]
    return torch.stack(numbers, dim=1)


def gap(scores: torch.Tensor) -> torch.Tensor:
    """Best minus second best, [...]."""
    best = scores.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def recorded_steps(case, prefix: str) -> list[int]:
    """Steps that a case has tensors ``<prefix>.step<n>`` of."""
    return [int(name.rpartition("step")[2]) for name in case.expected if name.startswith(prefix)]
