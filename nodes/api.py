"""The ComfyUI node API, imported here only, and the socket types of this pack."""

from comfy_api.v0_0_2 import ComfyExtension, io, ui

ScaleModel = io.Custom("MMGEN_SCALE_MODEL")
Tokenizer = io.Custom("MMGEN_TOKENIZER")
ScalePrompt = io.Custom("MMGEN_SCALE_PROMPT")
Tokens = io.Custom("MMGEN_IMAGE_TOKENS")

__all__ = ["ComfyExtension", "ScaleModel", "ScalePrompt", "Tokenizer", "Tokens", "io", "ui"]
