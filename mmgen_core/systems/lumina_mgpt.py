"""Lumina-mGPT (Liu et al. 2024, arXiv 2408.02657): Chameleon fine-tuned to draw at any aspect.

A picture says its size: begin, height and width in grids of 32 pixels, rows of codes that each end
with a mark, end. Public files: huggingface.co/Alpha-VLLM; they hold no image tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import Checkpoint
from ..decoding.interleaved import Picture
from ..decoding.next_token import FREE, PicturePlan, TextRules, TokenSampling
from ..decoding.stream import Branch, Context
from ..models.decoder import Decoder
from ..pictures import fill_crop, grid_sizes, nearest_size
from ..tokenizers.image_tokenizer import ImageTokenizer
from ..tokenizers.text import TextTokenizer
from .chameleon_system import IMAGE_BLOCK, ChameleonSystem
from .next_token import MultimodalPrompt, PictureWish, Size

GRID = 32  # pixels per unit of a size token
CODES_PER_GRID = 2
TARGETS = (512, 768, 1024)
CONTEXT = 8192  # the published limit of generation; positions have none
MAX_GRIDS = 128
TEXT_TO_IMAGE = "Generate an image of {}x{} according to the following prompt:\n{}"
HEADER = TokenSampling(top_k=2000)


def is_lumina(checkpoint: Checkpoint) -> bool:
    """By the config's class, or by q/k norms per model-parallel part in a file without an image
    tokenizer, which only these files have."""
    architectures = checkpoint.config.get("architectures") or ()
    if any("xllmx" in name.lower() for name in architectures):
        return True
    shapes = checkpoint.shapes
    norm = shapes.get("model.layers.0.self_attn.q_norm.weight")
    if norm is None or any(key.startswith("model.vqmodel.") for key in shapes):
        return False
    return norm[0] * norm[1] != shapes["model.layers.0.self_attn.q_proj.weight"][0]


def target_of(path: Path) -> int:
    """The resolution that a variant was trained at, by its file's or folder's name."""
    named = re.findall(r"(?<!\d)(512|768|1024)(?!\d)", f"{path.parent.name}/{path.name}")
    return int(named[-1]) if named else 768


def picture_plan(grid: Size, first_code: int, new_line: int, eoi: int) -> PicturePlan:
    """Tokens after the size tokens of a picture of (width, height) codes."""
    row = (FREE,) * grid[0] + (new_line,)
    return PicturePlan(row * grid[1] + (eoi,), IMAGE_BLOCK, first_code, len(row))


def guidance_branches(ids: Sequence[int], boi: int, guidance: float) -> list[Branch]:
    """The sequence up to a picture's size tokens, and what is in it from the last begin on."""
    begin = len(ids) - 1 - list(reversed(ids)).index(boi)
    full, bare = torch.tensor(list(ids)), torch.tensor(list(ids[begin:]))
    return [Branch(Context(full), guidance), Branch(Context(bare), 1 - guidance)]


class LuminaSystem(ChameleonSystem):
    def __init__(
        self,
        name: str,
        model_vocab: int,
        tokenizer: TextTokenizer,
        config: dict[str, Any],
        file: str,
        target: int,
    ):
        super().__init__(name, model_vocab, tokenizer, config, file)
        self.target = target
        own = grid_sizes(target)
        others = [size for t in TARGETS if t != target for size in grid_sizes(t)]
        self.sizes = ((target, target), *own, *others)
        self.context = CONTEXT

    # prompts

    def drawing_prompt(self, prompt: MultimodalPrompt, size: Size) -> MultimodalPrompt:
        """The published template; with pictures in the prompt, the instruction as it is, a blank
        between text and picture."""
        if prompt.pictures:
            return spaced(prompt)
        asked = TEXT_TO_IMAGE.format(*size, prompt.text) if prompt.text.strip() else ""
        return MultimodalPrompt((asked,), prompt.system, prompt.memo)

    def answer(self, model, tokenizer, prompt, *arguments, **options) -> str:
        return super().answer(model, tokenizer, spaced(prompt), *arguments, **options)

    def story_ids(self, prompt, tokenizer, device) -> list[int]:
        return self.ids_of(spaced(prompt), tokenizer, device, [self.vocabulary.turn])

    def input_size(self, picture: Tensor) -> Size:
        return nearest_size((picture.shape[1], picture.shape[0]), grid_sizes(self.target))

    def prepared(self, picture: Tensor, size: Size) -> Tensor:
        return fill_crop(picture, size)

    def picture_ids(
        self,
        prompt: MultimodalPrompt,
        index: int,
        picture: Tensor,
        tokenizer: ImageTokenizer | None,
        device: torch.device,
    ) -> list[int]:
        prepared = self.prepared(picture, self.input_size(picture))
        codes = self.codes(prompt, index, prepared, tokenizer, device)
        return self.sequence(codes)

    def sequence(self, codes_hw: Tensor) -> list[int]:
        """A picture's codes as the model reads them, with its size and line ends."""
        v, (h, w) = self.vocabulary, codes_hw.shape
        ends = torch.full((h, 1), v.new_line)
        rows = torch.cat([codes_hw + v.first_code, ends], dim=1).flatten().tolist()
        return [*self.header((w, h)), *rows, v.eoi]

    def header(self, grid: Size) -> list[int]:
        """Begin, height, width."""
        v = self.vocabulary
        sizes = [v.first_size + grid[side] // CODES_PER_GRID for side in (1, 0)]
        return [v.boi, *sizes]

    # pictures

    def grid(self, size: Size | None, tokenizer: ImageTokenizer) -> Size:
        width, height = size or self.sizes[0]
        unit = CODES_PER_GRID * tokenizer.stride
        fits = all(
            side % unit == 0 and unit <= side <= unit * MAX_GRIDS for side in (width, height)
        )
        if not fits:
            near = [max(1, round(side / unit)) * unit for side in (width, height)]
            raise ValueError(
                f"{self.name} draws sizes in multiples of {unit} pixels, not {width} x {height}. "
                f"The nearest is {near[0]} x {near[1]}."
            )
        return width // tokenizer.stride, height // tokenizer.stride

    def plan(self, grid: Size) -> PicturePlan:
        v = self.vocabulary
        return picture_plan(grid, v.first_code, v.new_line, v.eoi)

    def plan_grid(self, plan: PicturePlan) -> Size:
        return plan.row - 1, plan.tokens.count(FREE) // (plan.row - 1)

    def branches(self, ids: Sequence[int], grid: Size, text: float, image: float) -> list[Branch]:
        return guidance_branches([*ids, *self.header(grid)], self.vocabulary.boi, text)

    def memory_required(self, model: Decoder, prompt: MultimodalPrompt, wish: PictureWish) -> int:
        side = max(self.target, *(wish.size or (0,)))
        more = max(1, (side // 512) ** 2)
        return super().memory_required(model, prompt, wish) * more

    # texts and stories

    def text_rules(self, limit: int) -> TextRules:
        return TextRules((self.vocabulary.turn, self.vocabulary.boi), limit)

    def story(
        self, ids: Sequence[int], wish: PictureWish, tokenizer: ImageTokenizer
    ) -> LuminaStory:
        return LuminaStory(self, wish.guidance, wish.max_tokens)

    def picture_grid(self, ids: Sequence[int]) -> tuple[Tensor, Size] | None:
        v = self.vocabulary
        if len(ids) < 2:
            return None
        height, width = (CODES_PER_GRID * (size - v.first_size) for size in ids[:2])
        rows = torch.tensor(ids[2:])
        if height < 1 or width < 1 or len(rows) != height * (width + 1):
            return None
        return (rows.view(height, width + 1)[:, :-1] - v.first_code).flatten(), (width, height)


def spaced(prompt: MultimodalPrompt) -> MultimodalPrompt:
    """A blank between text and picture, as the published prompts have it."""
    parts: list[str | Tensor] = []
    for part in prompt.parts:
        before = parts[-1] if parts else None
        if isinstance(part, Tensor) and isinstance(before, str) and not before.endswith(" "):
            parts[-1] = f"{before} "
        if isinstance(part, str) and isinstance(before, Tensor) and not part.startswith(" "):
            part = f" {part}"
        parts.append(part)
    return MultimodalPrompt(tuple(parts), prompt.system, prompt.memo)


@dataclass(frozen=True)
class LuminaStory:
    """Rules of an answer: the model itself says the size of a picture it opens."""

    system: LuminaSystem
    guidance: float
    longest_text: int

    @property
    def limit(self) -> int:
        return self.system.context

    @property
    def opening(self) -> int:
        return self.system.vocabulary.boi

    def text(self, length: int, written: int) -> TextRules | None:
        left = min(self.limit - length, self.longest_text - written)
        v = self.system.vocabulary
        return TextRules((v.turn, v.boi), left) if left > 0 else None

    @property
    def header(self) -> tuple[TextRules, TokenSampling]:
        v = self.system.vocabulary
        sizes = range(v.first_size + 1, v.first_size + 1 + MAX_GRIDS)
        allowed = v.mask(self.system.model_vocab, *sizes, text=False)
        return TextRules((), 2, allowed), HEADER

    def picture(self, ids: Sequence[int]) -> Picture:
        v = self.system.vocabulary
        height, width = (CODES_PER_GRID * (size - v.first_size) for size in ids[-2:])
        plan = self.system.plan((width, height))
        if len(ids) + len(plan.tokens) > self.limit:
            raise ValueError(
                f"The model opened a picture of {width * 16} x {height * 16} pixels, for which no "
                f"room is left in {self.limit} tokens. Use another seed or fewer pictures."
            )
        whole, bare = guidance_branches(ids, v.boi, self.guidance)
        return Picture(plan, whole.weight, (bare,) if bare.weight else ())
