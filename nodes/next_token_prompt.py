"""Prompts of text and pictures."""

from __future__ import annotations

from torch import Tensor

from ..mmgen_core.conditioners.multimodal_prompt import multimodal_prompt
from .api import Prompt, io


class MultimodalPromptNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenMultimodalPrompt",
            display_name="Multimodal Prompt",
            category="mmgen/prompts",
            description="A prompt of text and any number of pictures for models that read both.",
            search_aliases=["chameleon", "anole", "lumina", "seed", "prompt", "interleaved", "var"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a red heart",
                    tooltip="What to draw, write or answer. <image> stands where the next picture "
                    "belongs, <image 2> for the second; pictures without a mark come first.",
                ),
                io.Autogrow.Input(
                    "images",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input(
                            "image",
                            optional=True,
                            tooltip="A picture of the prompt; every picture of a batch counts.",
                        ),
                        prefix="image",
                        min=0,
                        max=50,
                    ),
                    tooltip="Pictures of the prompt; a new slot appears with every connection.",
                ),
                io.String.Input(
                    "system_prompt",
                    multiline=True,
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Instructions before the prompt. Models without a place for such, as "
                    "Chameleon and Lumina-mGPT, read it as text in front.",
                ),
            ],
            outputs=[Prompt.Output("prompt", tooltip="For the samplers of next-token models.")],
        )

    @classmethod
    def execute(
        cls, text: str, images: dict[str, Tensor] | None = None, system_prompt: str = ""
    ) -> io.NodeOutput:
        batches = [batch for _, batch in sorted((images or {}).items(), key=order)]
        pictures = [picture for batch in batches if batch is not None for picture in batch]
        return io.NodeOutput(multimodal_prompt(text, pictures, system_prompt))


def order(item: tuple[str, Tensor]) -> int:
    """Slots by their number, image10 after image9."""
    return int(item[0].removeprefix("image") or 0)
