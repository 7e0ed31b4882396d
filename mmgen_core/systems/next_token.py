"""What a next-token model is asked for, and what every system that draws by itself answers to.

A system (``NextTokenSystem``) is made with a loaded model: it knows the vocabulary, what a prompt
becomes, which sizes exist and the published settings. The loader, prompt and sampler nodes know
nothing else, so a new system needs this and an ``Architecture`` that names it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..decoding.kv_cache import KVCache
from ..decoding.next_token import (
    FREE,
    OnToken,
    PicturePlan,
    TokenSampling,
    draw_pictures,
    uniform_noise,
)
from ..decoding.speculative import Speculation, draw_picture
from ..decoding.stream import Branch, DecoderStream, Prefix, merged, prefill
from ..image_tokens import ImageTokens
from ..tokenizers.image_tokenizer import ImageTokenizer

# (steps done, steps in all, a preview to make if there is time); may raise to stop the run.
OnStep = Callable[[int, int, Callable[[], Tensor] | None], None]
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, eq=False)
class MultimodalPrompt:
    """Texts and pictures in the order in which a model reads them.

    Attributes:
        parts: texts, and pictures as float [H, W, 3] in 0..1.
        system: instructions before all; where a system has no place for such they stand as text
            in front of the prompt.
        memo: what was computed of it, for further runs of the same prompt.
    """

    parts: tuple[str | Tensor, ...]
    system: str = ""
    memo: Memo = field(default_factory=lambda: Memo())

    @property
    def pictures(self) -> list[Tensor]:
        return [part for part in self.parts if isinstance(part, Tensor)]

    @property
    def text(self) -> str:
        """The texts alone."""
        return "".join(part for part in self.parts if isinstance(part, str))


class Memo:
    """Codes of a prompt's pictures and the last contexts that were read, kept in main memory."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str, int, Size], Tensor] = {}
        self._prefix: tuple[weakref.ref[nn.Module], Prefix] | None = None

    def prefix(
        self,
        model: nn.Module,
        branches: Sequence[Branch],
        device: torch.device,
        on_pass: Callable[[], None] | None = None,
    ) -> Prefix:
        """The branches' contexts, read by this model now or in an earlier run."""
        contexts = [branch.context for branch in branches]
        if self._prefix is not None:
            owner, known = self._prefix
            if owner() is model and known.serves(contexts):
                return moved(known, device)
        found = prefill(model, contexts, device, on_pass)
        self._prefix = (weakref.ref(model), moved(found, torch.device("cpu")))
        return found


def moved(prefix: Prefix, device: torch.device) -> Prefix:
    """The same prefix with its tensors on a device."""

    def cache(old: KVCache) -> KVCache:
        layers, rows, heads, capacity, size = old.keys.shape
        new = KVCache(layers, rows, heads, 0, size, old.keys.dtype, device)
        new.keys, new.values, new.length = old.keys.to(device), old.values.to(device), old.length
        return new

    return replace(
        prefix,
        caches=tuple(cache(old) for old in prefix.caches),
        hidden_bC=prefix.hidden_bC.to(device),
    )


@dataclass(frozen=True)
class PictureWish:
    """How pictures are drawn.

    Attributes:
        size: None for the system's own.
        guidance: of the text; image_guidance: of pictures in the prompt, where a system knows it.
        sampling: of image codes; text: of words, in interleaved runs.
    """

    size: Size | None = None
    seed: int = 0
    batch: int = 1
    guidance: float = 3.0
    image_guidance: float = 1.2
    sampling: TokenSampling = TokenSampling()
    text: TokenSampling = TokenSampling()
    max_tokens: int = 4096
    speculation: Speculation | None = None


@dataclass(frozen=True)
class Told:
    """An interleaved answer: its texts, and its pictures in the order they were drawn.

    Attributes:
        pieces: a text, or the index of a picture.
    """

    pieces: tuple[str | int, ...]
    pictures: tuple[ImageTokens, ...]

    def marked(self, marker: str = "<image {}>") -> str:
        """The whole text, with a marker in the place of every picture, counted from 1."""
        return "".join(p if isinstance(p, str) else marker.format(p + 1) for p in self.pieces)

    @property
    def texts(self) -> list[str]:
        """The texts between pictures, without blanks around them."""
        return [p.strip() for p in self.pieces if isinstance(p, str) and p.strip()]


class NextTokenSystem(Protocol):
    """One system with one loaded model's vocabulary.

    Attributes:
        name: for messages.
        sizes: sizes the model was trained to draw, its own first; empty where it draws none.
        takes_pictures: whether a prompt may hold pictures.
        interleaves: whether it can answer with texts and pictures in turn.
    """

    name: str
    sizes: tuple[Size, ...]
    takes_pictures: bool
    interleaves: bool

    def draw(
        self,
        model: nn.Module,
        tokenizer: ImageTokenizer,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> ImageTokens:
        """Pictures of a prompt, as tokens of the tokenizer.

        Raises:
            ValueError: a size, prompt or tokenizer that this system cannot take.
        """

    def tell(
        self,
        model: nn.Module,
        tokenizer: ImageTokenizer,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> Told:
        """Texts and pictures in turn."""

    def answer(
        self,
        model: nn.Module,
        tokenizer: ImageTokenizer | None,
        prompt: MultimodalPrompt,
        sampling: TokenSampling,
        limit: int,
        seed: int,
        device: torch.device,
        on_token: Callable[[int, int, str], None],
        template: bool = True,
    ) -> str:
        """A text about a prompt; without the template the model just continues it."""

    def memory_required(self, model: nn.Module, prompt: MultimodalPrompt, wish: PictureWish) -> int:
        """Bytes that ``draw`` needs beside the weights."""


def draw_plan(
    model: nn.Module,
    prompt: MultimodalPrompt,
    branches: Sequence[Branch],
    plan: PicturePlan,
    wish: PictureWish,
    device: torch.device,
    on_token: OnToken | None = None,
) -> Tensor:
    """Tokens int64 [B, n] of pictures of one plan, on the CPU."""
    branches = merged(branches)
    weights = [branch.weight for branch in branches]

    def stop_if_asked() -> None:
        if on_token is not None:
            on_token(0, len(plan.tokens), torch.zeros(wish.batch, 0, dtype=torch.int64))

    prefix = prompt.memo.prefix(model, branches, device, stop_if_asked)
    return draw_prefix(model, prefix, weights, plan, wish, on_token)


def draw_prefix(
    model: Any,
    prefix: Prefix,
    weights: Sequence[float],
    plan: PicturePlan,
    wish: PictureWish,
    on_token: OnToken | None = None,
) -> Tensor:
    """The same of prompts that were read: a decoder-only transformer's, or an encoder's."""
    noise = uniform_noise(wish.seed, wish.batch, len(plan.tokens))
    if wish.speculation is None:
        stream = DecoderStream(model, prefix, wish.batch, len(plan.tokens))
        return draw_pictures(stream, weights, plan, wish.sampling, noise, on_token).cpu()
    rows = []
    for row in range(wish.batch):
        stream = DecoderStream(model, prefix, 1, len(plan.tokens) + wish.speculation.window)
        arguments = (wish.sampling, wish.speculation, noise[row : row + 1], wish.seed + row)
        rows.append(draw_picture(stream, weights, plan, *arguments, on_token).cpu())
    return torch.cat(rows)


def codes_of(plan: PicturePlan, tokens_Bn: Tensor, first_code: int) -> Tensor:
    """Codes [B, m] among the first n tokens of a plan."""
    drawn = [i for i, token in enumerate(plan.tokens[: tokens_Bn.shape[1]]) if token == FREE]
    return tokens_Bn[:, drawn] - first_code


def row_previews(
    plan: PicturePlan,
    grid: Size,
    first_code: int,
    tokenizer: ImageTokenizer,
    on_step: OnStep | None,
    device: torch.device,
) -> OnToken | None:
    """An ``on_token`` that offers a preview after each finished row of a picture.

    Args:
        grid: (width, height) in codes.
    """
    if on_step is None:
        return None
    width, height = grid

    def on_token(done: int, total: int, tokens_Bn: Tensor) -> None:
        def preview() -> Tensor:
            codes = codes_of(plan, tokens_Bn[:1].cpu(), first_code)[0]
            ids = torch.zeros(height * width, dtype=torch.int64)
            ids[: len(codes)] = codes
            return tokenizer.decode_partial(ids.view(height, width).to(device), len(codes))

        row_done = done >= plan.row and (done % plan.row == 0 or done == total)
        on_step(done, total, preview if row_done else None)

    return on_token
