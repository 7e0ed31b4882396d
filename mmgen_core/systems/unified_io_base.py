"""Unified-IO 1 and 2 at work: tasks and prompts, pictures, answers, boxes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..decoding.beam_search import search_text
from ..decoding.encoder_prefix import read_prompts
from ..decoding.kv_cache import KVCache
from ..decoding.next_token import (
    PicturePlan,
    TextRules,
    TokenSampling,
    uniform_noise,
    write_text,
)
from ..decoding.stream import DecoderStream
from ..image_tokens import ImageTokens
from ..tokenizers.image_tokenizer import ImageTokenizer
from ..tokenizers.unified_io_pictures import Placement
from ..tokenizers.unified_io_text import END, place_bins
from .next_token import (
    MultimodalPrompt,
    OnStep,
    PictureWish,
    Size,
    Told,
    codes_of,
    draw_prefix,
    row_previews,
)
from .unified_io_boxes import Found, found_boxes, places_preferred, without_repeats
from .unified_io_tasks import GENERATE, IMAGE, QUESTION, TEXT, Task, task_of

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True, eq=False)
class TaskPrompt(MultimodalPrompt):
    """A prompt in a task's own wording.

    Attributes:
        answer: "image" or "text".
        blank: a region of the picture that the model does not see.
    """

    answer: str = IMAGE
    blank: Box | None = None


class UnifiedIOBase(ABC):
    """What both generations share. See ``NextTokenSystem``."""

    takes_pictures = True
    interleaves = False
    tasks: Mapping[str, Task]

    def __init__(self, name: str, params: Any, tokenizer: Any, file: str):
        self.name, self.params, self.text_tokenizer, self.file = name, params, tokenizer, file
        height, width = params.target_grid
        self.sizes: tuple[Size, ...] = ((width * params.stride, height * params.stride),)

    # What the two answer differently

    @abstractmethod
    def encoded(self, prompt: MultimodalPrompt, answer: str) -> Any:
        """The model's own kind of prompt."""

    @abstractmethod
    def negative(self, prompt: Any) -> Any | None:
        """What guidance compares a prompt with; None for a model not trained for guidance."""

    @abstractmethod
    def placement(self, picture_HWC: Tensor) -> Placement:
        """Where a picture lies in the frame that the model sees and draws."""

    @abstractmethod
    def target(self, model: nn.Module, kind: str, limit: int) -> Any:
        """The part of the model that writes texts or draws pictures, with room for ``limit``."""

    @abstractmethod
    def plan(self) -> PicturePlan:
        """The tokens of a picture."""

    # Prompts

    def task_prompt(
        self, name: str, words: str = "", picture: Tensor | None = None, box: Box | None = None
    ) -> TaskPrompt:
        """A task's prompt.

        Raises:
            ValueError: a task that the model does not know, or something missing or too much.
        """
        task = task_of(self.tasks, name, self.name)
        given = {"a text": bool(words.strip()), "a picture": picture is not None}
        given["a box"] = box is not None
        wanted = {"a text": bool(task.says), "a picture": task.picture, "a box": task.box}
        for what, needed in wanted.items():
            if needed != given[what]:
                verb = "needs" if needed else "takes no"
                thing = what if needed else what.removeprefix("a ")
                raise ValueError(f"The task {name!r} of {self.name} {verb} {thing}.")
        region = self.region(box, picture) if box is not None else ""
        parts = ((picture,) if picture is not None else ()) + (task.text(words, region),)
        return TaskPrompt(parts, answer=task.answer, blank=box if task.blank else None)

    def region(self, box: Box, picture_HWC: Tensor) -> str:
        """The words for a region.

        Raises:
            ValueError: it has no area, or does not lie in the picture.
        """
        height, width = picture_HWC.shape[:2]
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"The box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) has no area within "
                f"the picture of {width} x {height} pixels."
            )
        bins = place_bins(torch.tensor(box), self.placement(picture_HWC))
        return " ".join(self.text_tokenizer.place(bin_) for bin_ in bins)

    def asked(self, prompt: MultimodalPrompt, answer: str) -> MultimodalPrompt:
        """A plain text for a picture in the wording of the training; other prompts as they are.

        Raises:
            ValueError: an empty prompt, or a task's prompt for another kind of answer.
        """
        if isinstance(prompt, TaskPrompt):
            if prompt.answer != answer:
                asks = {IMAGE: "a picture", TEXT: "a text"}
                raise ValueError(
                    f"This task asks for {asks[prompt.answer]}, not for {asks[answer]}."
                )
            return prompt
        if prompt.system.strip():  # no place of their own: they stand in front
            parts = (f"{prompt.system.strip()} ", *prompt.parts)
            prompt = MultimodalPrompt(parts, memo=prompt.memo)
        text = prompt.text.strip()
        if not text:
            raise ValueError(
                f"The prompt has no text: {self.name} needs one, also beside a picture."
            )
        if answer == IMAGE and not prompt.pictures:
            return self.task_prompt(GENERATE, text)
        return prompt

    def ids(self, text: str, limit: int) -> Tensor:
        """Ids of a text with its end mark.

        Raises:
            ValueError: the text is longer than the model's places.
        """
        ids = [*self.text_tokenizer.encode(text), END]
        if len(ids) > limit:
            raise ValueError(
                f"The prompt has {len(ids)} tokens, {self.name} has places for {limit}. Shorten it."
            )
        return torch.tensor(ids)

    # Pictures

    def draw(
        self,
        model: nn.Module,
        tokenizer: ImageTokenizer,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> ImageTokens:
        self.check(tokenizer, wish)
        prompts, weights = [self.encoded(self.asked(prompt, IMAGE), IMAGE)], [1.0]
        if wish.guidance != 1:
            prompts, weights = self.guided(prompts, wish.guidance)
        plan, (width, height) = self.plan(), self.params.target_grid[::-1]
        grid, first = (width, height), plan.first_id
        on_token = row_previews(plan, grid, first, tokenizer, on_step, device)
        target = self.target(model, IMAGE, 1)

        def stop_if_asked() -> None:
            if on_step is not None:
                on_step(0, len(plan.tokens), None)

        prefix = read_prompts(target, prompts, stop_if_asked)
        wish = replace(wish, sampling=self.sampling(wish.sampling))
        tokens_Bn = draw_prefix(target, prefix, weights, plan, wish, on_token)
        codes = codes_of(plan, tokens_Bn, first)
        return ImageTokens((codes.unflatten(1, (height, width)),), tokenizer.fingerprint)

    def guided(self, prompts: list[Any], guidance: float) -> tuple[list[Any], list[float]]:
        negative = self.negative(prompts[0])
        if negative is None:
            raise ValueError(
                f"{self.name} was not trained for guidance: set guidance to 1 (off), not "
                f"{guidance:g}."
            )
        return [*prompts, negative], [guidance, 1 - guidance]

    def sampling(self, sampling: TokenSampling) -> TokenSampling:
        """In the reference's order of filters and temperature."""
        return sampling

    def check(self, tokenizer: ImageTokenizer, wish: PictureWish) -> None:
        """Raise ValueError for a tokenizer or a size that is not the model's."""
        wanted = (self.params.codes, self.params.stride)
        found = (getattr(tokenizer.params, "vocab", None), tokenizer.stride)
        if wanted != found:
            raise ValueError(
                f"{self.file} draws {wanted[0]} codes of {wanted[1]} pixels, the image tokenizer "
                f"has {found[0]} of {found[1]}. Choose the same file in Load Image Tokenizer: it "
                f"holds its tokenizer."
            )
        if wish.size not in (None, self.sizes[0]):
            own = "{} x {}".format(*self.sizes[0])
            asked = "{} x {}".format(*wish.size)
            raise ValueError(f"{self.name} draws {own} pixels only, not {asked}.")

    def memory_required(self, model: nn.Module, prompt: MultimodalPrompt, wish: PictureWish) -> int:
        p, stack = self.params, self.params.stack
        branches = 1 + (wish.guidance != 1)
        prompt_tokens = p.text_limit + math.prod(p.grid) * bool(prompt.pictures)
        sizes = (stack.heads, stack.head_size, model.compute_dtype)

        def cache(rows: int, length: int) -> int:
            return KVCache.nbytes(stack.decoder_depth, rows, sizes[0], length, *sizes[1:])

        own = cache(wish.batch * branches, math.prod(p.target_grid) + 2)
        scores = 6 * wish.batch * branches * p.image_vocab * 4
        encoder = prompt_tokens * (stack.mlp_width * 2 + stack.width * 6) * 4
        bias = stack.heads * prompt_tokens**2 * 8
        return int(own + cache(branches, prompt_tokens) + scores + encoder + bias + 2**26)

    # Texts

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
        if template and not isinstance(prompt, TaskPrompt):
            prompt = self.questioned(prompt)
        rules = self.text_rules(limit)
        ids = self.written(model, prompt, rules, sampling, seed, on_token)
        return self.text_tokenizer.decode(ids).strip()

    def text_rules(self, limit: int, adjust: Callable[[Tensor], Tensor] | None = None) -> TextRules:
        """Up to the end mark; the tables have a few ids more than there are words."""
        known = torch.arange(self.params.text_vocab) < len(self.text_tokenizer)
        return TextRules((END,), min(limit, self.params.answer_limit), known, adjust)

    def questioned(self, prompt: MultimodalPrompt) -> MultimodalPrompt:
        """A text as a question, in the wording of the training."""
        words = " ".join(prompt.text.split())
        if not words or any(task.worded(words) for task in self.tasks.values()):
            return prompt
        text = self.tasks[QUESTION].text(words, "")
        return MultimodalPrompt((*prompt.pictures, text), prompt.system, prompt.memo)

    def written(
        self,
        model: nn.Module,
        prompt: MultimodalPrompt,
        rules: TextRules,
        sampling: TokenSampling,
        seed: int,
        on_token: Callable[[int, int, str], None] | None = None,
        beams: int = 1,
    ) -> list[int]:
        """Ids of a text."""
        target = self.target(model, TEXT, rules.limit)
        prefix = read_prompts(target, [self.encoded(self.asked(prompt, TEXT), TEXT)])
        stream = DecoderStream(target, prefix, beams, rules.limit)

        def watch(done: int, total: int, tokens_Bn: Tensor) -> None:
            if on_token is not None:
                on_token(done, total, self.text_tokenizer.decode(tokens_Bn[0].tolist()))

        if beams > 1:
            return search_text(stream, rules, on_token=watch)
        noise = uniform_noise(seed, 1, rules.limit)
        seen = torch.zeros(1, self.params.text_vocab, dtype=torch.bool)
        return write_text(stream, rules, sampling, noise, seen, watch)[0].tolist()

    def find(
        self,
        model: nn.Module,
        prompt: TaskPrompt,
        limit: int,
        threshold: float,
        overlap: float,
        beams: int,
        on_token: Callable[[int, int, str], None] | None = None,
    ) -> list[Found]:
        """Boxes in the answer to a prompt with one picture, in its pixels.

        Args:
            threshold: share of probability on places above which one must come; 1 for never.
            overlap: shared part of two boxes above which the later one is left out.
        """
        rules = self.place_rules(limit, threshold)
        greedy = TokenSampling(temperature=0)
        ids = self.written(model, prompt, rules, greedy, 0, on_token, beams)
        found = found_boxes(ids, self.text_tokenizer, self.placement(prompt.pictures[0]))
        return without_repeats(found, overlap)

    def place_rules(self, limit: int, threshold: float) -> TextRules:
        """Rules under which a place must come where places are likely enough."""
        ids = range(self.params.text_vocab)
        places = torch.tensor([self.text_tokenizer.bin_of(id_) is not None for id_ in ids])
        return self.text_rules(
            limit, places_preferred(places, threshold) if threshold < 1 else None
        )

    def tell(self, *arguments: Any, **options: Any) -> Told:
        raise ValueError(
            f"{self.name} answers with a text or a picture, not with both in turn. Use Token "
            f"Image Sampler, or Generate Text."
        )
