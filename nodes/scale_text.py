"""Texts for next-scale models that draw from words (STAR)."""

from __future__ import annotations

from ..mmgen_core.conditioners.scale_prompt import TextPrompt
from . import host
from .api import ScalePrompt, io

DEMO_TEXT_ENCODER = "mmgen_demo_text.safetensors"


class LoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.text_encoder_files()
        return io.Schema(
            node_id="MMGenLoadTextEncoder",
            display_name="Load Text Encoder (STAR)",
            category="mmgen/loaders",
            description="Loads the CLIP text encoder of a next-scale model that draws from words "
            "(STAR), of any size.",
            search_aliases=["star", "var", "clip", "text encoder", "next-scale", "loader"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=files,
                    default=DEMO_TEXT_ENCODER if DEMO_TEXT_ENCODER in files else None,
                    tooltip="A file in models/mmgen or models/text_encoders: the demo's, or for "
                    "the public STAR files the text encoder of Stable Diffusion 2.1, which the "
                    "stock Load CLIP loads as well.",
                ),
            ],
            outputs=[
                io.Clip.Output(
                    "clip", display_name="CLIP", tooltip="For Encode Text for Scale Model."
                )
            ],
        )

    @classmethod
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(host.load_text_encoder(text_encoder_name))


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
                    tooltip="The text encoder that the model was trained with: Load Text "
                    "Encoder. For the public STAR files that of Stable Diffusion 2.1 (OpenCLIP "
                    "ViT-H, width 1024), which Load CLIP with type stable_diffusion or Load "
                    "Checkpoint with an SD 2.1 file give as well.",
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
