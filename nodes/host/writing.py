"""Texts by any CLIP that writes: ours, and the host's own text models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ...mmgen_core.conditioners.text_writer import TextGrammar, TextSettings
from .folders import FOLDER
from .text_model import TextModel

PRESETS_FOLDER, PRESET_SUFFIX = "presets", ".txt"


def write_text(
    clip: Any,
    text: str,
    settings: TextSettings,
    system: str = "",
    image: Tensor | None = None,
    grammar: TextGrammar | None = None,
) -> str:
    """What a text model answers.

    Args:
        system: instructions; the host's own models get them in front of the text.
        grammar: the form of the answer, for models that can be held to one.

    Raises:
        ValueError: the CLIP only encodes prompts.
    """
    if isinstance(clip, TextModel):
        prompt = clip.tokenize(text, image=image, system=system)
        held = grammar if clip.writer.takes_grammar else None
        return clip.write(prompt, settings, held)
    if not _can_write(clip):
        raise ValueError(
            "This CLIP encodes prompts, it does not write text. Connect Load LLM, Connect LLM "
            "Endpoint, or a text model of ComfyUI such as Gemma or Qwen."
        )
    asked = f"{system}\n\n{text}" if system else text
    tokens = clip.tokenize(asked, image=image, skip_template=False, min_length=1, thinking=False)
    ids = clip.generate(
        tokens,
        do_sample=settings.temperature > 0,
        max_length=settings.max_tokens,
        temperature=settings.temperature or 1.0,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
        presence_penalty=settings.presence_penalty,
        seed=settings.seed,
    )
    return clip.decode(ids)


def _can_write(clip: Any) -> bool:
    """Whether one of the host's CLIPs generates text: its network says so, deep inside."""
    model = getattr(clip, "cond_stage_model", None)
    if model is None:
        return callable(getattr(clip, "generate", None))
    inner = getattr(model, str(getattr(model, "clip", "")), model)
    network = getattr(inner, "transformer", inner)
    return callable(getattr(network, "generate", None))


def own_presets() -> dict[str, str]:
    """Presets of the user: text files in models/mmgen/presets, by name."""
    found = {}
    for base in folder_paths.get_folder_paths(FOLDER):
        for path in sorted((Path(base) / PRESETS_FOLDER).glob(f"*{PRESET_SUFFIX}")):
            found.setdefault(path.stem, path)
    return {name: path.read_text("utf-8", errors="replace") for name, path in found.items()}


def preset_names() -> list[str]:
    """Names of the user's presets; their files are not read."""
    names = {
        path.stem
        for base in folder_paths.get_folder_paths(FOLDER)
        for path in (Path(base) / PRESETS_FOLDER).glob(f"*{PRESET_SUFFIX}")
    }
    return sorted(names)


def encode_prompt(clip: Any, text: str) -> list[Any]:
    """CONDITIONING of a text, as ComfyUI's CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def grounding_feature(clip: Any, text: str) -> Tensor:
    """What GLIGEN is told of a box: the text's summary before CLIP's projection."""
    return clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")[1]


def with_gligen(conditioning: list[Any], model: Any, boxes: list[tuple[Any, ...]]) -> list[Any]:
    """CONDITIONING with boxes added, in the form of ComfyUI's GLIGENTextBoxApply."""
    grounded = []
    for cond, extra in conditioning:
        before = extra["gligen"][2] if "gligen" in extra else []
        grounded.append([cond, {**extra, "gligen": ("position", model, before + boxes)}])
    return grounded


def gligen_boxes(conditioning: list[Any]) -> int:
    """How many boxes a CONDITIONING has already."""
    return max(
        (len(extra["gligen"][2]) for _, extra in conditioning if "gligen" in extra), default=0
    )
