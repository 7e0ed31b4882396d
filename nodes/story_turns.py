"""What happens in a turn of a story: reading, writing, the condition of a picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..mmgen_core.checkpoints.architecture import require_finite
from ..mmgen_core.conditioners import dreamllm, seed_x
from ..mmgen_core.conditioners.story import Story as StoryState
from ..mmgen_core.conditioners.story import check_room
from ..mmgen_core.decoding.next_token import TokenSampling
from ..mmgen_core.decoding.query_spans import memory_required
from . import host
from .query_models import dream_context
from .seed_x import of_nothing, read_pictures


def opened(
    model: host.QueryModel, story: StoryState | None, picture: Tensor | None, text: str, prompt
) -> StoryState:
    """A new story, or one that goes on with the picture it asked for."""
    if story is None:
        return begun(model, text, prompt)
    return continued(model, story, picture, text)


def begun(model: host.QueryModel, text: str, prompt) -> StoryState:
    """A new story."""
    parts = (*(prompt.parts if prompt is not None else ()), text)
    if isinstance(model, host.DreamLLM):
        with host.loaded(model.vision, model.queries) as device:
            return StoryState(dream_context(model, parts, device))
    shown = [part for part in parts if isinstance(part, Tensor)]
    words = "".join(part if isinstance(part, str) else seed_x.PICTURE for part in parts)
    embeds = read_pictures(model, shown)
    template = seed_x.TEMPLATES["plain" if shown else "story (SEED-X-I)"]
    return StoryState(seed_x.prompt(model.text, model.tokens, template, words, embeds))


def continued(
    model: host.QueryModel, story: StoryState, picture: Tensor | None, text: str
) -> StoryState:
    """A story with the picture it asked for, and what is said then.

    Raises:
        ValueError: the picture is missing, or none was asked for.
    """
    if story.awaits and picture is None:
        raise ValueError("The story asked for a picture: connect the one that was drawn.")
    if picture is not None and not story.awaits:
        raise ValueError("The story asked for no picture. Show other pictures in a prompt.")
    if story.awaits:
        story = shown(model, story, picture[0])
    if not text:
        return story
    words = model.text.encode(text)
    return StoryState(
        story.extended(words).context, story.texts, story.images, awaits=False, ended=False
    )


def shown(model: host.QueryModel, story: StoryState, image: Tensor) -> StoryState:
    if isinstance(model, host.DreamLLM):
        with host.loaded(model.vision) as device:
            features = dreamllm.read_picture(model.vision.module, image, device)
        return dreamllm.show_dream(story, features.cpu(), image, model.tokens)
    parts = read_pictures(model, [image])[0]
    return seed_x.show_drawn(story, parts.cpu(), image)


def turn(
    model: host.QueryModel,
    story: StoryState,
    max_tokens: int,
    sampling: TokenSampling,
    seed: int,
    detokenizer: host.Detokenizer | None,
    pictures: bool = True,
) -> tuple[StoryState, tuple[Any, Any] | None]:
    """What the model writes, and the conditions of the picture that it asks for.

    Args:
        pictures: let it ask for one; without, these are its last words.
    """
    if story.ended:
        return story, None
    span = len(model.tokens.chain) if isinstance(model, host.SeedX) else 2 + queries_of(model)
    check_room(story.context, max_tokens + span, model.positions, len(story.images))
    draw = dream_turn if isinstance(model, host.DreamLLM) else seed_x_turn
    return draw(model, story, max_tokens, sampling, seed, detokenizer, pictures)


def queries_of(model: host.DreamLLM) -> int:
    return model.queries.module.params.queries


def room(model: host.QueryModel, story: StoryState, max_tokens: int) -> int:
    """Bytes that a turn takes beside the weights."""
    length = len(story.context.ids) + max_tokens
    return memory_required(model.language.module, length, length)


def dream_turn(model, story, max_tokens, sampling, seed, detokenizer, pictures):
    needed = room(model, story, max_tokens)
    with host.loaded(*model.parts().values(), memory_required=needed) as device:
        queries = model.queries.module(device)
        found = dreamllm.next_turn(
            model.language.module,
            model.tokens,
            queries,
            story.context,
            device,
            max_tokens,
            sampling,
            seed,
            host.following(model),
            pictures,
        )
        text = seed_x.readable(model.text.decode(found.ids))
        told = dreamllm.written_turn(story, found, text, queries)
        if not found.spans:
            return told, None
        nothing = [dream_context(model, (), device)]
        modules = (model.language.module, model.queries.module, model.projector.module)
        negative, _ = dreamllm.conditions(*modules, model.tokens, nothing, device)
        positive, _ = model.projector.module(found.spans[0][None])
    require_finite(positive, "The condition", model.modules())
    return told, tuple(host.conditioning(*host.to_outputs(t)) for t in (positive, negative))


def seed_x_turn(model, story, max_tokens, sampling, seed, detokenizer, pictures):
    if detokenizer is None:
        raise ValueError(
            "SEED-X draws through its own SDXL: connect detokenizer (Load SEED-X De-tokenizer)."
        )
    needed = room(model, story, max_tokens)
    with host.loaded(model.language, model.agent, memory_required=needed) as device:
        modules = (model.language.module, model.agent.module, model.tokens)
        limits = (device, max_tokens, sampling, seed, pictures)
        follow = host.following(model)
        found = seed_x.answer(*modules, story.context, *limits, pause=True, on_token=follow)
    text = seed_x.readable(model.text.decode(found.turn.ids))
    told = seed_x.written_turn(story, found.turn, text)
    if found.features is None:
        return told, None
    require_finite(found.features, "The imagined picture", model.modules())
    features = seed_x.ImageFeatures.of(found.features, of_nothing(model))
    with host.loaded(detokenizer) as device, torch.inference_mode():
        pairs = seed_x.conditions(detokenizer.module, features, device)
    return told, tuple(host.conditioning(*host.to_outputs(*pair)) for pair in pairs)
