"""Unified-IO and Unified-IO 2, each with a loaded model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.architecture import Match
from ..checkpoints.files import Checkpoint
from ..decoding.next_token import PicturePlan, TokenSampling
from ..models import unified_io, unified_io_2
from ..tokenizers.text import TokenizerError, find_text_tokenizer
from ..tokenizers.unified_io_pictures import (
    CLIP,
    IMAGENET,
    Placement,
    clear_region,
    fit,
    normalised,
    patch_mask,
    patches,
    place_centred,
    place_in_corner,
)
from ..tokenizers.unified_io_text import UnifiedIO2Tokenizer, UnifiedIOTokenizer
from .next_token import MultimodalPrompt
from .unified_io_base import Box, TaskPrompt, UnifiedIOBase
from .unified_io_tasks import IMAGE, NEGATIVE, UNIFIED_IO, UNIFIED_IO_2


def blank_of(prompt: MultimodalPrompt) -> Box | None:
    return prompt.blank if isinstance(prompt, TaskPrompt) else None


class UnifiedIOSystem(UnifiedIOBase):
    """One picture per prompt, no guidance, top-p before temperature."""

    tasks = UNIFIED_IO
    params: unified_io.UnifiedIOParams

    def encoded(self, prompt: MultimodalPrompt, answer: str) -> unified_io.Prompt:
        ids = self.ids(prompt.text, self.params.text_limit)
        pictures = prompt.pictures
        if not pictures:
            return unified_io.Prompt(ids)
        if len(pictures) > 1:
            raise ValueError(f"{self.name} reads one picture per prompt, {len(pictures)} given.")
        place = self.placement(pictures[0])
        framed, inside = fit(pictures[0][..., :3], place)
        if (blank := blank_of(prompt)) is not None:
            inside = clear_region(inside, place, torch.tensor(blank))
        seen = patch_mask(inside, self.params.grid, centred=False)
        return unified_io.Prompt(
            ids, patches(normalised(framed, IMAGENET), self.params.patch), seen
        )

    def negative(self, prompt: unified_io.Prompt) -> None:
        return None

    def placement(self, picture_HWC: Tensor) -> Placement:
        return place_in_corner(*picture_HWC.shape[:2], self.params.grid[0] * self.params.patch)

    def target(self, model: unified_io.UnifiedIO, kind: str, limit: int) -> unified_io.Target:
        return model.target(kind, limit)

    def plan(self) -> PicturePlan:
        return PicturePlan.grid(*self.params.target_grid, slice(1, 2), self.params.text_vocab)

    def sampling(self, sampling: TokenSampling) -> TokenSampling:
        return replace(sampling, filters_first=True)


class UnifiedIO2System(UnifiedIOBase):
    """A main picture and more as history; guidance against a published empty prompt."""

    tasks = UNIFIED_IO_2
    params: unified_io_2.UnifiedIO2Params

    def encoded(self, prompt: MultimodalPrompt, answer: str) -> unified_io_2.Prompt:
        marked = f"[{'Image' if answer == IMAGE else 'Text'}] [S] {self.marked(prompt)}"
        ids = self.ids(marked, self.params.text_limit)
        pictures = [picture[..., :3] for picture in prompt.pictures]
        if not pictures:
            return unified_io_2.Prompt(ids)
        image = self.main_picture(pictures[0], blank_of(prompt))
        history = self.history(pictures[1:]) if len(pictures) > 1 else None
        return unified_io_2.Prompt(ids, image, history)

    def marked(self, prompt: MultimodalPrompt) -> str:
        """The text; where there are several pictures, with marks in their places: the first is
        the main one, the others are its history."""
        if len(prompt.pictures) < 2:
            return prompt.text
        marks = ["<image_input>", *(f"<image_history_{i}>" for i in range(1, 99))]
        left = iter(marks)
        words = [part if isinstance(part, str) else next(left) for part in prompt.parts]
        return " ".join(word.strip() for word in words)

    def main_picture(self, picture: Tensor, blank: Box | None) -> unified_io_2.Patches:
        return self.fitted(picture, self.params.grid, blank)

    def history(self, frames: Sequence[Tensor]) -> unified_io_2.Patches:
        most = self.params.history.frames
        if len(frames) > most:
            raise ValueError(
                f"{len(frames) + 1} pictures in the prompt; {self.name} reads at most {most + 1}."
            )
        fitted = [self.fitted(frame, self.params.history_grid) for frame in frames]
        names = ("values", "mask", "places")
        stacked = (torch.stack([getattr(f, name) for f in fitted]) for name in names)
        return unified_io_2.Patches(*stacked)

    def fitted(
        self, picture: Tensor, grid: tuple[int, int], blank: Box | None = None
    ) -> unified_io_2.Patches:
        place = place_centred(*picture.shape[:2], grid[0] * self.params.patch)
        framed, inside = fit(picture, place)
        if blank is not None:
            inside = clear_region(inside, place, torch.tensor(blank))
        values = patches(normalised(framed, CLIP), self.params.patch)
        seen = patch_mask(inside, grid, centred=True)
        return unified_io_2.Patches(values, seen, torch.arange(len(values)))

    def negative(self, prompt: unified_io_2.Prompt) -> unified_io_2.Prompt:
        """The published empty prompt; the pictures, if there are any, stay."""
        ids = self.ids(f"[Image] [S] {NEGATIVE}", self.params.text_limit)
        return replace(prompt, ids=ids)

    def placement(self, picture_HWC: Tensor) -> Placement:
        return place_centred(*picture_HWC.shape[:2], self.params.grid[0] * self.params.patch)

    def target(self, model: unified_io_2.UnifiedIO2, kind: str, limit: int) -> unified_io_2.Target:
        return model.target(kind)

    def plan(self) -> PicturePlan:
        return PicturePlan.grid(*self.params.target_grid, slice(1, 2), unified_io_2.CODES_FROM)


def vocabulary_of(
    kind: type, match: Match, checkpoint: Checkpoint, folders: Sequence[Path], names: Sequence[str]
) -> Any:
    """The text vocabulary beside a checkpoint.

    Raises:
        TokenizerError: it is missing, or another model's.
    """
    path = find_text_tokenizer(checkpoint.path, folders, names)
    tokenizer, ids = kind(path), match.params.text_vocab
    if rounded_up(len(tokenizer)) != ids:
        raise TokenizerError(
            f"{path} makes {len(tokenizer)} text ids, {checkpoint.path.name} has {ids}. Put the "
            f"vocabulary of this model beside it."
        )
    return tokenizer


def rounded_up(size: int, multiple: int = 128) -> int:
    """Published tables are as long as the next multiple of 128."""
    return -(-size // multiple) * multiple


def unified_io_system(
    match: Match, checkpoint: Checkpoint, folders: Sequence[Path] = ()
) -> UnifiedIOSystem:
    tokenizer = vocabulary_of(UnifiedIOTokenizer, match, checkpoint, folders, ("spiece.model",))
    return UnifiedIOSystem("Unified-IO", match.params, tokenizer, checkpoint.path.name)


def unified_io_2_system(
    match: Match, checkpoint: Checkpoint, folders: Sequence[Path] = ()
) -> UnifiedIO2System:
    tokenizer = vocabulary_of(UnifiedIO2Tokenizer, match, checkpoint, folders, ("tokenizer.model",))
    return UnifiedIO2System("Unified-IO 2", match.params, tokenizer, checkpoint.path.name)
