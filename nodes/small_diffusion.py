"""Small diffusion models as a stock MODEL."""

from __future__ import annotations

from . import host
from .api import io
from .inputs import file_input

DEMO_UNET = "mmgen_demo_seed_unet.safetensors"


class LoadSmallDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadSmallDiffusion",
            display_name="Load Small Diffusion Model",
            category="mmgen/loaders",
            description="Loads a small diffusers U-Net, which the stock loaders refuse for its "
            "size, as a MODEL for the stock KSampler.",
            search_aliases=["var", "seed", "unet", "diffusers", "demo model", "ksampler"],
            inputs=[
                file_input(
                    "model_name",
                    DEMO_UNET,
                    "A file in models/mmgen in diffusers' layout with its config in the metadata.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *host.DTYPES],
                    default="auto",
                    tooltip="Precision of the weights; auto follows ComfyUI's policy for this "
                    "device.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model",
                    display_name="MODEL",
                    tooltip="For KSampler, LoRA and every other stock node that takes a model.",
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(host.load_small_diffusion(model_name, dtype))
