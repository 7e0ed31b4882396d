"""SEED-X and DreamLLM as ``TextWriter``: captions, answers about pictures, boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decoding.next_token import TokenSampling
from ..decoding.query_spans import memory_required
from ..decoding.stream import Context
from . import dreamllm, seed_x
from .story import check_room
from .text_writer import OnToken, TextGrammar, TextRequest, TextSettings


@dataclass(frozen=True)
class QueryWriter:
    """See ``TextWriter``.

    Attributes:
        name: of the file, for messages.
        model: what holds the modules: language, vision, text, tokens, positions; agent or queries.
        style: of SEED-X's prompts: "base" or "instruct".
        device: where the modules run.
    """

    name: str
    model: Any
    device: torch.device
    style: str = "base"
    takes_images: bool = True
    takes_grammar: bool = False

    def encode(self, request: TextRequest) -> TextRequest:
        if request.system:
            raise ValueError(f"{self.name} knows no system prompt: put it into the text.")
        return request

    def memory_required(self, prompt: TextRequest, settings: TextSettings) -> int:
        """For a prompt of any length, which is known only when its pictures are read."""
        tokens = self.model.positions
        return memory_required(self.model.language.module, tokens, tokens)

    def write(
        self,
        prompt: TextRequest,
        settings: TextSettings,
        on_token: OnToken,
        grammar: TextGrammar | None = None,
    ) -> str:
        sampling = settings.token_sampling(self.name)

        def follow(count: int, total: int, ids_1n: Tensor) -> None:
            on_token(count, total, self.text_of(ids_1n[0].tolist()))

        write = self._seed_x if hasattr(self.model, "agent") else self._dreamllm
        return self.text_of(write(prompt, settings, sampling, follow))

    def text_of(self, ids: Sequence[int]) -> str:
        """Text without marks; boxes stay, for Boxes from Answer."""
        return seed_x.without_marks(self.model.text.decode(ids)).strip()

    def _seed_x(
        self, prompt: TextRequest, settings: TextSettings, sampling: TokenSampling, follow: Callable
    ) -> list[int]:
        m = self.model
        task = seed_x.ASKING[self.style] if prompt.template else "plain"
        pictures = []
        if prompt.images:
            vision = m.needs_vision("A picture in the prompt").module
            read = (vision, m.agent.module)
            pictures = [seed_x.read_picture(*read, image, self.device) for image in prompt.images]
        context = seed_x.prompt(m.text, m.tokens, seed_x.TEMPLATES[task], prompt.text, pictures)
        check_room(context, settings.max_tokens, m.positions, len(pictures))
        modules = (m.language.module, m.agent.module, m.tokens)
        limits = (self.device, settings.max_tokens, sampling, settings.seed)
        answer = seed_x.answer(*modules, context, *limits, on_token=follow)
        return answer.turn.ids

    def _dreamllm(
        self, prompt: TextRequest, settings: TextSettings, sampling: TokenSampling, follow: Callable
    ) -> list[int]:
        m = self.model
        read = dreamllm.read_picture
        pictures = [read(m.vision.module, image, self.device) for image in prompt.images]
        text = dreamllm.with_marks(prompt.text, len(pictures))
        text = dreamllm.CHAT.format(text=text) if prompt.template else text
        queries = m.queries.module(self.device)
        context: Context = dreamllm.document(
            m.text, m.tokens, queries, dreamllm.with_places(text, pictures)
        )
        check_room(context, settings.max_tokens, m.positions, len(pictures))
        limits = (self.device, settings.max_tokens, sampling, settings.seed)
        turn = dreamllm.next_turn(
            m.language.module, m.tokens, queries, context, *limits, on_token=follow, dreams=False
        )
        return turn.ids
