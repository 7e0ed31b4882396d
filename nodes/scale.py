"""Next-scale models: load one, draw with it."""

from __future__ import annotations

from ..mmgen_core.conditioners.scale_prompt import ClassPrompt
from ..mmgen_core.decoding.next_scale import ScaleSampling, generate, memory_required
from ..mmgen_core.image_tokens import ImageTokens
from . import host
from .api import ScaleModel, Tokenizer, Tokens, io

DEMO_MODEL = "mmgen_demo_var.safetensors"
MAX_SEED = 0xFFFFFFFFFFFFFFFF


class LoadScaleModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.model_files()
        return io.Schema(
            node_id="MMGenLoadScaleModel",
            display_name="Load Scale Model (VAR)",
            category="mmgen/loaders",
            description="Loads a next-scale model such as VAR, which draws a picture as a "
            "pyramid of token maps, coarse to fine.",
            search_aliases=["var", "visual autoregressive", "next-scale", "imagenet", "loader"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=files,
                    default=DEMO_MODEL if DEMO_MODEL in files else None,
                    tooltip="A file in models/mmgen. The architecture and its size are "
                    "recognised from the file.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=host.dtype_choices(),
                    default="auto",
                    tooltip="Precision of the weights. auto follows ComfyUI's policy for this "
                    "device; fp8 and int8 halve the memory of bf16 at a small loss of quality.",
                ),
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
            display_name="Scale Sampler (VAR)",
            category="mmgen/sampling",
            description="Draws pictures of a class with a next-scale model, one pass per scale; "
            "can begin from, vary or edit the tokens of a picture.",
            search_aliases=[
                "var",
                "sampler",
                "next-scale",
                "imagenet",
                "class to image",
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
    ) -> io.NodeOutput:
        sampling = ScaleSampling(guidance, top_k, top_p, smooth)

        def rows(start: int, stop: int) -> ImageTokens:
            part = start_tokens is not None and stop - start < batch_size
            begin = start_tokens.rows(start, stop) if part else start_tokens
            classes = ClassPrompt([class_id] * (stop - start))
            needed = memory_required(model.module, classes.batch, guidance > 0)
            progress = host.Progress(tokenizer.module.decode_partial)
            with host.loaded(model, tokenizer, memory_required=needed):
                return generate(
                    model.module,
                    tokenizer.module,
                    classes,
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
            "Name or ImageNet Class to choose it by name.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="Seed of the first picture; picture i of a batch equals a single run with "
            "seed + i. The random numbers do not depend on the device.",
        ),
    ]


def _how() -> list[io.Input]:
    return [
        io.Float.Input(
            "guidance",
            default=4.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="Strength of the class at the finest scale (cfg of the VAR demo); grows "
            "linearly from 0 at the coarsest. 1.5 was used for the paper's scores, 4 looks best.",
        ),
        io.Int.Input(
            "top_k",
            default=900,
            min=0,
            max=65536,
            tooltip="Draw among this many likeliest codes; 0 allows all.",
        ),
        io.Float.Input(
            "top_p",
            default=0.95,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Draw among the likeliest codes that make up this share of the probability; "
            "0 turns the limit off.",
        ),
        io.Boolean.Input(
            "smooth",
            default=False,
            tooltip="Mix codes instead of drawing one (more_smooth of VAR): smoother, less "
            "varied pictures.",
        ),
        io.Int.Input(
            "batch_size", default=1, min=1, max=1024, tooltip="How many pictures to draw at once."
        ),
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
    ]
