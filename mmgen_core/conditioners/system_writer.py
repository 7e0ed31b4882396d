"""A next-token model that also draws, as a ``TextWriter``: captions and answers about pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..systems.next_token import MultimodalPrompt, NextTokenSystem, PictureWish
from .multimodal_prompt import multimodal_prompt
from .text_writer import OnToken, TextGrammar, TextRequest, TextSettings


@dataclass(frozen=True)
class WriterPrompt:
    prompt: MultimodalPrompt
    template: bool


@dataclass(frozen=True)
class SystemWriter:
    """See ``TextWriter``.

    Attributes:
        tokenizer: of pictures; None for questions without pictures.
    """

    system: NextTokenSystem
    model: nn.Module
    tokenizer: Any | None
    device: torch.device
    name: str
    takes_grammar: bool = False

    @property
    def takes_images(self) -> bool:
        return self.system.takes_pictures

    def encode(self, request: TextRequest) -> WriterPrompt:
        prompt = multimodal_prompt(request.text, request.images, request.system)
        return WriterPrompt(prompt, request.template)

    def memory_required(self, asked: WriterPrompt, settings: TextSettings) -> int:
        return self.system.memory_required(self.model, asked.prompt, PictureWish())

    def write(
        self,
        prompt: WriterPrompt,
        settings: TextSettings,
        on_token: OnToken,
        grammar: TextGrammar | None = None,
    ) -> str:
        sampling = settings.token_sampling(self.name)
        return self.system.answer(
            self.model,
            self.tokenizer,
            prompt.prompt,
            sampling,
            settings.max_tokens,
            settings.seed,
            self.device,
            on_token,
            prompt.template,
        )
