"""A document that a model and a diffusion model write together, turn by turn (DreamLLM, SEED-X).

The language model writes until it asks for a picture. The picture is drawn from the states of its
queries, and shown to the model, which goes on from what it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..decoding.query_spans import Turn
from ..decoding.stream import Context


@dataclass(frozen=True, eq=False)
class Story:
    """A document so far.

    Attributes:
        context: all of it as the language model reads it.
        texts: what was written, one per turn; the prompt is not among them.
        images: the pictures that were drawn, [H, W, 3].
        awaits: a picture was asked for and has not been shown.
        ended: no more follows.
    """

    context: Context
    texts: tuple[str, ...] = ()
    images: tuple[Tensor, ...] = field(default=())
    awaits: bool = False
    ended: bool = False

    def marked(self) -> str:
        """All texts, with <image> where a picture was drawn behind one."""
        pictures = len(self.images)
        parts = [t + "\n<image>\n" * (i < pictures) for i, t in enumerate(self.texts)]
        return "".join(parts).strip()

    def extended(
        self, ids: Sequence[int], features: Tensor | None = None, at: Sequence[int] = ()
    ) -> Story:
        """More tokens, some of which are features at these places among them."""
        old = self.context
        new = torch.tensor(ids, dtype=torch.int64)
        joined = Context(torch.cat([old.ids, new]), old.features, old.at)
        if features is not None:
            places = torch.tensor(at, dtype=torch.int64) + len(old.ids)
            joined = with_features(joined, features, places)
        return replace(self, context=joined)

    def written(self, turn: Turn, text: str) -> Story:
        """After a turn of the model. One that its limit cut short may be gone on with."""
        texts = (*self.texts, text)
        ended = turn.ended == "stop"
        return replace(self, texts=texts, awaits=turn.ended == "picture", ended=ended)

    def illustrated(self, image_HW3: Tensor) -> Story:
        return replace(self, images=(*self.images, image_HW3), awaits=False)


def with_features(context: Context, features: Tensor, at: Tensor) -> Context:
    """A context in which more features stand in the place of ids."""
    if context.features is None:
        return Context(context.ids, features, at)
    joined = torch.cat([context.features, features.to(context.features)])
    return Context(context.ids, joined, torch.cat([context.at, at]))


def check_room(context: Context, more: int, positions: int, pictures: int = 0) -> None:
    """Whether a prompt and what is to follow fit the model.

    Raises:
        ValueError: they do not.
    """
    needed = len(context.ids) + more
    if needed > positions:
        shown = f", {len(context.at)} of them for {pictures} pictures" if pictures else ""
        raise ValueError(
            f"The prompt has {len(context.ids)} tokens{shown}, and {more} are to follow; the "
            f"model was trained for {positions}. Shorten the text, show fewer or squarer "
            f"pictures, or ask for fewer new tokens."
        )
