"""SEED-LLaMA at work: prompts and dialogues, pictures as 32 codes, texts and stories."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ..decoding.interleaved import Picture, tell
from ..decoding.kv_cache import KVCache
from ..decoding.next_token import (
    FREE,
    PicturePlan,
    TextRules,
    TokenSampling,
    uniform_noise,
    write_text,
)
from ..decoding.stream import Branch, Context, DecoderStream
from ..image_tokens import ImageTokens
from ..models.decoder import Decoder
from ..tokenizers.seed_text import SeedText, image_text
from .next_token import MultimodalPrompt, OnStep, PictureWish, Size, Told, codes_of, draw_plan

CODES = 32  # of a picture
IMAGE_BLOCK = slice(1, 2)  # of the head: the image codes
TURN = re.compile(r"^[ \t]*(USER|ASSISTANT):[ \t]*", re.MULTILINE)


class Style(str, Enum):
    """Published templates: of the 8B and the 14B after fine-tuning, and of the pretraining."""

    VICUNA = "vicuna"
    LLAMA2 = "llama2"
    PLAIN = "plain"


def dialogue(text: str, style: Style, system: str = "") -> str:
    """A prompt in a model's template.

    A line that begins with ``USER:`` or ``ASSISTANT:`` begins a turn; a text without such is one
    question. The answer to the last question follows.
    """
    if style is Style.PLAIN:
        return f"<s>{system}{text}"
    parts = TURN.split(text)  # what stands before the first turn, then role and text in turn
    if len(parts) == 1:
        turns = [("USER", text)]
    else:
        turns = list(zip(parts[1::2], parts[2::2], strict=True))
        system = "\n".join(filter(None, (system, parts[0].strip())))
    written = "".join(turn(role, words.rstrip("\n"), style) for role, words in turns)
    head = f"<s>{system}\n" if system else "<s>"
    return f"{head}{written}" + ("ASSISTANT:" if style is Style.VICUNA else "")


def turn(role: str, words: str, style: Style) -> str:
    if style is Style.VICUNA:
        return f"{role}: {words}\n"
    return f"[INST] {words} [/INST]\n" if role == "USER" else f"{words}\n"


@dataclass(frozen=True)
class SeedStory:
    """Rules of an answer: text, and pictures of 32 codes wherever the model begins one."""

    system: SeedLlamaSystem
    longest: int  # tokens of the answer
    start: int  # tokens of the prompt
    header: None = None

    @property
    def limit(self) -> int:
        return min(self.system.context, self.start + self.longest + CODES + 2)

    @property
    def opening(self) -> int:
        return self.system.text.begin

    def text(self, length: int, written: int) -> TextRules | None:
        left = self.limit - length
        may_open = left > CODES + 2
        if left <= 0 or length - self.start >= self.longest:
            return None
        eos, begin = self.system.text.eos, self.system.text.begin
        left = min(left, self.longest - (length - self.start))
        ends = (eos, begin) if may_open else (eos,)
        return TextRules((eos, begin), left, self.system.allowed(*ends))

    def picture(self, ids: Sequence[int]) -> Picture:
        return Picture(self.system.plan())


class SeedLlamaSystem:
    """See ``NextTokenSystem``. There is no guidance: the published models use none."""

    name = "SEED-LLaMA"
    sizes: tuple[Size, ...] = ()
    takes_pictures = True
    interleaves = True

    def __init__(self, text: SeedText, model_vocab: int, style: Style, context: int, file: str):
        self.text, self.model_vocab, self.style = text, model_vocab, style
        self.context, self.file = context, file

    # prompts

    def checked(self, tokenizer: Any | None) -> Any:
        """The SEED tokenizer, if it has as many codes as the model's vocabulary."""
        if tokenizer is None:
            raise ValueError(
                f"{self.file} reads and draws pictures as SEED tokens: connect its tokenizer "
                f"(Load SEED Tokenizer)."
            )
        found = getattr(tokenizer.params, "vocab", None), getattr(tokenizer.params, "codes", None)
        if found != (self.text.codes, CODES):
            raise ValueError(
                f"{self.file} reads rows of {CODES} codes out of {self.text.codes}, the image "
                f"tokenizer has {found[0]} codes. Load the SEED-2 tokenizer (seed_quantizer.pt)."
            )
        return tokenizer

    def prompt_text(
        self, prompt: MultimodalPrompt, tokenizer: Any | None, device: torch.device
    ) -> str:
        """The prompt with its pictures as code names.

        Raises:
            ValueError: the prompt is empty, or holds pictures and there is no tokenizer for them.
        """
        if not any(isinstance(part, Tensor) or part.strip() for part in prompt.parts):
            raise ValueError(f"The prompt is empty: {self.name} needs a text or a picture.")
        words = []
        for index, part in enumerate(prompt.parts):
            if isinstance(part, str):
                words.append(part)
            else:
                words.append(image_text(self.codes(prompt, index, part, tokenizer, device)))
        return "".join(words)

    def codes(
        self,
        prompt: MultimodalPrompt,
        index: int,
        picture: Tensor,
        tokenizer: Any | None,
        device: torch.device,
    ) -> list[int]:
        tokenizer = self.checked(tokenizer)
        key = (tokenizer.fingerprint, index, (picture.shape[1], picture.shape[0]))
        if key not in prompt.memo.codes:
            found = tokenizer.encode(picture[None], device=device)
            prompt.memo.codes[key] = found.ids[0].flatten()
        return prompt.memo.codes[key].tolist()

    def ids_of(
        self,
        prompt: MultimodalPrompt,
        tokenizer: Any | None,
        device: torch.device,
        template: bool = True,
    ) -> list[int]:
        with torch.inference_mode():
            text = self.prompt_text(prompt, tokenizer, device)
        style = self.style if template else Style.PLAIN
        return self.text.encode(dialogue(text, style, prompt.system))

    def fits(self, tokens: int, what: str) -> None:
        if tokens > self.context:
            raise ValueError(
                f"{what} take {tokens} tokens together, {self.file} was trained with "
                f"{self.context}. Shorten the text or use fewer pictures."
            )

    # pictures

    def plan(self) -> PicturePlan:
        """32 codes and the end; the reference leaves both to the model, and fails where it counts
        wrongly."""
        tokens = (FREE,) * CODES + (self.text.end,)
        return PicturePlan(tokens, IMAGE_BLOCK, self.text.first_code, CODES)

    def draw(
        self,
        model: Decoder,
        tokenizer: Any,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> ImageTokens:
        """A picture at once, with the begin mark put behind the prompt ("force image")."""
        tokenizer = self.checked(tokenizer)
        if wish.size is not None:
            raise ValueError(
                f"{self.name} draws {CODES} tokens of a picture's meaning; the size belongs to "
                f"Stable Diffusion behind it. Choose the model's own size."
            )
        ids = [*self.ids_of(prompt, tokenizer, device), self.text.begin]
        plan = self.plan()
        self.fits(len(ids) + len(plan.tokens), "The prompt and the picture")
        branches = [Branch(Context(torch.tensor(ids)))]
        tokens_Bn = draw_plan(model, prompt, branches, plan, wish, device, quiet(on_step))
        return self.row(codes_of(plan, tokens_Bn, self.text.first_code), tokenizer)

    def row(self, codes_BQ: Tensor, tokenizer: Any) -> ImageTokens:
        return ImageTokens((codes_BQ[:, None],), tokenizer.fingerprint)

    def memory_required(self, model: Decoder, prompt: MultimodalPrompt, wish: PictureWish) -> int:
        p = model.params
        length = min(self.context, (CODES + 2) * (1 + len(prompt.pictures)) + len(prompt.text) + 64)
        sizes = (p.depth, wish.batch, p.kv_heads, length, p.head_width, model.compute_dtype)
        return int(KVCache.nbytes(*sizes) + wish.batch * p.vocab * 16 + 2**27)

    # texts

    def allowed(self, *more: int) -> Tensor:
        """bool [V]: pieces of text, and ``more`` ids."""
        mask = torch.zeros(self.model_vocab, dtype=torch.bool)
        mask[3 : self.text.pieces] = True
        mask[list(more)] = True
        return mask

    def answer(
        self,
        model: Decoder,
        tokenizer: Any | None,
        prompt: MultimodalPrompt,
        sampling: TokenSampling,
        limit: int,
        seed: int,
        device: torch.device,
        on_token: Callable[[int, int, str], None],
        template: bool = True,
    ) -> str:
        ids = self.ids_of(prompt, tokenizer, device, template)
        self.fits(len(ids) + 1, "Question and pictures")
        eos = self.text.eos
        rules = TextRules((eos,), min(limit, self.context - len(ids)), self.allowed(eos))
        prefix = prompt.memo.prefix(model, [Branch(Context(torch.tensor(ids)))], device)
        stream = DecoderStream(model, prefix, 1, rules.limit)
        seen = torch.zeros(1, self.model_vocab, dtype=torch.bool)
        seen[0, ids] = True

        def watch(done: int, total: int, tokens_Bn: Tensor) -> None:
            on_token(done, total, self.text.decode(tokens_Bn[0].tolist()))

        noise = uniform_noise(seed, 1, rules.limit)
        tokens = write_text(stream, rules, sampling, noise, seen, watch)
        return self.text.decode(tokens[0].tolist()).strip()

    # stories

    def tell(
        self,
        model: Decoder,
        tokenizer: Any,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> Told:
        tokenizer = self.checked(tokenizer)
        ids = self.ids_of(prompt, tokenizer, device)
        self.fits(len(ids) + 1, "The prompt's text and pictures")
        story = SeedStory(self, wish.max_tokens, len(ids))
        prefix = prompt.memo.prefix(model, [Branch(Context(torch.tensor(ids)))], device)
        watch = quiet(on_step)
        new = tell(
            model,
            prefix,
            story,
            wish.text,
            wish.sampling,
            wish.seed,
            watch,
            watch and (lambda plan, *step: watch(*step)),
        )
        return self.read(new, tokenizer)

    def read(self, ids: Sequence[int], tokenizer: Any) -> Told:
        """Texts and pictures of an answer's ids."""
        pieces: list[str | int] = []
        pictures: list[ImageTokens] = []
        rest = list(ids)
        while rest:
            at = rest.index(self.text.begin) if self.text.begin in rest else len(rest)
            if words := self.text.decode(rest[:at]):
                pieces.append(words)
            codes = torch.tensor(rest[at + 1 : at + 1 + CODES]) - self.text.first_code
            if len(codes) == CODES:
                pieces.append(len(pictures))
                pictures.append(self.row(codes[None], tokenizer))
            rest = rest[at + CODES + 2 :]
        return Told(tuple(pieces), tuple(pictures))


def quiet(on_step: OnStep | None) -> Callable[[int, int, Tensor], None] | None:
    """Progress without a preview: codes alone show no picture."""
    if on_step is None:
        return None
    return lambda done, total, tokens: on_step(done, total, None)
