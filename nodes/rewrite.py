"""Prompt rewriting by a language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..mmgen_core.conditioners.rewriting import (
    LENGTHS,
    PRESETS,
    USUAL_NEGATIVE,
    Rewritten,
    instructions,
    preset_of,
    read_answer,
)
from ..mmgen_core.conditioners.text_writer import TextSettings
from . import host
from .api import io, ui
from .inputs import MAX_SEED


def writing_inputs(max_length: int, temperature: float) -> list[io.Input]:
    """How the language model chooses its words."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="The same seed gives the same text.",
        ),
        io.Int.Input(
            "max_length",
            default=max_length,
            min=16,
            max=32768,
            tooltip="Most tokens to write; thinking models need more.",
        ),
        io.Float.Input(
            "temperature",
            default=temperature,
            min=0.0,
            max=2.0,
            step=0.01,
            tooltip="How freely words are chosen; 0 takes the likeliest each time.",
        ),
        io.Float.Input(
            "top_p",
            default=0.95,
            min=0.01,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="Keep the likeliest words that together have this probability.",
        ),
    ]


class RewritePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenRewritePrompt",
            display_name="Rewrite Prompt (LLM)",
            category="mmgen/prompts",
            description="Lets a language model turn a wish into a prompt in the style of the "
            "model that draws, with a negative prompt, in several variants if wanted.",
            search_aliases=[
                *("llm", "var", "star", "chameleon", "lumina", "sdxl", "prompt enhance"),
                *("expand prompt", "magic prompt", "translate", "dall-e", "negative prompt"),
            ],
            inputs=[
                io.Clip.Input(
                    "clip",
                    lazy=True,
                    tooltip="A text model: Load LLM, Connect LLM Endpoint, or one of ComfyUI's own "
                    "(Gemma, Qwen, ...). It is not even loaded where edited holds a text.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What you want to see, in your own words and language.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, *(n for n in host.preset_names() if n not in PRESETS)],
                    default="SDXL prose",
                    tooltip="What kind of prompt to write. Your own: a text file with instructions "
                    "for the language model in models/mmgen/presets; its name appears here.",
                ),
                io.String.Input(
                    "style",
                    default="",
                    tooltip="Words on the style, such as oil painting or 35 mm film; empty leaves "
                    "it to the preset.",
                ),
                io.Combo.Input(
                    "length",
                    options=list(LENGTHS),
                    default="as the preset says",
                    tooltip="How long the prompt should be.",
                ),
                io.Int.Input(
                    "variants",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many prompts to write; variant i is the one that seed + i gives "
                    "alone. What follows runs once for each.",
                ),
                *writing_inputs(400, 0.8),
                io.String.Input(
                    "edited",
                    default="",
                    multiline=True,
                    tooltip="Your own version: copy the text shown below, change it, and it is "
                    "used in place of the model's. Lines that begin with Negative prompt: set the "
                    "negative. Empty asks the model.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A picture whose look, style and colours to take; for models that look "
                    "at pictures.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompt",
                    is_output_list=True,
                    tooltip="The prompt: for CLIP Text Encode, Encode Text for Scale Model, any "
                    "sampler of this pack, or a hosted node. One after the other for variants.",
                ),
                io.String.Output(
                    "negative",
                    is_output_list=True,
                    tooltip="What must not be seen: the model's, or a usual one where it has none.",
                ),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def check_lazy_status(cls, edited: str, clip: Any = None, **_: Any) -> list[str]:
        return [] if clip is not None or edited.strip() else ["clip"]

    @classmethod
    def fingerprint_inputs(cls, preset: str, **_: Any) -> str:
        return host.own_presets().get(preset, "")

    @classmethod
    def execute(
        cls,
        text: str,
        preset: str,
        style: str,
        length: str,
        variants: int,
        seed: int,
        max_length: int,
        temperature: float,
        top_p: float,
        edited: str,
        clip: Any = None,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        if edited.strip():
            return shown([read_answer(edited, USUAL_NEGATIVE)])
        if not text.strip() and image is None:
            raise ValueError("text is empty: write what you want to see.")
        told = instructions(
            preset_of(preset, host.own_presets()), style, length, picture=image is not None
        )
        found = []
        for i in range(variants):
            settings = TextSettings(max_length, temperature, top_p=top_p, seed=seed + i)
            found.append(read_answer(host.write_text(clip, text, settings, told, image)))
        return shown(found)


def shown(found: list[Rewritten]) -> io.NodeOutput:
    """The prompts, and the same as text on the node."""
    texts = [f"{one.text}\n\nNegative prompt: {one.negative}" for one in found]
    return io.NodeOutput(
        [one.text for one in found],
        [one.negative for one in found],
        ui=ui.PreviewText("\n\n---\n\n".join(texts)),
    )
