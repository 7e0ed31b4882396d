"""The ComfyUI node API, imported here only, and the socket types of this pack."""

from comfy_api.v0_0_2 import ComfyExtension, io, ui

ScaleModel = io.Custom("MMGEN_SCALE_MODEL")
Tokenizer = io.Custom("MMGEN_TOKENIZER")
ScalePrompt = io.Custom("MMGEN_SCALE_PROMPT")
Tokens = io.Custom("MMGEN_IMAGE_TOKENS")
MaskedModel = io.Custom("MMGEN_MASKED_MODEL")
Dialogue = io.Custom("MMGEN_DIALOGUE")
NextTokenModel = io.Custom("MMGEN_NEXT_TOKEN_MODEL")
Prompt = io.Custom("MMGEN_PROMPT")
QueryModel = io.Custom("MMGEN_QUERY_MODEL")
ImageFeatures = io.Custom("MMGEN_IMAGE_FEATURES")
Detokenizer = io.Custom("MMGEN_SEED_X_DETOKENIZER")
Story = io.Custom("MMGEN_STORY")

__all__ = [
    "ComfyExtension",
    "Detokenizer",
    "Dialogue",
    "ImageFeatures",
    "MaskedModel",
    "NextTokenModel",
    "Prompt",
    "QueryModel",
    "ScaleModel",
    "ScalePrompt",
    "Story",
    "Tokenizer",
    "Tokens",
    "io",
    "ui",
]
