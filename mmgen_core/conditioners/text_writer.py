"""What every model that writes text offers, whatever it is: an LLM, a served one, a model that
also draws.

A text-writing model is wrapped once, as a ``TextWriter``; ComfyUI's Generate Text node, Rewrite
Prompt, Plan Layout and question answering all go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..decoding.next_token import TokenSampling

# Called after every token with (tokens so far, most tokens there can be, text so far); it may
# raise, which ends the run.
OnToken = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TextRequest:
    """What is asked of the model.

    Attributes:
        text: what the user says.
        images: pictures [H, W, 3] in 0..1, in the order the model should see them.
        system: instructions that stand before the conversation, where the model knows such.
        template: put the model's own conversation template around the text; without it the
            model just continues the text.
        thinking: let the model think first, if it has learned to.
    """

    text: str
    images: Sequence[Tensor] = ()
    system: str = ""
    template: bool = True
    thinking: bool = False


@dataclass(frozen=True)
class TextSettings:
    """How to choose tokens. The defaults choose from the model's own distribution.

    Attributes:
        max_tokens: most tokens to write.
        temperature: 0 takes the likeliest token each time.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens of this mass; 1 keeps all.
        min_p: keep tokens at least this likely, relative to the likeliest; 0 keeps all.
        repetition_penalty: divides the scores of tokens already written; 1 is off.
        presence_penalty: subtracted from the scores of tokens already written; 0 is off.
        seed: the same seed gives the same text.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    seed: int = 0

    def token_sampling(self, name: str) -> TokenSampling:
        """The same for the next-token engine, which knows no presence penalty.

        Raises:
            ValueError: one is wanted of the model with this name.
        """
        if self.presence_penalty:
            raise ValueError(f"{name} has no presence penalty: set it to 0.")
        filters = (self.temperature, self.top_k, self.top_p, self.min_p)
        return TokenSampling(*filters, self.repetition_penalty)


class TextGrammar(Protocol):
    """What a text may look like, read from left to right; immutable."""

    def feed(self, text: str) -> TextGrammar | None:
        """The state after more text; None where the text may not stand."""

    @property
    def complete(self) -> bool:
        """Whether the text is whole: nothing may follow."""


class TextWriter(Protocol):
    """A model that writes text.

    Attributes:
        name: for messages: the file or address.
        takes_images: whether a request may hold pictures.
        takes_grammar: whether ``write`` can hold the text to a ``TextGrammar``.
    """

    name: str
    takes_images: bool
    takes_grammar: bool

    def encode(self, request: TextRequest) -> Any:
        """The request as this model's own kind of prompt; no weights are needed for it."""

    def write(
        self,
        prompt: Any,
        settings: TextSettings,
        on_token: OnToken,
        grammar: TextGrammar | None = None,
    ) -> str:
        """The text that follows the prompt, without special tokens. The weights are in place."""
