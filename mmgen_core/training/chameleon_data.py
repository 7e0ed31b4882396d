"""What the demo next-token model reads: sequences in Chameleon's form, of drawings and captions.

Tasks: a drawing of a caption, an answer about a drawing, a drawing in the other art style, and
texts with two drawings in between. Ids are laid out as published: four marks, the image codes,
<eoss>, <racm3:break>, further reserved names, then the pieces of text.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..tokenizers.text import JsonTokenizer
from .captions import CaptionedDrawing, article

MARKS = ("<s>", "<pad>", "</s>", "<unk>")
ENDS = ("<eoss>", "<racm3:break>", "<reserved08706>", "<image>")
QUESTIONS = ("what is this?", "what is in the picture?", "describe the image.", "name it.")
REDRAW = ("draw it in {} style", "the same in {} style", "redraw this in {} style")
BOTH = ("a story of {} and {}.", "show me {} and {}.", "draw {}, then {}.", "{} meets {}.")
UNCONDITIONAL = 0.12  # share of drawings learned without a caption, for guidance


def code_name(code: int) -> str:
    """The published name of an image code: its digits as letters A..J between IMGIMG and Z."""
    return f"IMGIMG{''.join(chr(ord('A') + int(digit)) for digit in str(code))}Z"


def train_tokenizer(texts: Iterable[str], codes: int, pieces: int, path: Path) -> None:
    """A byte-level BPE tokenizer of the texts, with the published names before its pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [*MARKS, *map(code_name, range(codes)), *ENDS]
    trainer = trainers.BpeTrainer(
        vocab_size=len(names) + 256 + pieces,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


@dataclass(frozen=True)
class Sequence:
    """Ids, and how much each counts in the loss."""

    ids: list[int]
    weights: list[float]


class Tasks:
    """Random sequences of drawings with known codes [N, n]."""

    def __init__(self, drawings: list[CaptionedDrawing], codes: Tensor, tokenizer: JsonTokenizer):
        self.drawings = drawings
        self.first = tokenizer.id_of(code_name(0))
        self.codes = [[self.first + code for code in row] for row in codes.tolist()]
        self.bos, self.eos = tokenizer.id_of("<s>"), tokenizer.id_of("</s>")
        self.eoi, self.boi, self.turn = (tokenizer.id_of(name) for name in ENDS[:3])
        self.pad = tokenizer.id_of("<pad>")
        self._encode, self._known = tokenizer.encode, {}
        twins: dict[str, list[int]] = {}
        for index, one in enumerate(drawings):
            twins.setdefault(one.motif, []).append(index)
        self.pairs = [(a, b) for group in twins.values() for a in group for b in group if a != b]
        self.kinds = {"draw": 0.5, "answer": 0.18, "redraw": 0.14, "story": 0.18}

    def text(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._encode(text)
        return self._known[text]

    def picture(self, index: int) -> list[int]:
        return [self.boi, *self.codes[index], self.eoi]

    def draw(self, rng: random.Random) -> Sequence:
        index = rng.randrange(len(self.drawings))
        prompt = [self.bos]
        if rng.random() >= UNCONDITIONAL:
            prompt += [*self.text(rng.choice(self.drawings[index].captions)), self.turn]
        return parts((prompt, 0.1), (self.picture(index), 1.0))

    def answer(self, rng: random.Random) -> Sequence:
        index = rng.randrange(len(self.drawings))
        one = self.drawings[index]
        said = f"{article(one.names[0])} in {one.style} style."
        question = [*self.text(rng.choice(QUESTIONS)), self.turn]
        prompt = [self.bos, *self.picture(index), *question]
        if rng.random() < 0.5:
            prompt = [self.bos, *question[:-1], *self.picture(index), self.turn]
        return parts((prompt, 0.05), ([*self.text(said), self.eos], 2.0))

    def redraw(self, rng: random.Random) -> Sequence:
        source, target = rng.choice(self.pairs)
        wish = self.text(rng.choice(REDRAW).format(self.drawings[target].style))
        prompt = [self.bos, *wish, *self.picture(source), self.turn]
        return parts((prompt, 0.05), (self.picture(target), 1.0))

    def story(self, rng: random.Random) -> Sequence:
        """ "show me a cat and a rocket." -> "a cat:" drawing "a rocket:" drawing."""
        chosen = rng.sample(range(len(self.drawings)), 2)
        names = [article(rng.choice(self.drawings[i].names)) for i in chosen]
        sequence = [([self.bos, *self.text(rng.choice(BOTH).format(*names))], 0.1)]
        for index, name in zip(chosen, names, strict=True):
            sequence += [(self.text(f" {name}:"), 1.0), (self.picture(index), 1.0)]
        return parts(*sequence, ([self.eos], 1.0))

    def batch(self, size: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Ids and weights [size, n] of one random task, padded at the end."""
        kind = rng.choices(list(self.kinds), list(self.kinds.values()))[0]
        rows = [getattr(self, kind)(rng) for _ in range(size)]
        longest = max(len(row.ids) for row in rows)
        ids, weights = torch.full((size, longest), self.pad), torch.zeros(size, longest)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            weights[i, : len(row.ids)] = torch.tensor(row.weights)
        return ids, weights


def parts(*pieces: tuple[list[int], float]) -> Sequence:
    ids = [i for piece, _ in pieces for i in piece]
    return Sequence(ids, [weight for piece, weight in pieces for _ in piece])
