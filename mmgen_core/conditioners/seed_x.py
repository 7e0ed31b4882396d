"""SEED-X's prompts, answers and picture features (Ge et al. 2024, arXiv 2404.14396).

A picture is 64 image tokens, whose inputs are fixed embeddings; the states at their positions
become image features. A shown picture stands in the prompt as such tokens too, with the features
of its parts in their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..decoding.next_token import OnToken, TokenSampling, uniform_noise
from ..decoding.query_spans import QuerySpan, Turn, TurnRules, seen_ids, tail_states, write_turn
from ..decoding.stream import Context, DecoderStream, prefill
from ..models.decoder import Decoder
from ..models.qwen_vit import QwenVit, pooled_features
from ..models.sdxl_adapter import SdxlAdapter
from ..models.seed_x_agent import SeedXAgent
from .pictures import READING_GRIDS, Grid, tiles
from .story import Story, with_features

PICTURE = "<image>"  # a picture's place in a prompt; in braces the browser would change it
TEMPLATES = {
    "draw (SEED-X)": "{text}<img>",
    "draw (SEED-X-I)": "[INST] Generate an image: {text} [/INST]\n",
    "edit (SEED-X-Edit)": "[INST] <image>{text} [/INST]\n",
    "ask (SEED-X)": "Question: <image>{text}\nAnswer:",
    "ask (SEED-X-I)": "[INST] <image>{text} [/INST]\n",
    "find (SEED-X)": "<image>{text} [[ <box_start>",
    "story (SEED-X-I)": "[INST] {text} [/INST]\n",
    "plain": "<image>{text}",
}
ASKING = {"base": "ask (SEED-X)", "instruct": "ask (SEED-X-I)"}
GREEDY = TokenSampling(temperature=0)  # as published
BOX_GRID = 224
BOX = r"<loc-(\d+)>" * 4 + r"<box_end>"  # centre x and y, width, height


class Encoder(Protocol):
    """A text tokenizer that knows the added tokens."""

    def encode(self, text: str) -> list[int]: ...

    def id_of(self, name: str) -> int: ...


@dataclass(frozen=True)
class SeedXTokens:
    """Ids of the added tokens, from the tokenizer beside the model."""

    bos: int
    eos: int
    image: tuple[int, ...]  # of the queries
    image_start: int
    image_end: int
    part_start: int
    part_end: int

    @classmethod
    def of(cls, tokenizer: Encoder, queries: int, bos: int = 1, eos: int = 2) -> SeedXTokens:
        names = (image_token(i) for i in range(queries))
        frame = ("<img>", "</img>", "<patch>", "</patch>")
        return cls(bos, eos, tuple(map(tokenizer.id_of, names)), *map(tokenizer.id_of, frame))

    @property
    def chain(self) -> tuple[int, ...]:
        """What follows once a picture is opened, each after the one before it."""
        return self.image_start, *self.image, self.image_end

    def words(self, vocab: int) -> Tensor:
        """bool [vocab]: the ids that are no part of a picture."""
        allowed = torch.ones(vocab, dtype=torch.bool)
        allowed[[*self.chain, self.part_start, self.part_end]] = False
        return allowed

    def masked(self, scores_BV: Tensor) -> Tensor:
        """Scores of a text's next id: image tokens get 0, as published, not minus infinity."""
        ids = torch.tensor([*self.image, self.image_end], device=scores_BV.device)
        return scores_BV.index_fill(-1, ids, 0.0)

    def processed(self, scores_BV: Tensor, last_B: Tensor) -> Tensor:
        """Scores of the next id after a last one: within a picture the one that must follow gets
        the highest, elsewhere as ``masked``."""
        scores = self.masked(scores_BV)
        for row, last in enumerate(last_B.tolist()):
            if last in self.chain[:-1]:
                following = self.chain[self.chain.index(last) + 1]
                scores[row] = scores_BV[row]
                scores[row, following] = scores_BV[row].max() + 10
        return scores


def image_token(index: int) -> str:
    return f"<img_{index:05}>"


def picture_text(parts: int, queries: int) -> str:
    """A shown picture in a prompt: its tiles, then the whole."""
    tokens = "".join(map(image_token, range(queries)))
    return f"<patch>{tokens}</patch>" * (parts - 1) + f"<img>{tokens}</img>"


@torch.inference_mode()
def read_picture(
    vision: QwenVit,
    agent: SeedXAgent,
    image_HW3: Tensor,
    device: torch.device,
    grids: Sequence[Grid] = READING_GRIDS,
) -> Tensor:
    """Input embeddings [parts, queries, C] of a picture."""
    pixels, centres = tiles(image_HW3, vision.params.image_size, grids)
    return agent.read(vision(pixels.to(device)), centres.to(device))


def prompt(
    tokenizer: Encoder, tokens: SeedXTokens, template: str, text: str, pictures: Sequence[Tensor]
) -> Context:
    """A template with text and pictures (``read_picture``) filled in, after the start id.

    A text may say itself where its pictures stand, with <image>; otherwise they stand where the
    template has its place.

    Raises:
        ValueError: pictures without a place or places without a picture; image tokens in the text.
    """
    if re.search(r"<img|<patch>", text):
        raise ValueError(
            f"The text holds SEED-X's own picture tokens. Remove them; {PICTURE} marks the place "
            f"of a picture."
        )
    own = "" if PICTURE in text else PICTURE * len(pictures)
    whole = template.replace(PICTURE, own).replace("{text}", text)
    if whole.count(PICTURE) != len(pictures):
        raise ValueError(
            f"{len(pictures)} pictures were given, this prompt has {whole.count(PICTURE)} places "
            f"for them. {PICTURE} in the text marks a place."
        )
    for parts in pictures:
        whole = whole.replace(PICTURE, picture_text(len(parts), len(tokens.image)), 1)
    ids = torch.tensor([tokens.bos, *tokenizer.encode(whole)])
    if not pictures:
        return Context(ids)
    at = torch.isin(ids, torch.tensor(tokens.image)).nonzero()[:, 0]
    return Context(ids, torch.cat([parts.flatten(0, 1) for parts in pictures]), at)


def with_places(parts: Sequence[str | Tensor], text: str) -> tuple[str, list[Tensor]]:
    """Texts and pictures, then a text, as one text with the places of the pictures.

    Pictures alone get no places, so that a template's own stands, unless the text names some.
    """
    images = [part for part in parts if isinstance(part, Tensor)]
    if len(images) == len(parts):
        return text, images
    return "".join(p if isinstance(p, str) else PICTURE for p in parts) + text, images


def query_span(language: Decoder, tokens: SeedXTokens, device: torch.device) -> QuerySpan:
    queries = language.embed_ids(torch.tensor(tokens.image, device=device))
    return QuerySpan(tokens.image_start, tokens.image_end, queries)


@torch.inference_mode()
def drawn_features(
    language: Decoder,
    agent: SeedXAgent,
    tokens: SeedXTokens,
    contexts: Sequence[Context],
    device: torch.device,
) -> Tensor:
    """Image features [b, queries, C] of a picture opened behind each prompt, in one pass."""
    image = torch.tensor(tokens.chain[:-1])
    opened = [
        replace(c, ids=torch.cat([c.ids, image[int(c.ids[-1] == tokens.image_start) :]]))
        for c in contexts
    ]
    return agent.draw(tail_states(language, opened, len(tokens.image), device))


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What SEED-X draws from.

    Attributes:
        features: [B, n, C]: 64 regressed ones per picture, or the 256 of a picture that was read.
        unconditional: [1, n, C] of a picture of nothing, which the drawing is guided away from.
    """

    features: Tensor
    unconditional: Tensor

    @classmethod
    def of(cls, features: Tensor, of_nothing: Tensor) -> ImageFeatures:
        """With as many unconditional features as the others: means of neighbours where fewer."""
        count = features.shape[1]
        fewer = of_nothing if of_nothing.shape[1] == count else pooled_features(of_nothing, count)
        return cls(features.float().cpu(), fewer.float().cpu())


@torch.inference_mode()
def conditions(
    adapter: SdxlAdapter, image: ImageFeatures, device: torch.device
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """SDXL's (context, pooled) of the pictures and of nothing."""
    return adapter(image.features.to(device)), adapter(image.unconditional.to(device))


@dataclass(frozen=True, eq=False)
class Answer:
    """What SEED-X wrote: the turn, and image features [n, queries, C] of its pictures."""

    turn: Turn
    features: Tensor | None


@torch.inference_mode()
def answer(
    language: Decoder,
    agent: SeedXAgent,
    tokens: SeedXTokens,
    context: Context,
    device: torch.device,
    limit: int,
    sampling: TokenSampling = GREEDY,
    seed: int = 0,
    pictures: bool = True,
    pause: bool = False,
    on_token: OnToken | None = None,
) -> Answer:
    """Text and pictures that follow a prompt, until the model stops or the limit is reached.

    Args:
        limit: ids at most, 66 of a picture included.
        pictures: let the model open pictures; without, it only writes.
        pause: stop after the first picture, which is finished beyond the limit.
    """
    opened = int(context.ids[-1]) == tokens.image_start
    if opened:
        context = replace(context, ids=context.ids[:-1])  # it is read with the queries
    read = prefill(language, [context], device)
    stream = DecoderStream(language, read, 1, limit + len(tokens.chain))
    rules = TurnRules(
        (tokens.eos,),
        limit,
        query_span(language, tokens, device),
        tokens.image,
        opened,
        pause,
        allowed=None if pictures else tokens.words(language.params.vocab),
        adjust=tokens.masked,
    )
    seen = seen_ids(context, language.params.vocab)
    turn = write_turn(stream, rules, sampling, uniform_noise(seed, 1, limit), on_token, seen)
    return Answer(turn, agent.draw(torch.stack(turn.spans)) if turn.spans else None)


def one_picture(found: Answer, text: str, limit: int) -> Tensor:
    """Features [1, queries, C] of an answer's first picture, as the published scripts take.

    Raises:
        ValueError: there is none.
    """
    if found.features is not None:
        return found.features[:1]
    if found.turn.cut:
        raise ValueError(f"The limit of {limit} tokens fell within the picture. Raise max_tokens.")
    raise ValueError(
        f"SEED-X answered without a picture: {text[:200]!r}. Turn on force_picture, or ask for a "
        f"picture in the text."
    )


def written_turn(story: Story, turn: Turn, text: str) -> Story:
    """A story after a turn; its picture's tokens stand for themselves until it is shown."""
    return story.extended(turn.ids).written(turn, text)


def show_drawn(story: Story, parts: Tensor, image_HW3: Tensor) -> Story:
    """The picture that was asked for last: the features of the whole take its tokens' places."""
    end = len(story.context.ids) - 1  # the closing token
    at = torch.arange(end - parts.shape[1], end)
    context = with_features(story.context, parts[-1], at)
    return replace(story, context=context).illustrated(image_HW3)


def without_marks(text: str) -> str:
    """A text without the marks of pictures and its own end; boxes stay."""
    return re.sub(r"</?(img|patch|s)(_\d+)?>|<(im|dream)_\w+>", "", text)


def readable(text: str) -> str:
    """An answer's text without any special tokens, as the published scripts show it."""
    return re.sub(r"<[^<>]*>", "", text).strip()


def boxes(text: str) -> list[tuple[float, float, float, float]]:
    """Boxes of an answer as (left, top, width, height) in shares of the picture's sides."""
    found = re.findall(BOX, text)
    places = ([int(number) / BOX_GRID for number in box] for box in found)
    return [(x - w / 2, y - h / 2, w, h) for x, y, w, h in places]
