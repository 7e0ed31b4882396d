"""Show-o's attention masks over whole sequences, for training and to check the engines, which
never form them. True where a row may see a column."""

from __future__ import annotations

import torch
from torch import Tensor

from .show_o import ShowOParams


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def image_rows(ids: Tensor, params: ShowOParams) -> Tensor:
    """bool [L], from every start of an image to its end, both included."""
    start, end = ids == params.soi, ids == params.eoi
    return (start.cumsum(-1) > end.cumsum(-1)) | end


def drawing_mask(ids: Tensor, params: ShowOParams) -> Tensor:
    """[L, L] of a prompt and its picture: text sees what came before it, the picture sees all;
    nothing behind the padding sees the padding."""
    image = image_rows(ids, params)
    seen = causal(len(ids)) | image[:, None]
    padding = ids == params.pad
    return torch.where(padding[:, None], seen, seen & ~padding)


def question_mask(ids: Tensor, params: ShowOParams) -> Tensor:
    """[L, L] of a question behind its picture: causal, and all see up to the image's end."""
    stop = int((ids == params.eoi).nonzero()[0]) + 1
    return causal(len(ids)) | (torch.arange(len(ids)) < stop)


def features_mask(length: int, start: int, stop: int) -> Tensor:
    """[L, L] of a question with CLIP features at ``start:stop``: causal, and all see those."""
    at = torch.arange(length)
    return causal(length) | ((at >= start) & (at < stop))


def story_mask(ids: Tensor, params: ShowOParams) -> Tensor:
    """[L, L] of texts and pictures in turn: causal, full within each picture; from the first
    picture on nothing sees the padding."""
    image, at = image_rows(ids, params), torch.arange(len(ids))
    first = int((ids == params.soi).nonzero()[0])
    seen = causal(len(ids)) & ~((at >= first)[:, None] & (ids == params.pad))
    return seen | same_image(ids, params, image)


def keyframe_mask(ids: Tensor, params: ShowOParams) -> Tensor:
    """[L, L] of the reference's second form of ``story_mask``, for key frames of a video: texts
    see no picture, and all see the first column."""
    image, at = image_rows(ids, params), torch.arange(len(ids))
    first = int((ids == params.soi).nonzero()[0])
    text = ids < params.pad
    seen = causal(len(ids)) & (text | ((~text)[:, None] & image))
    seen &= ~((at >= first)[:, None] & (ids == params.pad))
    seen |= same_image(ids, params, image)
    seen[:, 0] = True
    return seen


def same_image(ids: Tensor, params: ShowOParams, image: Tensor) -> Tensor:
    """[L, L]: both in the same picture."""
    number = torch.where(image, (ids == params.soi).cumsum(-1), 0)
    return (number[:, None] == number) & image
