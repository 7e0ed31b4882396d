"""Texts by a folder's language model, free or held to a grammar."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decoding.text_sampling import TokenChooser
from .folder_llm import FolderLLM
from .text_writer import OnToken, TextGrammar, TextRequest, TextSettings

log = logging.getLogger(__name__)

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for the first bytes of a letter
_TAIL = 8  # tokens that decide how the next one is spelled


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt."""

    ids: tuple[int, ...]


class LlmWriter:
    """A ``TextWriter`` over a folder's model."""

    takes_images = False
    takes_grammar = True

    def __init__(self, llm: FolderLLM, device: Callable[[], torch.device]):
        """
        Args:
            device: says where the weights are while ``write`` runs.
        """
        self.name = llm.folder.name
        self.module, self.tokenizer, self._device = llm.module, llm.tokenizer, device
        config = llm.module.config.get_text_config()
        self.context = int(getattr(config, "max_position_embeddings", 0) or 0)

    def encode(self, request: TextRequest) -> Prompt:
        templated = request.template and bool(self.tokenizer.chat_template)
        text = self._conversation(request) if templated else _plain(request)
        ids = self.tokenizer(text, add_special_tokens=not templated)["input_ids"]
        if not ids:
            raise ValueError("The prompt is empty: write what the language model should answer.")
        if self.context and len(ids) >= self.context:
            raise ValueError(
                f"The prompt has {len(ids)} tokens; {self.name} reads at most {self.context}, "
                f"its answer included. Shorten it."
            )
        return Prompt(tuple(ids))

    def _conversation(self, request: TextRequest) -> str:
        from jinja2.exceptions import TemplateError  # transformers renders with it

        said = [{"role": "user", "content": request.text}]
        asked = [{"role": "system", "content": request.system}] if request.system else []
        try:
            return self._rendered([*asked, *said], request)
        except TemplateError:
            if not asked:
                raise
        # the model knows no system's part: the instructions come first in the user's
        merged = f"{request.system}\n\n{request.text}"
        return self._rendered([{"role": "user", "content": merged}], request)

    def _rendered(self, messages: list[dict[str, str]], request: TextRequest) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=request.thinking,
        )

    def memory_required(self, prompt: Prompt, settings: TextSettings) -> int:
        """Bytes of keys, values and scores."""
        config = self.module.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0) or 0
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        layers = getattr(config, "num_hidden_layers", 0) or 0
        tokens = len(prompt.ids) + self._room(prompt, settings)
        return 2 * layers * kv_heads * size * tokens * 4 + 64 * config.vocab_size

    def _room(self, prompt: Prompt, settings: TextSettings) -> int:
        room = self.context - len(prompt.ids) if self.context else settings.max_tokens
        if room < settings.max_tokens:
            log.warning(
                "mmgen: %s has room for %d tokens after this prompt, not %d.",
                self.name,
                room,
                settings.max_tokens,
            )
        return min(room, settings.max_tokens)

    def write(
        self,
        prompt: Prompt,
        settings: TextSettings,
        on_token: OnToken,
        grammar: TextGrammar | None = None,
    ) -> str:
        from transformers import GenerationConfig

        room = self._room(prompt, settings)
        run = _Run(self, settings, room, on_token, grammar)
        ids = torch.tensor([prompt.ids], device=self._device())
        config = GenerationConfig(
            max_new_tokens=room, do_sample=False, use_cache=True, pad_token_id=prompt.ids[-1]
        )
        self.module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=[run.choose],
            stopping_criteria=[run.ended],
        )
        return run.text

    def stops(self) -> set[int]:
        """Ids that end a text."""
        known = [
            getattr(self.module.generation_config, "eos_token_id", None),
            self.module.config.get_text_config().eos_token_id,
            self.tokenizer.eos_token_id,
        ]
        ids = [i for known_ids in known for i in _as_list(known_ids)]
        return {int(i) for i in ids if i is not None}

    def spell(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def bytes_of(self, token: int) -> bytes:
        """A token's bytes, in the two ways vocabularies write them; empty where it is neither."""
        word = self.tokenizer.convert_ids_to_tokens(token) or ""  # none: a padded vocabulary
        if match := re.fullmatch(r"<0x([0-9A-F]{2})>", word):
            return bytes([int(match[1], 16)])
        return bytes(_BYTES[letter] for letter in word if letter in _BYTES)


def _byte_letters() -> dict[str, int]:
    """Letters that stand for bytes in byte-level vocabularies, from GPT-2 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_letters()


def _as_list(ids: Any) -> list[Any]:
    return list(ids) if isinstance(ids, (list, tuple)) else [ids]


def _plain(request: TextRequest) -> str:
    return f"{request.system}\n\n{request.text}" if request.system else request.text


class _Run:
    """The hooks of one text in transformers' generation loop.

    The next token is chosen here and handed over as the only possible one, so that the loop
    needs no random numbers of its own and knows nothing of grammars.
    """

    def __init__(
        self,
        writer: LlmWriter,
        settings: TextSettings,
        room: int,
        on_token: OnToken,
        grammar: TextGrammar | None,
    ):
        self._writer, self._room, self._on_token = writer, room, on_token
        self._chooser, self._stops = TokenChooser(settings), writer.stops()
        self._grammar, self._done = grammar, False
        self.ids: list[int] = []
        self._open: list[int] = []  # the last tokens, while they end within a letter

    @property
    def text(self) -> str:
        return self._writer.spell(self.ids)

    def choose(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = None if self._grammar is None else self._is_allowed
        token = self._chooser.choose(scores[0], self.ids, allowed)
        if token in self._stops and self._grammar is None:
            self._done = True
        else:
            self._take(token)
        self._on_token(len(self.ids), self._room, self.text)
        chosen = torch.full_like(scores, -torch.inf)
        chosen[0, token] = 0
        return chosen

    def ended(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.tensor([self._done], device=input_ids.device)

    def _take(self, token: int) -> None:
        if self._grammar is not None:
            spelling = self._spelling(token)
            self._open = [*self._open, token] if spelling.endswith(_REPLACEMENT) else []
            self._grammar = self._grammar.feed(spelling.rstrip(_REPLACEMENT))
            self._done = self._grammar is None or self._grammar.complete
        self.ids.append(token)

    def _is_allowed(self, token: int) -> bool:
        spelling = self._spelling(token)
        whole = spelling.rstrip(_REPLACEMENT)
        if self._grammar is None or not spelling or _REPLACEMENT in whole:
            return False
        state = self._grammar.feed(whole)
        if whole == spelling or state is None:
            return state is not None
        # the first bytes of a letter, where any letter may stand
        *before, added = map(self._writer.bytes_of, [*self._open, token])
        return (
            bool(added)
            and _begins_letter(b"".join([*before, added]))
            and state.feed("é") is not None
        )

    def _spelling(self, token: int) -> str:
        """What a token adds to the text; its end is open where a letter is not whole."""
        if token in self._stops:
            return ""
        tail = self.ids[-_TAIL:]
        before = self._writer.spell(tail).rstrip(_REPLACEMENT)
        after = self._writer.spell([*tail, token])
        return after[len(before) :] if after.startswith(before) else ""


def _begins_letter(encoded: bytes) -> bool:
    """Whether bytes are letters and the beginning of one more, in UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        decoder.decode(encoded)
    except UnicodeDecodeError:
        return False
    rest = decoder.getstate()[0]
    # 0xED 0xA0 begins half of a surrogate pair, which Python notices one byte later only
    return bool(rest) and not (rest[0] == 0xED and len(rest) > 1 and rest[1] >= 0xA0)
