"""Any model that writes text as a ``CLIP`` for ComfyUI's Generate Text node, and for ours.

How a model becomes one: write a small ``TextWriter`` (mmgen_core/conditioners/text_writer.py)
and return ``TextModel(writer, patcher)`` as the CLIP output of a node:

    class Answers:
        name, takes_images, takes_grammar = "model.safetensors", True, False

        def encode(self, request):           # text and pictures -> prompt; runs on the CPU
            return template(request.text), request.images

        def write(self, prompt, settings, on_token, grammar=None):
            for count, text in ...:           # the weights are loaded, on patcher.load_device
                on_token(count, settings.max_tokens, text)   # progress and interrupt
            return text

    TextModel(Answers(), patcher)             # companions=[...] for an image tokenizer beside it

``memory_required(prompt, settings)``, where the writer has it, gives the bytes that a run needs
beside the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...mmgen_core.conditioners.text_writer import (
    TextGrammar,
    TextRequest,
    TextSettings,
    TextWriter,
)

_SHOW_SECONDS = 0.25  # between two states of the text on the node


class NotAnEncoder(AttributeError):
    """Something only a text encoder has was asked of a model that writes text."""


@dataclass(frozen=True)
class Written:
    """A finished text, in the place of the token ids that other models return."""

    text: str


class TextModel:
    """Stands where a ``comfy.sd.CLIP`` stands, for nodes that generate text."""

    def __init__(self, writer: TextWriter, patcher: Any = None, companions: Sequence[Any] = ()):
        """
        Args:
            patcher: of the model that writes; None where no weights are on this machine.
            companions: more patchers that a run needs, such as an image tokenizer's.
        """
        self.writer = writer
        self.patchers = [*([patcher] if patcher is not None else []), *companions]

    @property
    def patcher(self) -> Any:
        return self.patchers[0] if self.patchers else None

    def get_models(self) -> list[Any]:
        """For ComfyUI, which protects the models of a running prompt."""
        return self.patchers

    # What Generate Text calls

    def tokenize(
        self,
        text: str,
        image: Tensor | None = None,
        video: Tensor | None = None,
        audio: Any = None,
        skip_template: bool = False,
        thinking: bool = False,
        system: str = "",
        **ignored: Any,
    ) -> Any:
        for kind, given in (("video", video), ("audio", audio)):
            if given is not None:
                raise ValueError(f"{self.writer.name} takes no {kind}: disconnect it.")
        images = [] if image is None else list(image[..., :3].float().cpu())
        if images and not self.writer.takes_images:
            raise ValueError(
                f"{self.writer.name} reads text only: disconnect the picture, or use a model "
                f"that looks at pictures."
            )
        request = TextRequest(text, images, system, not skip_template, thinking)
        return self.writer.encode(request)

    def generate(
        self,
        tokens: Any,
        do_sample: bool = True,
        max_length: int = 256,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        presence_penalty: float = 0.0,
    ) -> Written:
        settings = TextSettings(
            max_length,
            temperature if do_sample else 0.0,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            seed or 0,
        )
        return Written(self.write(tokens, settings))

    def decode(self, token_ids: Written, skip_special_tokens: bool = True) -> str:
        return token_ids.text

    # What our own nodes call

    def write(self, prompt: Any, settings: TextSettings, grammar: TextGrammar | None = None) -> str:
        """The text after a prompt of ``tokenize``, with progress, interrupt, and the text so far
        on the node."""
        following = FollowText()
        if not self.patchers:
            return self.writer.write(prompt, settings, following, grammar)
        estimate: Callable = getattr(self.writer, "memory_required", lambda *_: 0)
        memory_required = estimate(prompt, settings)
        with comfy.model_management.cuda_device_context(self.patcher.load_device):
            comfy.model_management.load_models_gpu(self.patchers, memory_required=memory_required)
            return self.writer.write(prompt, settings, following, grammar)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "writer":
            raise AttributeError(name)
        raise NotAnEncoder(
            f"{self.writer.name} is a model that writes text, it does not encode prompts (asked "
            f"for {name}). Connect it to Generate Text, Rewrite Prompt or Plan Layout; for CLIP "
            f"Text Encode use the text encoder of the model that draws."
        )


class FollowText:
    """An ``on_token``: interrupt, progress bar, and the text so far on the running node."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)
        self._shown = time.perf_counter()

    def __call__(self, count: int, total: int, text: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(count, total)
        if time.perf_counter() - self._shown > _SHOW_SECONDS:
            self._shown = time.perf_counter()
            show_text(text)


def show_text(text: str) -> None:
    """A line of text on the node that runs now, in every open browser."""
    from server import PromptServer  # exists once the server runs; scripts have none

    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text, context.node_id)
