"""DreamLLM's conditions and interleaved documents (Dong et al. 2024, arXiv 2309.11499).

A picture that the model draws is a span of 64 dream queries between two marks; their states
become the context of Stable Diffusion. A picture that it sees is a span of 256 patches. One that
it drew is both, first the dream and then what became of it, so that it goes on from what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..decoding.next_token import OnToken, TokenSampling, uniform_noise
from ..decoding.query_spans import QuerySpan, Turn, TurnRules, seen_ids, tail_states, write_turn
from ..decoding.stream import Context, DecoderStream, prefill
from ..models.clip_vision import ClipVision
from ..models.decoder import Decoder
from ..models.dream_queries import DreamProjector, DreamQueries
from .pictures import centre_crop
from .story import Story

PICTURE = "<image>"  # a picture's place in a prompt
POSITIVE_PREFIX = "(best quality,extremely detailed) "  # of the published script
CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: {text} ASSISTANT:"
)  # Vicuna 1.1


class Encoder(Protocol):
    """A text tokenizer that knows the added tokens."""

    def encode(self, text: str) -> list[int]: ...

    def id_of(self, name: str) -> int: ...


@dataclass(frozen=True)
class DreamTokens:
    """Ids of the added tokens."""

    bos: int
    eos: int
    pad: int
    patch: int  # stands for pictures and dreams alike
    image_start: int
    image_end: int
    dream_start: int
    dream_end: int
    image: int  # a place in a text, never seen by the model
    dream: int

    NAMES = {
        "pad": "[PAD]",
        "patch": "<im_patch>",
        "image_start": "<im_start>",
        "image_end": "<im_end>",
        "dream_start": "<dream_start>",
        "dream_end": "<dream_end>",
        "image": "<image>",
        "dream": "<dream>",
    }

    @classmethod
    def of(cls, tokenizer: Encoder, config: Mapping[str, Any]) -> DreamTokens:
        """From the model's config, which names all of them, else from its tokenizer."""
        named = config.get("special_tokens2ids_dict", {})
        named = {**named, **named.get("additional_special_tokens", {})}
        ids = {f: named[n] if n in named else tokenizer.id_of(n) for f, n in cls.NAMES.items()}
        return cls(named.get("<s>", 1), named.get("</s>", 2), **ids)

    def writable(self, vocab: int) -> Tensor:
        """bool [vocab]: what the model may write. The marks that the runtime places were never
        targets of its training."""
        allowed = torch.ones(vocab, dtype=torch.bool)
        placed = (self.pad, self.patch, self.image_start, self.image_end)
        allowed[[*placed, self.dream_end, self.image, self.dream]] = False
        return allowed


@torch.inference_mode()
def read_picture(vision: ClipVision, image_HW3: Tensor, device: torch.device) -> Tensor:
    """Input embeddings [patches, C] of a picture."""
    return vision(centre_crop(image_HW3, vision.params.image_size).to(device))[0]


@dataclass(frozen=True, eq=False)
class Words:
    """Text of a document, or ids where the model wrote it."""

    text: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture of a document as features [patches, C]; ``dreamed`` where the model drew it."""

    features: Tensor
    dreamed: bool = False


Document = Sequence[Words | Seen]


def document(tokenizer: Encoder, tokens: DreamTokens, queries: Tensor, parts: Document) -> Context:
    """A document after the start id.

    Args:
        queries: the dream queries [n, C], which stand in the place of dreams.
    """
    ids, features, at = [tokens.bos], [], []

    def span(start: int, end: int, content: Tensor) -> None:
        ids.append(start)
        at.extend(range(len(ids), len(ids) + len(content)))
        features.append(content)
        ids.extend([tokens.patch] * len(content) + [end])

    for part in parts:
        if isinstance(part, Words):
            ids.extend(tokenizer.encode(part.text) if part.ids is None else part.ids)
            continue
        if part.dreamed:
            span(tokens.dream_start, tokens.dream_end, queries.to(part.features))
        span(tokens.image_start, tokens.image_end, part.features)
    if not features:
        return Context(torch.tensor(ids))
    return Context(torch.tensor(ids), torch.cat(features), torch.tensor(at))


def with_places(text: str, pictures: Sequence[Tensor]) -> list[Words | Seen]:
    """A text whose pictures stand at its <image> marks; without marks they come first.

    Raises:
        ValueError: more or fewer pictures than marks.
    """
    text = with_marks(text, len(pictures))
    places = text.count(PICTURE)
    if places != len(pictures):
        raise ValueError(
            f"The text has {places} places for pictures ({PICTURE}), {len(pictures)} pictures "
            f"were given."
        )
    parts: list[Words | Seen] = []
    for index, words in enumerate(text.split(PICTURE)):
        parts += [Seen(pictures[index - 1])] if index else []
        parts += [Words(words)] if words else []
    return parts


def with_marks(text: str, count: int) -> str:
    """A text with marks for its pictures: where it has none, in front."""
    return text if PICTURE in text else PICTURE * count + text


def dreaming(context: Context, tokens: DreamTokens, queries: Tensor) -> Context:
    """A context with a dream span behind it."""
    start = len(context.ids) + 1
    patches = [tokens.patch] * len(queries)
    span = torch.tensor([tokens.dream_start, *patches, tokens.dream_end])
    at = torch.arange(start, start + len(queries))
    features = queries
    if context.features is not None:
        features = torch.cat([context.features.to(queries), queries])
        at = torch.cat([context.at, at])
    return Context(torch.cat([context.ids, span]), features, at)


@torch.inference_mode()
def dream_states(
    language: Decoder,
    tokens: DreamTokens,
    queries: Tensor,
    contexts: Sequence[Context],
    device: torch.device,
    padding: str | None = None,
) -> Tensor:
    """States [b, queries, C] of the dream queries behind each context, in one pass.

    Args:
        padding: None reads every context by itself. "right" fills the shorter ones up before the
            dream, as the published script does with a list of prompts: their dreams then stand at
            a distance, which changes the pictures. "left" is equal to None.
    """
    masks = None
    if padding is not None:
        contexts, valid = padded(contexts, tokens.pad, padding)
        masks = [seen_mask(row, len(queries) + 2) for row in valid]
    opened = [dreaming(context, tokens, queries) for context in contexts]
    return tail_states(language, opened, len(queries) + 2, device, masks)[:, 1:-1]


def padded(contexts: Sequence[Context], pad: int, side: str) -> tuple[list[Context], Tensor]:
    """Contexts of one length, and bool [b, n]: which of their tokens are text."""
    longest = max(len(context.ids) for context in contexts)
    filled, valid = [], torch.zeros(len(contexts), longest, dtype=torch.bool)
    for row, context in enumerate(contexts):
        count = longest - len(context.ids)
        fill, shift = torch.full((count,), pad), count if side == "left" else 0
        ids = torch.cat([fill, context.ids] if side == "left" else [context.ids, fill])
        at = context.at + shift if context.at is not None else None
        filled.append(replace(context, ids=ids, at=at))
        valid[row, shift : shift + len(context.ids)] = True
    return filled, valid


def seen_mask(valid_n: Tensor, more: int) -> Tensor:
    """bool [n + more, n + more]: what each token sees; padding, which nothing sees, itself."""
    valid = torch.cat([valid_n, torch.ones(more, dtype=torch.bool)])
    causal = torch.ones(len(valid), len(valid), dtype=torch.bool).tril()
    return (causal & valid) | torch.eye(len(valid), dtype=torch.bool)


@torch.inference_mode()
def next_turn(
    language: Decoder,
    tokens: DreamTokens,
    queries: Tensor,
    context: Context,
    device: torch.device,
    limit: int,
    sampling: TokenSampling,
    seed: int = 0,
    on_token: OnToken | None = None,
    dreams: bool = True,
) -> Turn:
    """What follows a document up to the next dream, whose states it holds, or to its end.

    Args:
        limit: ids at most; a dream that was begun is finished.
        dreams: let the model ask for pictures; without, it only writes.
    """
    read = prefill(language, [context], device)
    stream = DecoderStream(language, read, 1, limit + len(queries) + 2)
    allowed = tokens.writable(language.params.vocab)
    allowed[tokens.dream_start] = dreams
    span = QuerySpan(tokens.dream_start, tokens.dream_end, queries)
    rules = TurnRules(
        (tokens.eos,),
        limit,
        span,
        (tokens.patch,) * len(queries),
        pause=True,
        allowed=allowed,
    )
    seen = seen_ids(context, language.params.vocab)
    return write_turn(stream, rules, sampling, uniform_noise(seed, 1, limit), on_token, seen)


@torch.inference_mode()
def conditions(
    language: Decoder,
    dream_queries: DreamQueries,
    projector: DreamProjector,
    tokens: DreamTokens,
    contexts: Sequence[Context],
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Context [b, queries, C'] of a diffusion model for each prompt, in one pass; and the pooled
    vectors of the SDXL variant."""
    states = dream_states(language, tokens, dream_queries(device), contexts, device)
    return projector(states)


def written_turn(story: Story, turn: Turn, text: str, queries: Tensor) -> Story:
    """A story after a turn, whose dream stays in it as the queries."""
    at = []
    if turn.ended == "picture":
        first = len(turn.ids) - 1 - len(queries)
        at = list(range(first, first + len(queries)))
    extended = story.extended(turn.ids, queries.cpu() if at else None, at)
    return extended.written(turn, text)


def show_dream(story: Story, features: Tensor, image_HW3: Tensor, tokens: DreamTokens) -> Story:
    """What became of the dream, behind it."""
    ids = [tokens.image_start, *[tokens.patch] * len(features), tokens.image_end]
    at = range(1, 1 + len(features))
    return story.extended(ids, features, list(at)).illustrated(image_HW3)
