"""Show-o as a ``TextWriter``: answers to questions about one picture, or text alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoding.kv_cache import KVCache
from ..decoding.next_token import TextRules, uniform_noise, write_text
from ..decoding.picture_question import read_codes_question, read_features_question
from ..decoding.stream import Context, DecoderStream, Prefix, prefill
from ..models.show_o import ShowO
from ..tokenizers.lookup_free import LookupFreeTokenizer
from ..tokenizers.text import TextTokenizer
from .show_o_prompt import (
    CLIP_SYSTEM,
    clip_question_ids,
    clip_question_text,
    question_ids,
    question_text,
)
from .text_writer import OnToken, TextGrammar, TextRequest, TextSettings


@dataclass(frozen=True)
class Question:
    text: str
    picture: Tensor | None  # [H, W, 3]
    template: bool


@dataclass(frozen=True)
class ShowOWriter:
    """See ``TextWriter``.

    Attributes:
        tokenizer: of pictures, for the models that look at codes.
        features: a picture [1, H, W, 3] to CLIP features [m, C], for those that look at CLIP's.
    """

    model: ShowO
    text: TextTokenizer
    tokenizer: LookupFreeTokenizer | None
    features: Callable[[Tensor], Tensor] | None
    device: torch.device
    name: str
    takes_images: bool = True
    takes_grammar: bool = False

    def encode(self, request: TextRequest) -> Question:
        """One picture at most: Show-o was trained on no more.

        Raises:
            ValueError: several pictures, or instructions, which it has no place for.
        """
        if len(request.images) > 1:
            raise ValueError(
                f"{self.name} looks at one picture at a time, {len(request.images)} were given."
            )
        if request.system:
            raise ValueError(f"{self.name} has no place for a system prompt: leave it empty.")
        picture = request.images[0] if request.images else None
        return Question(request.text, picture, request.template)

    def memory_required(self, prompt: Question, settings: TextSettings) -> int:
        """Bytes of a run beside the weights: keys and values, and the picture's pass."""
        p, d = self.model.params, self.model.params.decoder
        picture = 576 if p.clip_width else p.image_tokens
        read = picture + 64 + len(prompt.text)
        dtype = self.model.compute_dtype
        shape = (d.depth, 2, d.kv_heads, read + settings.max_tokens, d.head_width)
        return KVCache.nbytes(*shape, dtype) + read * (4 * d.width + d.mlp_width) * dtype.itemsize

    def write(
        self,
        prompt: Question,
        settings: TextSettings,
        on_token: OnToken,
        grammar: TextGrammar | None = None,
    ) -> str:
        p = self.model.params
        sampling = settings.token_sampling(self.name)
        prefix = self.read(prompt)
        stream = DecoderStream(self.model.decoder, prefix, 1, settings.max_tokens)
        seen = None
        if settings.repetition_penalty != 1:
            seen = torch.zeros(1, p.decoder.vocab, dtype=torch.bool)
        rules = TextRules((p.end_of_text,), settings.max_tokens)
        noise = uniform_noise(settings.seed, 1, settings.max_tokens)

        def report(count: int, total: int, ids_Bn: Tensor) -> None:
            on_token(count, total, self.words(ids_Bn[0]))

        ids = write_text(stream, rules, sampling, noise, seen, report)
        return self.words(ids[0]).strip()

    def words(self, ids: Tensor) -> str:
        """Text of what was written; special ids and codes, which compete too, are left out."""
        p = self.model.params
        return self.text.decode(
            [i for i in ids.tolist() if i < p.text_vocab and i != p.end_of_text]
        )

    @torch.inference_mode()
    def read(self, prompt: Question) -> Prefix:
        """The question with its picture, ready for the answer.

        Raises:
            ValueError: a picture of another size, or nothing to look at it with.
        """
        p, said = self.model.params, prompt.text
        if prompt.picture is None:
            asked = f"USER: {said} ASSISTANT:" if prompt.template else said
            ids = torch.tensor([p.end_of_text, *self.text.encode(asked)])
            return prefill(self.model.decoder, [Context(ids)], self.device)
        if p.clip_width:
            if self.features is None:
                raise ValueError(
                    f"{self.name} looks at pictures through CLIP: connect clip_vision "
                    f"(clip-vit-large-patch14-336 for the public files)."
                )
            asked = clip_question_text(said) if prompt.template else said
            system = self.text.encode(CLIP_SYSTEM)
            before, behind = clip_question_ids(p, system, self.text.encode(asked))
            features = self.features(prompt.picture[None])
            return read_features_question(self.model, before, features, behind, self.device)
        if self.tokenizer is None:
            raise ValueError(f"{self.name} looks at pictures as tokens: connect its tokenizer.")
        side = p.side * self.tokenizer.stride
        height, width = prompt.picture.shape[:2]
        if (width, height) != (side, side):
            raise ValueError(
                f"The picture is {width} x {height}, {self.name} looks at {side} x {side}. Scale "
                f"or crop it first, for example with Upscale Image (crop: center)."
            )
        codes = self.tokenizer.encode(prompt.picture[None].to(self.device)).ids[0][0]
        asked = question_text(said) if prompt.template else said
        ids = question_ids(p, codes, self.text.encode(asked))
        return read_codes_question(self.model, ids, self.device)
