"""Prompt rewriting: what a language model is told, and the prompt in its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LENGTHS = {
    "as the preset says": "",
    "short": "Keep it under 20 words.",
    "medium": "Write about 40 words.",
    "long": "Write about 90 words.",
}
NEGATIVE = (
    'On a last line of its own write "Negative prompt:" and, separated by commas, what must not '
    "be seen in the picture."
)
ONLY = "Answer with the prompt alone: no title, no quotes, no explanation."
USUAL_NEGATIVE = "blurry, low quality, deformed, text, watermark"


@dataclass(frozen=True)
class Preset:
    """How to rewrite for one kind of model."""

    name: str
    instructions: str


_TEXTS = {
    "SD tags": "You write prompts for Stable Diffusion 1.5. Turn the user's wish into a list of "
    "short English tags separated by commas: first the subject with its attributes, then action, "
    "place, light, style, quality. No sentences. At most 60 tags' worth of words in all.",
    "SDXL prose": "You write prompts for SDXL. Turn the user's wish into one or two vivid English "
    "sentences that name subject, action, place, light, mood, camera or art medium, then a few "
    "style words. Keep every thing and number that the user named.",
    "DALL·E detail": "You write prompts for a model that follows long descriptions to the letter. "
    "Describe in full English sentences what is seen: every subject with its look, clothes, "
    "pose, place in the picture; the background, light, colours, style. Add nothing that would "
    "contradict the wish, keep all numbers, and quote text that is to be written in the picture.",
    "Lumina-mGPT": "You write captions for Lumina-mGPT, which learned from long descriptions of "
    "photographs and art. Describe the finished picture in one flowing English paragraph in the "
    "present tense, from the main subject to the background, ending with style and quality.",
    "Chameleon": "You write captions for an autoregressive model that learned from short captions "
    "found beside pictures. Write one plain English sentence that names the subject, what it "
    "does and where it is, without style words.",
    "STAR": "You write prompts for STAR, a text-to-image model whose text encoder reads at most 75 "
    "tokens. Write one English sentence of at most 45 words with subject, place, light, style.",
    "Show-o": "You write prompts for Show-o, which learned from aesthetic captions. Write one "
    "English sentence that names the subject and its surroundings, then style and quality words.",
    "translate": "Translate the user's text into English as a prompt for a picture. Keep its "
    "meaning, its order and its length; add nothing.",
    "free": "Improve the user's prompt for a picture: make vague things concrete, keep every thing "
    "and number the user named.",
}
PRESETS = {name: Preset(name, text) for name, text in _TEXTS.items()}


@dataclass(frozen=True)
class Rewritten:
    """A prompt for a picture, and what must not be seen."""

    text: str
    negative: str


def instructions(
    preset: Preset, style: str = "", length: str = "", negative: bool = True, picture: bool = False
) -> str:
    """What the model is told.

    Args:
        style: words on the style that the prompt should lead to; empty for the preset's own.
        length: a key of ``LENGTHS``.
        picture: a picture is shown with the wish.
    """
    parts = [preset.instructions.strip()]
    if picture:
        parts.append("Take look, style and colours from the picture that is shown, as far as the "
                     "wish does not say otherwise.")  # fmt: skip
    if style.strip():
        parts.append(f"The style is: {style.strip()}.")
    if wanted := LENGTHS.get(length, ""):
        parts.append(wanted)
    return "\n".join([*parts, ONLY, *([NEGATIVE] if negative else [])])


_NEGATIVE = re.compile(r"^\W*negative(?:[ _]prompt)?\W*?:\s*(.*)\Z", re.I | re.M | re.S)
_TITLE = re.compile(
    r"^\W*(?:(?:here(?:'s| is| are)|sure|certainly|of course)\b[^\n:]*:|"
    r"(?:(?:rewritten|improved|final|positive|english) )*(?:prompt|translation)\W*:)\s*",
    re.I,
)
_FENCE = re.compile(r"```[\w-]*\n?(.*?)(?:```|\Z)", re.S)
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


def read_answer(answer: str, negative: str = USUAL_NEGATIVE) -> Rewritten:
    """The prompt in a model's answer: without its thinking, title, fences and quotes.

    Args:
        negative: used where the answer has none.

    Raises:
        ValueError: there is no prompt in it.
    """
    text = answer.rsplit("</think>", 1)[-1].strip()
    if text.startswith("<think>"):
        raise ValueError(
            "The language model was cut off while it was thinking. Raise max_length, or turn "
            "thinking off."
        )
    if fenced := _FENCE.search(text):
        text = fenced[1].strip()
    found = _NEGATIVE.search(text)
    if found:
        text, negative = text[: found.start()].strip(), _unquoted(found[1].strip())
    text = _unquoted(_TITLE.sub("", text).strip())
    if not text:
        raise ValueError(f"There is no prompt in the language model's answer: {answer[:120]!r}")
    return Rewritten(" ".join(text.split()), " ".join(negative.split()))


def _unquoted(text: str) -> str:
    text = text.strip().strip("*_").strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def user_preset(name: str, text: str) -> Preset:
    """A preset from a user's text file.

    Raises:
        ValueError: it is empty or far too long.
    """
    if not text.strip() or len(text) > 20000:
        raise ValueError(
            f"The preset {name} has {len(text)} characters; it holds the instructions for the "
            f"language model, 1 to 20000 characters of plain text."
        )
    return Preset(name, text)


def preset_of(name: str, own: Mapping[str, str]) -> Preset:
    """A preset by its name, of this pack or of the user."""
    if name in own:
        return user_preset(name, own[name])
    if name not in PRESETS:
        known = ", ".join([*PRESETS, *own])
        raise ValueError(f"There is no preset {name!r}. There are: {known}.")
    return PRESETS[name]
