"""Texts for next-scale models that draw from words (STAR)."""

from __future__ import annotations

from ..mmgen_core.conditioners.scale_prompt import TextPrompt
from . import host
from .api import ScalePrompt, io


class EncodeScaleText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenEncodeScaleText",
            display_name="Encode Text for Scale Model (STAR)",
            category="mmgen/conditioning",
            description="Encodes a text, and one to be guided away from, for a next-scale model "
            "that draws from words (STAR).",
            search_aliases=["star", "var", "next-scale", "prompt", "text to image", "clip"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder that the model was trained with. For the public "
                    "STAR files that of Stable Diffusion 2.1 (OpenCLIP ViT-H, width 1024): Load "
                    "CLIP with type stable_diffusion, or Load Checkpoint with an SD 2.1 file.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw. At most 75 tokens, as the model was trained: a longer "
                    "text is an error, nothing is cut off. Brackets are plain characters here; "
                    "there are no weights.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to be guided away from; the published setting is empty.",
                ),
                io.Boolean.Input(
                    "own_attention",
                    default=False,
                    advanced=True,
                    tooltip="Let the guided-away rows attend to the negative text. STAR was "
                    "published so that they attend to the positive one, and only their summary "
                    "is the negative one's.",
                ),
            ],
            outputs=[
                ScalePrompt.Output(
                    "prompt",
                    display_name="scale prompt",
                    tooltip="For prompt of the Scale Sampler.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip, text: str, negative: str, own_attention: bool) -> io.NodeOutput:
        texts = host.text_features(clip, text), host.text_features(clip, negative)
        return io.NodeOutput(TextPrompt(*texts, attended=2 if own_attention else None))
