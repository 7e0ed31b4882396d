"""The text vocabularies of Unified-IO 1 and 2: published sentencepiece models, and the places and
marks that the systems add to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .text import TextTokenizer, TokenizerError
from .unified_io_pictures import Placement

END = 1
BINS = 1000  # steps of a place between the edges of a picture
SPACE = "\u2581"  # how sentencepiece writes a blank
_PLACE = re.compile(r"<extra_id_(\d+)>")


class UnifiedIOTokenizer(TextTokenizer):
    """T5's vocabulary and 1100 extra ids, counted downwards: <extra_id_0> is the last.

    Extra ids stand apart from the text around them, whose blanks at these seams do not count.
    """

    EXTRA = 1100
    FIRST_PLACE = 100  # <extra_id_100> is the place 0

    def __init__(self, path: Path):
        self.path, self._model = path, open_model(path.read_bytes(), path)
        self._base = len(self._model)
        if [self._model.id_to_piece(i) for i in range(3)] != ["<pad>", "</s>", "<unk>"]:
            raise TokenizerError(
                f"{path} is no vocabulary of T5 (its first pieces are "
                f"{', '.join(self._model.id_to_piece(i) for i in range(min(3, self._base)))}). "
                f"Unified-IO needs spiece.model of t5-base."
            )

    def __len__(self) -> int:
        return self._base + self.EXTRA

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        names = {self._model.id_to_piece(i): i for i in range(self._base)}
        return names | {f"<extra_id_{n}>": self.extra(n) for n in range(self.EXTRA)}

    def extra(self, number: int) -> int:
        return len(self) - 1 - number

    def place(self, bin_: int) -> str:
        """The word of a place, 0 to 999."""
        return f"<extra_id_{self.FIRST_PLACE + bin_}>"

    def bin_of(self, id_: int) -> int | None:
        """The place an id stands for, in predicted ids; None for other ids."""
        number = len(self) - 1 - id_ - self.FIRST_PLACE
        return number if 0 <= number < BINS else None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(_PLACE.split(text)):
            if i % 2 and int(part) < self.EXTRA:
                ids.append(self.extra(int(part)))
            elif part := (f"<extra_id_{part}>" if i % 2 else part).strip():
                ids += self._model.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first end mark; places as their words."""
        words, run = [], []
        for id_ in until_end(ids):
            if id_ < self._base:
                run.append(id_)
                continue
            words += [self._model.decode(run), f"<extra_id_{len(self) - 1 - id_}>"]
            run = []
        return " ".join(word for word in (*words, self._model.decode(run)) if word)


class UnifiedIO2Tokenizer(TextTokenizer):
    """LLaMA's vocabulary with begin, end and unknown moved to 0, 1 and 2, and pieces added: 1200
    extra ids counted downwards, marks of pictures and sounds, and the modes of the training."""

    EXTRA = 1200
    FRAMES = 8
    FIRST_PLACE = 200
    MODES = (
        "[Text] [S]",
        "[Text] [R]",
        "[Text] [X]",
        "[Image] [S]",
        "[Image] [R]",
        "[Audio] [S]",
        "[Audio] [R]",
    )

    def __init__(self, path: Path):
        self.path = path
        raw = path.read_bytes()
        base = open_model(raw, path)
        first = [base.id_to_piece(i) for i in range(min(3, len(base)))]
        if first != ["<unk>", "<s>", "</s>"]:
            raise TokenizerError(
                f"{path} is no vocabulary of LLaMA 1 or 2 (its first pieces are "
                f"{', '.join(first)}). Unified-IO 2 needs their tokenizer.model."
            )
        self._base = len(base)
        self._model = open_model(with_pieces(raw, (1, 2, 0), self._added()), path)

    def _added(self) -> Iterator[str]:
        yield from (f"<extra_id_{n}>" for n in reversed(range(self.EXTRA)))
        for n in range(1, self.FRAMES + 1):
            yield from (f"<image_history_{n}>", f"<audio_history_{n}>")
        yield from ("<image_input>", "<audio_input>", *self.MODES)

    def __len__(self) -> int:
        return len(self._model)

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Added pieces by their plain names, those of LLaMA as they are."""
        names = {self._model.id_to_piece(i): i for i in range(self._base)}
        return names | {name: self._base + i for i, name in enumerate(self._added())}

    def place(self, bin_: int) -> str:
        return f"<extra_id_{self.FIRST_PLACE + bin_}>"

    def bin_of(self, id_: int) -> int | None:
        number = self._base + self.EXTRA - 1 - id_ - self.FIRST_PLACE
        return number if 0 <= number < BINS else None

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first end mark."""
        return self._model.decode([i if i < len(self) else 2 for i in until_end(ids)])


def place_bins(box_xyxy: Tensor, placement: Placement) -> list[int]:
    """A box in pixels of a picture as four places, top, left, bottom, right, of the frame that
    the picture was fitted into."""
    x1, y1, x2, y2 = box_xyxy.double().unbind()
    corners = placement.boxes_to_frame(torch.stack([y1, x1, y2, x2]))
    return [int(value) for value in (corners / placement.side * (BINS - 1)).tolist()]


def until_end(ids: Iterable[int]) -> Iterator[int]:
    for id_ in ids:
        if int(id_) == END:
            return
        yield int(id_)


def open_model(raw: bytes, path: Path):
    """A sentencepiece model from its bytes."""
    from sentencepiece import SentencePieceProcessor  # brought by the host

    try:
        return SentencePieceProcessor(model_proto=raw)
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"{path} is no readable sentencepiece model: {error}. Download it again."
        ) from error


def with_pieces(raw: bytes, first: tuple[int, ...], added: Iterable[str]) -> bytes:
    """A serialised sentencepiece model with its first pieces in another order, and with
    user-defined ones added, each as the beginning of a word.

    The format is a protocol buffer: field 1, repeated, is a piece {1: text, 2: score, 3: type}.
    """
    fields = list(_fields(raw))
    pieces = [field for number, field in fields if number == 1]
    others = [field for number, field in fields if number != 1]
    pieces[: len(first)] = [pieces[i] for i in first]
    for name in added:
        text = (SPACE + name.replace(" ", SPACE)).encode("utf-8")
        # text; score 0.0 (fixed 32 bits); type 4, user-defined
        content = b"\x0a" + _varint(len(text)) + text + b"\x15\0\0\0\0" + b"\x18\x04"
        pieces.append(b"\x0a" + _varint(len(content)) + content)
    return b"".join(pieces + others)


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes, its tag included, of every field of a message."""
    at = 0
    while at < len(raw):
        start = at
        tag, at = _read_varint(raw, at)
        kind = tag & 7
        if kind == 0:
            _, at = _read_varint(raw, at)
        elif kind == 2:
            length, at = _read_varint(raw, at)
            at += length
        else:
            at += 8 if kind == 1 else 4
        yield tag >> 3, raw[start:at]


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
