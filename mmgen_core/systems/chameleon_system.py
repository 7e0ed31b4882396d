"""Chameleon and ANOLE at work: prompts, guidance, texts and stories.

Their files differ in nothing but the image rows of the head, so they run alike: Chameleon as
published draws noise (its image rows were taken out), ANOLE draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..decoding.interleaved import tell
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
from ..pictures import square_crop
from ..tokenizers.image_tokenizer import ImageTokenizer
from ..tokenizers.text import TextTokenizer
from .anole import AnoleStory
from .chameleon_vocabulary import Vocabulary, guidance_branches
from .next_token import (
    MultimodalPrompt,
    OnStep,
    PictureWish,
    Size,
    Told,
    codes_of,
    draw_plan,
    row_previews,
)

IMAGE_BLOCK = slice(1, 2)  # of the head: the image codes
CONTEXT = 4096  # published; the config's max_position_embeddings where it has one


class ChameleonSystem:
    """See ``NextTokenSystem``."""

    takes_pictures = True
    interleaves = True

    def __init__(
        self,
        name: str,
        model_vocab: int,
        tokenizer: TextTokenizer,
        config: dict[str, Any],
        file: str,
    ):
        self.name, self.file, self.text_tokenizer = name, file, tokenizer
        self.model_vocab, self.vocabulary = model_vocab, Vocabulary.of(tokenizer)
        side = config.get("image_size") or config.get("vq_config", {}).get("resolution", 512)
        self.sizes: tuple[Size, ...] = ((side, side),)
        self.context = config.get("max_position_embeddings") or CONTEXT

    # prompts

    def ids_of(
        self,
        prompt: MultimodalPrompt,
        tokenizer: ImageTokenizer | None,
        device: torch.device,
        end: Sequence[int] = (),
    ) -> list[int]:
        """Begin mark, texts and pictures in order, and ``end``.

        Raises:
            ValueError: the prompt is empty, or holds pictures and there is no tokenizer for them.
        """
        if not any(isinstance(part, Tensor) or part.strip() for part in prompt.parts):
            raise ValueError(f"The prompt is empty: {self.name} needs a text or a picture.")
        ids = [self.vocabulary.bos]
        if prompt.system.strip():
            ids += self.text_tokenizer.encode(f"{prompt.system}\n")
        for index, part in enumerate(prompt.parts):
            if isinstance(part, str):
                ids += self.text_tokenizer.encode(part)
            else:
                ids += self.picture_ids(prompt, index, part, tokenizer, device)
        return [*ids, *end]

    def picture_ids(
        self,
        prompt: MultimodalPrompt,
        index: int,
        picture: Tensor,
        tokenizer: ImageTokenizer | None,
        device: torch.device,
    ) -> list[int]:
        """A picture of the prompt as the model reads it, with its begin and end."""
        size = self.input_size(picture)
        codes = self.codes(prompt, index, self.prepared(picture, size), tokenizer, device)
        v = self.vocabulary
        return [v.boi, *(codes.flatten() + v.first_code).tolist(), v.eoi]

    def input_size(self, picture: Tensor) -> Size:
        return self.sizes[0]

    def prepared(self, picture: Tensor, size: Size) -> Tensor:
        return square_crop(picture, size[0])

    def codes(
        self,
        prompt: MultimodalPrompt,
        index: int,
        picture: Tensor,
        tokenizer: ImageTokenizer | None,
        device: torch.device,
    ) -> Tensor:
        """Codes [h, w] of a prepared picture of the prompt."""
        tokenizer = self.checked(tokenizer)
        key = (tokenizer.fingerprint, index, (picture.shape[1], picture.shape[0]))
        if key not in prompt.memo.codes:
            found = tokenizer.encode(picture[None].to(device))
            prompt.memo.codes[key] = found.ids[0][0].cpu()
        return prompt.memo.codes[key]

    def checked(self, tokenizer: ImageTokenizer | None) -> ImageTokenizer:
        """The image tokenizer, if it has as many codes as the model's vocabulary."""
        if tokenizer is None:
            raise ValueError(
                f"{self.file} reads and draws pictures as codes: connect its image tokenizer "
                f"(Load Image Tokenizer)."
            )
        found = getattr(tokenizer.params, "vocab", None)
        if found != self.vocabulary.codes:
            raise ValueError(
                f"{self.file} has {self.vocabulary.codes} image codes, the image tokenizer has "
                f"{found}. Load the VQGAN that belongs to the model."
            )
        return tokenizer

    def fits(self, tokens: int, what: str) -> None:
        if tokens > self.context:
            raise ValueError(
                f"{what} take {tokens} tokens together, {self.file} was trained with "
                f"{self.context}. Shorten the text or use fewer pictures."
            )

    # pictures

    def grid(self, size: Size | None, tokenizer: ImageTokenizer) -> Size:
        """(width, height) in codes.

        Raises:
            ValueError: a size that the model does not draw.
        """
        size = size or self.sizes[0]
        if size not in self.sizes:
            known = ", ".join(f"{w} x {h}" for w, h in self.sizes)
            raise ValueError(f"{self.name} draws {known}, not {size[0]} x {size[1]}.")
        return size[0] // tokenizer.stride, size[1] // tokenizer.stride

    def plan(self, grid: Size) -> PicturePlan:
        return PicturePlan.grid(grid[1], grid[0], IMAGE_BLOCK, self.vocabulary.first_code)

    def plan_grid(self, plan: PicturePlan) -> Size:
        """(width, height) in codes of a plan's picture."""
        return plan.row, plan.tokens.count(FREE) // plan.row

    def branches(self, ids: Sequence[int], grid: Size, text: float, image: float) -> list[Branch]:
        return guidance_branches([*ids, self.vocabulary.boi], self.vocabulary, text, image)

    def drawing_prompt(self, prompt: MultimodalPrompt, size: Size) -> MultimodalPrompt:
        """The prompt as the model was trained to draw from."""
        return prompt

    def draw(
        self,
        model: Decoder,
        tokenizer: ImageTokenizer,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> ImageTokens:
        tokenizer = self.checked(tokenizer)
        grid, first = self.grid(wish.size, tokenizer), self.vocabulary.first_code
        size = grid[0] * tokenizer.stride, grid[1] * tokenizer.stride
        asked = self.drawing_prompt(prompt, size)
        with torch.inference_mode():
            ids = self.ids_of(asked, tokenizer, device, [self.vocabulary.turn])
        plan = self.plan(grid)
        self.fits(len(ids) + len(plan.tokens), "The prompt and the picture")
        branches = self.branches(ids, grid, wish.guidance, wish.image_guidance)
        on_token = row_previews(plan, grid, first, tokenizer, on_step, device)
        tokens_Bn = draw_plan(model, prompt, branches, plan, wish, device, on_token)
        codes = codes_of(plan, tokens_Bn, first)
        return ImageTokens((codes.unflatten(1, (grid[1], grid[0])),), tokenizer.fingerprint)

    def memory_required(self, model: Decoder, prompt: MultimodalPrompt, wish: PictureWish) -> int:
        p = model.params
        pictures = 1 + len(prompt.pictures)
        length = min(self.context, 1100 * pictures + len(prompt.text))
        rows = wish.batch * (3 if prompt.pictures else 2)
        sizes = (p.depth, rows, p.kv_heads, length, p.head_width, model.compute_dtype)
        return int(KVCache.nbytes(*sizes) + rows * p.vocab * 16 + 2**27)

    # texts

    def text_rules(self, limit: int) -> TextRules:
        v = self.vocabulary
        allowed = v.mask(self.model_vocab, v.eos, v.turn)
        return TextRules((v.eos, v.turn, v.boi), limit, allowed)

    def answer(
        self,
        model: Decoder,
        tokenizer: ImageTokenizer | None,
        prompt: MultimodalPrompt,
        sampling: TokenSampling,
        limit: int,
        seed: int,
        device: torch.device,
        on_token: Callable[[int, int, str], None],
        template: bool = True,
    ) -> str:
        with torch.inference_mode():
            end = [self.vocabulary.turn] if template else []
            ids = self.ids_of(prompt, tokenizer, device, end)
        self.fits(len(ids) + 1, "Question and pictures")
        rules = self.text_rules(min(limit, self.context - len(ids)))
        prefix = prompt.memo.prefix(model, [Branch(Context(torch.tensor(ids)))], device)
        stream = DecoderStream(model, prefix, 1, rules.limit)
        seen = torch.zeros(1, self.model_vocab, dtype=torch.bool)
        seen[0, ids] = True

        def watch(done: int, total: int, tokens_Bn: Tensor) -> None:
            on_token(done, total, self.words(tokens_Bn[0].tolist()))

        noise = uniform_noise(seed, 1, rules.limit)
        tokens = write_text(stream, rules, sampling, noise, seen, watch)
        return self.words(tokens[0].tolist()).strip()

    def words(self, ids: Sequence[int]) -> str:
        """The text of ids, without marks."""
        marks = {self.vocabulary.eos, self.vocabulary.turn, self.vocabulary.boi}
        return self.text_tokenizer.decode([i for i in ids if i not in marks])

    # stories

    def tell(
        self,
        model: Decoder,
        tokenizer: ImageTokenizer,
        prompt: MultimodalPrompt,
        wish: PictureWish,
        device: torch.device,
        on_step: OnStep | None = None,
    ) -> Told:
        tokenizer = self.checked(tokenizer)
        with torch.inference_mode():
            ids = self.story_ids(prompt, tokenizer, device)
        self.fits(len(ids) + 1, "The prompt's text and pictures")
        story = self.story(ids, wish, tokenizer)
        prefix = prompt.memo.prefix(model, [Branch(Context(torch.tensor(ids)))], device)
        follow = Following(self, tokenizer, on_step, device)
        new = tell(
            model,
            prefix,
            story,
            wish.text,
            wish.sampling,
            wish.seed,
            follow.text,
            follow.picture,
        )
        return self.read(new, tokenizer)

    def story_ids(
        self, prompt: MultimodalPrompt, tokenizer: ImageTokenizer, device: torch.device
    ) -> list[int]:
        return self.ids_of(prompt, tokenizer, device)

    def story(self, ids: Sequence[int], wish: PictureWish, tokenizer: ImageTokenizer) -> Any:
        grid = self.grid(wish.size, tokenizer)
        return AnoleStory(self, grid, wish.guidance, wish.image_guidance, wish.max_tokens)

    def picture_grid(self, ids: Sequence[int]) -> tuple[Tensor, Size] | None:
        """Codes and (width, height) in codes of the ids between begin and end of an image; None
        where it is unfinished."""
        side = round(len(ids) ** 0.5)
        if side * side != len(ids) or not ids:
            return None
        return torch.tensor(ids) - self.vocabulary.first_code, (side, side)

    def read(self, ids: Sequence[int], tokenizer: ImageTokenizer) -> Told:
        """Texts and pictures of an answer's ids."""
        v, pieces, pictures = self.vocabulary, [], []
        rest = list(ids)
        while rest:
            at = rest.index(v.boi) if v.boi in rest else len(rest)
            if words := self.words(rest[:at]):
                pieces.append(words)
            rest = rest[at + 1 :]
            stop = rest.index(v.eoi) if v.eoi in rest else len(rest)
            found = self.picture_grid(rest[:stop])
            if found is not None:
                codes, (width, height) = found
                pieces.append(len(pictures))
                maps = (codes.view(1, height, width),)
                pictures.append(ImageTokens(maps, tokenizer.fingerprint))
            rest = rest[stop + 1 :]
        return Told(tuple(pieces), tuple(pictures))


class Following:
    """Progress of a story."""

    def __init__(self, system: ChameleonSystem, tokenizer, on_step: OnStep | None, device):
        self.system, self.tokenizer, self.device = system, tokenizer, device
        self.on_step = on_step

    def text(self, done: int, total: int, tokens_Bn: Tensor) -> None:
        if self.on_step is not None:
            self.on_step(done, total, None)

    def picture(self, plan: PicturePlan, done: int, total: int, tokens_Bn: Tensor) -> None:
        grid = self.system.plan_grid(plan)
        first = self.system.vocabulary.first_code
        watch = row_previews(plan, grid, first, self.tokenizer, self.on_step, self.device)
        if watch is not None:
            watch(done, total, tokens_Bn)
