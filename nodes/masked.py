"""Masked models (Show-o): load one, draw, redraw and widen pictures with it, ask it about them."""

from __future__ import annotations

from torch import Tensor

from ..mmgen_core.conditioners.show_o_writer import ShowOWriter
from ..mmgen_core.decoding.masked import SCHEDULES, MaskedSampling
from ..mmgen_core.image_tokens import ImageTokens
from ..mmgen_core.systems.masked_models import show_o_of
from ..mmgen_core.systems.show_o_runs import (
    Extension,
    Painting,
    canvas_of,
    check_tokenizer,
    extrapolate,
    memory_required,
    paint,
    read_extensions,
)
from . import host
from .api import MaskedModel, Tokenizer, Tokens, io
from .inputs import MAX_SEED, batch_input, dtype_input, file_input, seed_input

DEMO_MODEL = "mmgen_demo_show_o.safetensors"
ALIASES = ["show-o", "showo", "maskgit", "masked", "discrete diffusion", "var"]


class LoadMaskedModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadMaskedModel",
            display_name="Load Masked or Flow Model (Show-o, Transfusion)",
            category="mmgen/loaders",
            description="Loads a language model with diffusion inside: Show-o, which unmasks image "
            "tokens, or Transfusion, which solves latents.",
            search_aliases=[*ALIASES, "transfusion", "flow", "loader", "multimodal llm"],
            inputs=[
                file_input(
                    "model_name",
                    DEMO_MODEL,
                    "A file in models/mmgen. System and size are recognised from the file; the "
                    "text tokenizer is read from the same folder or a folder named tokenizer in "
                    "it (of microsoft/phi-1_5 for the public Show-o files).",
                ),
                dtype_input(),
            ],
            outputs=[
                MaskedModel.Output(
                    "masked_model",
                    display_name="masked model",
                    tooltip="For Masked Sampler, Extrapolate, Flow Sampler and Masked Model as "
                    "CLIP.",
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(host.load_masked_model(model_name, dtype))


class MaskedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenMaskedSampler",
            display_name="Masked Sampler (Show-o)",
            category="mmgen/sampling",
            description="Draws pictures of a text with Show-o, all codes at once in a few steps, "
            "or redraws the masked part of a picture.",
            search_aliases=[*ALIASES, "text to image", "inpaint", "sampler"],
            inputs=[
                MaskedModel.Input("model", tooltip="The Show-o model that draws."),
                Tokenizer.Input("tokenizer", tooltip="The MAGVIT-v2 tokenizer that belongs to it."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a red heart",
                    tooltip="What to draw; empty draws anything.",
                ),
                seed_input(),
                *sampling_inputs(),
                batch_input(),
                Tokens.Input(
                    "start_tokens",
                    optional=True,
                    tooltip="Tokens of a picture of which the masked part is redrawn.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="What to redraw of the start tokens, white; a token is redrawn where "
                    "half of it is white. Or connect tokens that went through Token Mask.",
                ),
                *size_inputs(),
            ],
            outputs=[
                Tokens.Output(
                    "tokens", display_name="image tokens", tooltip="For Decode Image Tokens."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.MaskedModel,
        tokenizer: host.Tokenizer,
        text: str,
        seed: int,
        steps: int,
        guidance: float,
        temperature: float,
        schedule: str,
        batch_size: int,
        start_tokens: ImageTokens | None = None,
        mask: Tensor | None = None,
        width: int = 0,
        height: int = 0,
        top_k: int = 0,
    ) -> io.NodeOutput:
        module = show_o_of(model.module, model.file)
        codes = check_tokenizer(module, tokenizer.module)
        sampling = MaskedSampling(steps, guidance, schedule, temperature, top_k)
        size = chosen_size(width, height)
        mask_BHW = None if mask is None else mask.reshape(-1, *mask.shape[-2:])
        whole = Painting(sampling, seed, batch_size)
        canvas = canvas_of(module, codes, whole, start_tokens, mask_BHW, size)
        ids = model.text.encode(text)

        def rows(start: int, stop: int) -> ImageTokens:
            part = Painting(sampling, (seed + start) % (MAX_SEED + 1), stop - start)
            needed = memory_required(module, part)
            with host.loaded(model, tokenizer, memory_required=needed) as device:
                progress = host.StepProgress()
                return paint(module, codes, ids, canvas[start:stop], part, device, progress)

        return io.NodeOutput(ImageTokens.joined(host.in_parts(rows, 0, batch_size)))


class Extrapolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenExtrapolate",
            display_name="Extrapolate (Show-o)",
            category="mmgen/sampling",
            description="Makes a picture larger with Show-o, step by step in any directions, each "
            "step from its own text.",
            search_aliases=[*ALIASES, "outpaint", "panorama", "extend", "uncrop"],
            inputs=[
                MaskedModel.Input("model", tooltip="The Show-o model that draws."),
                Tokenizer.Input("tokenizer", tooltip="The MAGVIT-v2 tokenizer that belongs to it."),
                Tokens.Input("tokens", tooltip="Tokens of the picture to begin from."),
                io.String.Input(
                    "steps_text",
                    multiline=True,
                    default="right: a green tree\nleft: a green tree",
                    tooltip="One step per line: a direction (left, right, up, down), a colon and "
                    "what is to be there. Each step adds half of what the model draws.",
                ),
                seed_input(),
                *sampling_inputs(),
                io.Int.Input(
                    "offset",
                    default=0,
                    min=-64,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="Codes added to every step's half; the model sees as many fewer of the "
                    "picture it goes on from.",
                ),
                io.Int.Input(
                    "top_k",
                    default=0,
                    min=0,
                    max=65536,
                    optional=True,
                    advanced=True,
                    tooltip=TOP_K,
                ),
            ],
            outputs=[
                Tokens.Output(
                    "larger_tokens",
                    display_name="image tokens",
                    tooltip="For Decode Image Tokens.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.MaskedModel,
        tokenizer: host.Tokenizer,
        tokens: ImageTokens,
        steps_text: str,
        seed: int,
        steps: int,
        guidance: float,
        temperature: float,
        schedule: str,
        offset: int = 0,
        top_k: int = 0,
    ) -> io.NodeOutput:
        module = show_o_of(model.module, model.file)
        codes = check_tokenizer(module, tokenizer.module)
        sampling = MaskedSampling(steps, guidance, schedule, temperature, top_k)
        plan = [
            Extension(way, model.text.encode(text)) for way, text in read_extensions(steps_text)
        ]

        def rows(start: int, stop: int) -> ImageTokens:
            part = Painting(sampling, (seed + start) % (MAX_SEED + 1), stop - start)
            begin = tokens.rows(start, stop)
            needed = memory_required(module, part)
            with host.loaded(model, tokenizer, memory_required=needed) as device:
                progress = host.StepProgress()
                return extrapolate(module, codes, begin, plan, offset, part, device, progress)

        return io.NodeOutput(ImageTokens.joined(host.in_parts(rows, 0, tokens.batch)))


class MaskedClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenMaskedClip",
            display_name="Masked Model as CLIP (Show-o)",
            category="mmgen/loaders",
            description="Gives Show-o to the stock Generate Text node, for answers to questions "
            "about a picture.",
            search_aliases=[*ALIASES, "vqa", "caption", "image to text", "generate text"],
            inputs=[
                MaskedModel.Input("model", tooltip="The Show-o model that answers."),
                Tokenizer.Input(
                    "tokenizer",
                    optional=True,
                    tooltip="Its image tokenizer, for models that look at pictures as tokens.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="For the w-clip-vit variants: clip-vit-large-patch14-336 from the "
                    "stock Load CLIP Vision.",
                ),
            ],
            outputs=[io.Clip.Output("clip", tooltip="For Generate Text.")],
        )

    @classmethod
    def execute(
        cls,
        model: host.MaskedModel,
        tokenizer: host.Tokenizer | None = None,
        clip_vision: io.ClipVision.Type | None = None,
    ) -> io.NodeOutput:
        module = show_o_of(model.module, model.file)
        codes = check_tokenizer(module, tokenizer.module) if tokenizer is not None else None
        features = host.clip_features(clip_vision) if clip_vision is not None else None
        device = model.patcher.load_device
        writer = ShowOWriter(module, model.text, codes, features, device, model.file)
        companions = [tokenizer.patcher] if tokenizer is not None else []
        return io.NodeOutput(host.TextModel(writer, model.patcher, companions))


TOP_K = (
    "Draw among this many likeliest codes; 0 allows all. Show-o Turbo was published with 200 "
    "(256 px) or 500 (512 px) at few steps."
)


def sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=16,
            min=1,
            max=1000,
            tooltip="Passes over the picture. Published: 50 at 512 px, 16 at 256 px; Show-o Turbo "
            "2 to 16.",
        ),
        io.Float.Input(
            "guidance",
            default=1.75,
            min=0.0,
            max=30.0,
            step=0.05,
            tooltip="How much the text counts, as Show-o says it: 0 is off, 4 is what other nodes "
            "call 5. Published: 5 at 512 px, 1.75 at 256 px.",
        ),
        io.Float.Input(
            "temperature",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.05,
            tooltip="How much chance decides which codes are drawn again in the first steps; 0 "
            "keeps the surest. Published: 1.",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default="cosine",
            tooltip="How fast codes are settled. cosine settles few at first and was published.",
        ),
    ]


def size_inputs() -> list[io.Input]:
    def side(name: str) -> io.Input:
        return io.Int.Input(
            name,
            default=0,
            min=0,
            max=8192,
            step=8,
            optional=True,
            advanced=True,
            tooltip=f"The picture's {name} in pixels; 0 is the model's own size. Larger pictures "
            f"are drawn in overlapping windows of that size.",
        )

    top_k = io.Int.Input(
        "top_k", default=0, min=0, max=65536, optional=True, advanced=True, tooltip=TOP_K
    )
    return [side("width"), side("height"), top_k]


def chosen_size(width: int, height: int) -> tuple[int, int] | None:
    """Both sides or neither.

    Raises:
        ValueError: only one of them is set.
    """
    if bool(width) != bool(height):
        raise ValueError("Set both width and height, or leave both at 0 for the model's own size.")
    return (width, height) if width else None
