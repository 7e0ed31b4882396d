"""Next-scale models: load one, draw with it."""

from __future__ import annotations

from ..mmgen_core.conditioners.scale_prompt import ClassPrompt, TextPrompt
from ..mmgen_core.decoding.next_scale import MODES, ScaleSampling, generate, memory_required
from ..mmgen_core.image_tokens import ImageTokens
from . import host
from .api import ScaleModel, ScalePrompt, Tokenizer, Tokens, io
from .inputs import MAX_SEED, batch_input, dtype_input, file_input, seed_input

DEMO_MODEL = "mmgen_demo_var.safetensors"


class LoadScaleModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadScaleModel",
            display_name="Load Scale Model (VAR, STAR)",
            category="mmgen/loaders",
            description="Loads a next-scale model such as VAR or STAR, which draws a picture as "
            "a pyramid of token maps, coarse to fine.",
            search_aliases=[
                "var",
                "star",
                "visual autoregressive",
                "next-scale",
                "imagenet",
                "text to image",
                "loader",
            ],
            inputs=[
                file_input("model_name", DEMO_MODEL),
                dtype_input(),
            ],
            outputs=[
                ScaleModel.Output(
                    "scale_model", display_name="scale model", tooltip="For the Scale Sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(host.load_scale_model(model_name, dtype))


class ScaleSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenScaleSampler",
            display_name="Scale Sampler (VAR, STAR)",
            category="mmgen/sampling",
            description="Draws pictures of a class or a text with a next-scale model, one pass "
            "per scale; can begin from, vary or edit the tokens of a picture.",
            search_aliases=[
                "var",
                "star",
                "sampler",
                "next-scale",
                "imagenet",
                "class to image",
                "text to image",
                "inpaint",
            ],
            inputs=[*_what(), *_how(), *_start()],
            outputs=[
                Tokens.Output(
                    "tokens", display_name="image tokens", tooltip="For Decode Image Tokens."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.ScaleModel,
        tokenizer: host.Tokenizer,
        class_id: int,
        seed: int,
        guidance: float,
        top_k: int,
        top_p: float,
        smooth: bool,
        batch_size: int,
        start_tokens: ImageTokens | None = None,
        keep_scales: int = 0,
        prompt: TextPrompt | None = None,
        mode: str = "plain",
    ) -> io.NodeOutput:
        sampling = ScaleSampling(guidance, top_k, top_p, smooth, mode)

        def rows(start: int, stop: int) -> ImageTokens:
            part = start_tokens is not None and stop - start < batch_size
            begin = start_tokens.rows(start, stop) if part else start_tokens
            count = stop - start
            asked = prompt.expand(count) if prompt else ClassPrompt([class_id] * count)
            length = prompt.length if prompt else 0
            needed = memory_required(model.module, count, guidance > 0, sampling, length)
            progress = host.Progress(tokenizer.module.decode_partial)
            with host.loaded(model, tokenizer, memory_required=needed):
                return generate(
                    model.module,
                    tokenizer.module,
                    asked,
                    (seed + start) % (MAX_SEED + 1),
                    sampling,
                    begin,
                    keep_scales,
                    progress,
                )

        return io.NodeOutput(ImageTokens.joined(host.in_parts(rows, 0, batch_size)))


def _what() -> list[io.Input]:
    return [
        ScaleModel.Input("model", tooltip="The next-scale model that draws."),
        Tokenizer.Input("tokenizer", tooltip="The image tokenizer the model was trained with."),
        io.Int.Input(
            "class_id",
            default=0,
            min=-1,
            max=65535,
            tooltip="Number of the class to draw; -1 draws without a class. Connect Class by "
            "Name or ImageNet Class to choose it by name. Not used once a prompt is connected.",
        ),
        seed_input(),
    ]


def _how() -> list[io.Input]:
    return [
        io.Float.Input(
            "guidance",
            default=4.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="Strength of the class or text at the finest scale (cfg of the VAR and STAR "
            "demos); grows linearly from 0 at the coarsest. 4 looks best; 1.5 was used for the "
            "scores of the VAR paper.",
        ),
        io.Int.Input(
            "top_k",
            default=900,
            min=0,
            max=65536,
            tooltip="Draw among this many likeliest codes; 0 allows all. 900 is the VAR demo's, "
            "600 the STAR demo's.",
        ),
        io.Float.Input(
            "top_p",
            default=0.95,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Draw among the likeliest codes that make up this share of the probability; "
            "0 turns the limit off. 0.95 is the VAR demo's, 0.8 the STAR demo's.",
        ),
        io.Boolean.Input(
            "smooth",
            default=False,
            tooltip="Mix codes instead of drawing one (more_smooth of VAR and STAR): smoother, "
            "less varied pictures.",
        ),
        batch_input(),
    ]


def _start() -> list[io.Input]:
    return [
        Tokens.Input(
            "start_tokens",
            optional=True,
            tooltip="Tokens of a picture to begin from: set keep_scales to vary it, or give "
            "them a mask (Token Mask) to redraw a part.",
        ),
        io.Int.Input(
            "keep_scales",
            default=0,
            min=0,
            max=64,
            optional=True,
            tooltip="Keep this many of the coarsest scales of the start tokens: more keeps more "
            "of the layout and colours.",
        ),
        ScalePrompt.Input(
            "prompt",
            optional=True,
            tooltip="Text for a model that draws from words (STAR): connect Encode Text for "
            "Scale Model. Models of classes (VAR) take class_id instead.",
        ),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default="plain",
            optional=True,
            advanced=True,
            tooltip="STAR's sampling modes. plain fits the published files. new and 1024 place "
            "the finest maps in several steps and need a file with the refiner; old fixes top_p "
            "at 0.8 and narrows top_k towards the finest scales.",
        ),
    ]
