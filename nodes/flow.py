"""Flow models (Transfusion): draw latents, and continue texts with text and pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..mmgen_core.decoding.flow_stream import StreamSampling
from ..mmgen_core.systems.masked_models import transfusion_of
from ..mmgen_core.systems.transfusion_runs import draw, memory_required, write
from . import host
from .api import MaskedModel, io
from .inputs import MAX_SEED, batch_input, seed_input

ALIASES = ["transfusion", "flow", "diffusion", "latent", "var"]


class FlowSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenFlowSampler",
            display_name="Flow Sampler (Transfusion, experimental)",
            category="mmgen/sampling",
            description="Draws the latents of pictures of a text with a Transfusion model, for the "
            "stock VAE Decode.",
            search_aliases=[*ALIASES, "text to image", "sampler"],
            inputs=[
                MaskedModel.Input("model", tooltip="The Transfusion model that draws."),
                io.String.Input(
                    "text", multiline=True, default="a red heart", tooltip="What to draw."
                ),
                seed_input(),
                *solver_inputs(),
                batch_input(),
                *size_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    "latent",
                    tooltip="For VAE Decode with the VAE that the model was trained with.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.MaskedModel,
        text: str,
        seed: int,
        steps: int,
        guidance: float,
        batch_size: int,
        latent_width: int = 0,
        latent_height: int = 0,
    ) -> io.NodeOutput:
        module = transfusion_of(model.module, model.file)
        sampling = StreamSampling(steps, guidance)
        grid = chosen_grid(latent_width, latent_height)
        ids = model.text.encode(text)

        def rows(start: int, stop: int) -> Tensor:
            begin = (seed + start) % (MAX_SEED + 1)
            needed = memory_required(module, grid, len(ids) + 16, stop - start)
            with host.loaded(model, memory_required=needed) as device:
                progress = host.StepProgress()
                return draw(module, ids, grid, sampling, begin, stop - start, device, progress)

        return io.NodeOutput({"samples": torch.cat(host.in_parts(rows, 0, batch_size))})


class FlowStory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenFlowStory",
            display_name="Text and Pictures (Transfusion, experimental)",
            category="mmgen/sampling",
            description="Continues a text with text and pictures in one stream, drawing where the "
            "model itself begins a picture.",
            search_aliases=[*ALIASES, "interleaved", "story", "caption", "image to text"],
            inputs=[
                MaskedModel.Input("model", tooltip="The Transfusion model."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a red heart",
                    tooltip="How the stream begins; <image> stands where the next of the given "
                    "pictures is read.",
                ),
                seed_input("Seed of the text and the pictures."),
                *solver_inputs(),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Of the text: 0 takes the likeliest token, as the paper does.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=512,
                    min=1,
                    max=65536,
                    tooltip="The stream ends after this many new tokens, the pictures' patches "
                    "included.",
                ),
                io.Latent.Input(
                    "pictures",
                    optional=True,
                    tooltip="Pictures to read, as latents of the model's VAE, one per <image>.",
                ),
                *size_inputs(),
            ],
            outputs=[
                io.String.Output(
                    "text",
                    display_name="text",
                    tooltip="The whole text, <image> where a picture is.",
                ),
                io.Latent.Output(
                    "latent",
                    tooltip="The drawn pictures, for VAE Decode; nothing behind it runs where the "
                    "model drew none.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.MaskedModel,
        text: str,
        seed: int,
        steps: int,
        guidance: float,
        temperature: float,
        max_tokens: int,
        pictures: dict[str, Any] | None = None,
        latent_width: int = 0,
        latent_height: int = 0,
    ) -> io.NodeOutput:
        module = transfusion_of(model.module, model.file)
        sampling = StreamSampling(steps, guidance, temperature, max_tokens=max_tokens)
        given = list(pictures["samples"]) if pictures is not None else []
        grid = chosen_grid(latent_width, latent_height)
        needed = memory_required(module, grid, max_tokens, 1)
        with host.loaded(model, memory_required=needed) as device:
            progress = host.StepProgress()
            said, drawn = write(
                module, model.text, text, given, grid, sampling, seed, device, progress
            )
        return io.NodeOutput(said, host.nothing() if drawn is None else {"samples": drawn})


def solver_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=16,
            min=2,
            max=1000,
            tooltip="Steps from noise to picture. Published: 250 for the paper's diffusion; the "
            "lucidrains layout has 16 points of time, with two passes between each.",
        ),
        io.Float.Input(
            "guidance",
            default=3.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="How much the text counts; 1 is off and twice as fast. The paper used 3 and 5.",
        ),
    ]


def size_inputs() -> list[io.Input]:
    def side(name: str) -> io.Input:
        return io.Int.Input(
            f"latent_{name}",
            default=0,
            min=0,
            max=1024,
            optional=True,
            advanced=True,
            tooltip=f"The picture's {name} in latent cells (pixels / 8 with most VAEs); 0 is the "
            f"model's own size.",
        )

    return [side("width"), side("height")]


def chosen_grid(width: int, height: int) -> tuple[int, int] | None:
    """Latent rows and columns.

    Raises:
        ValueError: only one of them is set.
    """
    if bool(width) != bool(height):
        raise ValueError(
            "Set both latent_width and latent_height, or leave both at 0 for the model's own size."
        )
    return (height, width) if width else None
