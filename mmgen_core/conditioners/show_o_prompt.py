"""The sequences that Show-o reads: a prompt to draw from, a question about a picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.show_o import ShowOParams

CLIP_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def drawing_ids(params: ShowOParams, text: Sequence[int], cut: bool = False) -> Tensor:
    """int64 [n]: [t2i], the mark that opens a text, the text, the same mark.

    Args:
        cut: shorten an over-long text as the reference does.

    Raises:
        ValueError: the text is too long.
    """
    ids = [params.t2i, *marked(params, text), params.end_of_text]
    most = params.prompt_tokens
    if len(ids) > most + 1:
        if not cut:
            raise ValueError(
                f"The prompt has {len(text)} tokens, this model reads at most {most - 2}. "
                f"Shorten it."
            )
        ids = [*ids[:most], params.end_of_text]
    return torch.tensor(ids)


def marked(params: ShowOParams, text: Sequence[int]) -> list[int]:
    """A text behind its mark, which one that begins with it has already."""
    begins = len(text) > 0 and text[0] == params.end_of_text
    return list(text) if begins else [params.end_of_text, *text]


def padded_drawing_ids(params: ShowOParams, prompt: Tensor, codes_BN: Tensor) -> Tensor:
    """int64 [B, L] as the model was trained: the prompt padded on the left, then the picture."""
    left = params.prompt_tokens + 1 - len(prompt)
    pad = prompt.new_full((left,), params.pad)
    ids = torch.where(codes_BN < 0, params.mask, codes_BN + params.first_code)
    head = torch.cat([pad, prompt, prompt.new_tensor([params.soi])]).expand(len(ids), -1)
    return torch.cat([head, ids, ids.new_full((len(ids), 1), params.eoi)], dim=1)


def question_ids(params: ShowOParams, codes: Tensor, question: Sequence[int]) -> Tensor:
    """int64 [n]: a picture's codes [N], then the tokens of ``question_text``."""
    start = torch.tensor([params.mmu, params.soi])
    rest = torch.tensor([params.eoi, params.end_of_text, *question])
    return torch.cat([start, codes.flatten().cpu() + params.first_code, rest])


def question_text(question: str) -> str:
    """The template of the models that look at pictures as codes."""
    return f"USER: \n{question} ASSISTANT:"


def clip_question_text(question: str) -> str:
    """The template of the models that look at pictures through CLIP."""
    return f"USER: {question} ASSISTANT:".strip()


def clip_question_ids(
    params: ShowOParams, system: Sequence[int], question: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """int64 ids before and behind the picture's features."""
    before = torch.tensor([params.mmu, *system, params.soi])
    return before, torch.tensor([params.eoi, *question])


def codes_to_redraw(mask_BHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """bool [B, h, w] of a mask of pixels in 0..1: at least one half after the reference's bicubic
    scaling, which looks at few pixels and so takes no note of thin lines."""
    return F.interpolate(mask_BHW[:, None].float(), size=grid, mode="bicubic")[:, 0] >= 0.5
