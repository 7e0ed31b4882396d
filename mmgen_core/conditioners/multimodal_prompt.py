"""A prompt of text and pictures as it is typed: pictures stand where the text marks them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from ..systems.next_token import MultimodalPrompt

MARK = re.compile(r"<\s*(?:image|picture)\s*(\d*)\s*>|<\|image\|>", re.IGNORECASE)


def multimodal_prompt(
    text: str, pictures: Sequence[Tensor] = (), system: str = ""
) -> MultimodalPrompt:
    """Text with its pictures [H, W, C] in their places.

    ``<image>`` takes the next picture, ``<image 2>`` the second. Pictures that no mark names come
    first, in order.

    Raises:
        ValueError: a mark without a picture.
    """
    parts: list[str | Tensor] = []
    named, following, end = set(), 0, 0
    for mark in MARK.finditer(text):
        parts.append(text[end : mark.start()])
        end = mark.end()
        index = int(mark[1]) - 1 if mark[1] else following
        if not 0 <= index < len(pictures):
            raise ValueError(
                f"The text has the mark {mark[0]}, and {len(pictures)} pictures are connected. "
                f"Connect the picture, or take the mark out."
            )
        following = index + 1
        named.add(index)
        parts.append(pictures[index])
    parts.append(text[end:])
    first = [picture for index, picture in enumerate(pictures) if index not in named]
    return MultimodalPrompt(
        tuple(part for part in [*first, *parts] if isinstance(part, Tensor) or part), system
    )
