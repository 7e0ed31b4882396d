"""Next-token models: load one, ask it, draw with it."""

from __future__ import annotations

from ..mmgen_core.conditioners.system_writer import SystemWriter
from ..mmgen_core.decoding.next_token import TokenSampling
from ..mmgen_core.decoding.speculative import Speculation
from ..mmgen_core.image_tokens import ImageTokens
from ..mmgen_core.pictures import grid_sizes
from ..mmgen_core.systems.next_token import MultimodalPrompt, PictureWish, Size
from . import host
from .api import NextTokenModel, Prompt, Tokenizer, Tokens, io
from .inputs import MAX_SEED, batch_input, dtype_input, file_input, sampling_inputs, seed_input

DEMO_MODEL = "mmgen_demo_chameleon.safetensors"
OWN_SIZE, FREE_SIZE = "the model's own", "width and height below"
ALIASES = [
    "chameleon",
    "anole",
    "lumina",
    "lumina-mgpt",
    "seed-llama",
    "unified-io",
    "next-token",
    "autoregressive",
    "var",
]
SPECULATION = {"off": None, "same picture": "shared noise", "same distribution": "rejection"}
PUBLISHED = (
    "Published: Chameleon and ANOLE temperature 0.7, top_p 0.9; Lumina-mGPT temperature 1, "
    "top_k 2000, 200 for editing; SEED-LLaMA temperature 1, top_k 50, top_p 0.5; Unified-IO "
    "temperature 1, top_p 0.9."
)


class LoadNextTokenModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadNextTokenModel",
            display_name="Load Next-Token Model (Chameleon, ANOLE, Lumina, Unified-IO)",
            category="mmgen/loaders",
            description="Loads a language model that draws pictures token by token, such as "
            "Chameleon, ANOLE, Lumina-mGPT or Unified-IO.",
            search_aliases=[*ALIASES, "loader", "multimodal llm"],
            inputs=[
                file_input(
                    "model_name",
                    DEMO_MODEL,
                    "A file in models/mmgen: of a sharded model its index, of Meta's parts the "
                    "first. System and size are recognised; the text tokenizer is read from the "
                    "same folder or a folder named tokenizer in it.",
                ),
                dtype_input(),
            ],
            outputs=[
                NextTokenModel.Output(
                    "model",
                    display_name="next-token model",
                    tooltip="For the samplers and for Next-Token Model as CLIP.",
                )
            ],
        )

    @classmethod
    def execute(cls, model_name: str, dtype: str) -> io.NodeOutput:
        return io.NodeOutput(host.load_next_token_model(model_name, dtype))


class NextTokenClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenNextTokenClip",
            display_name="Next-Token Model as CLIP",
            category="mmgen/loaders",
            description="Gives a next-token model to the stock Generate Text node, for captions "
            "and answers about pictures.",
            search_aliases=[*ALIASES, "vqa", "caption", "image to text", "generate text"],
            inputs=[
                NextTokenModel.Input("model", tooltip="The model that answers."),
                Tokenizer.Input(
                    "tokenizer",
                    optional=True,
                    tooltip="Its image tokenizer; needed for questions about pictures.",
                ),
            ],
            outputs=[io.Clip.Output("clip", tooltip="For Generate Text.")],
        )

    @classmethod
    def execute(
        cls, model: host.NextTokenModel, tokenizer: host.Tokenizer | None = None
    ) -> io.NodeOutput:
        module = tokenizer.module if tokenizer is not None else None
        device = model.patcher.load_device
        writer = SystemWriter(model.system, model.module, module, device, model.file)
        companions = host.patchers_of(tokenizer) if tokenizer is not None else []
        return io.NodeOutput(host.TextModel(writer, model.patcher, companions))


class TokenImageSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenTokenImageSampler",
            display_name="Token Image Sampler (Chameleon, ANOLE, Lumina, Unified-IO)",
            category="mmgen/sampling",
            description="Draws pictures of a prompt with a next-token model, code by code, row by "
            "row.",
            search_aliases=[*ALIASES, "text to image", "image to image", "sampler"],
            inputs=[
                NextTokenModel.Input("model", tooltip="The model that draws."),
                Tokenizer.Input("tokenizer", tooltip="The image tokenizer that belongs to it."),
                Prompt.Input("prompt", tooltip="Text and pictures, from Multimodal Prompt."),
                *size_inputs(),
                seed_input(),
                *guidance_inputs(),
                *sampling_inputs(0.7, 0, 0.9, PUBLISHED),
                batch_input(),
                io.Combo.Input(
                    "speculation",
                    options=list(SPECULATION),
                    default="off",
                    optional=True,
                    advanced=True,
                    tooltip="Speculative Jacobi decoding: several codes in one pass where guesses "
                    "hold. 'same picture' gives exactly the picture of 'off'; 'same distribution' "
                    "is the paper's form, with another picture as likely.",
                ),
                io.Int.Input(
                    "window",
                    default=16,
                    min=2,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip="Codes of one speculative pass; 16 was published.",
                ),
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
        model: host.NextTokenModel,
        tokenizer: host.Tokenizer,
        prompt: MultimodalPrompt,
        size: str,
        width: int,
        height: int,
        seed: int,
        guidance: float,
        image_guidance: float,
        temperature: float,
        top_k: int,
        top_p: float,
        batch_size: int,
        speculation: str = "off",
        window: int = 16,
    ) -> io.NodeOutput:
        check_prompt(model, prompt)
        rule = SPECULATION[speculation]
        sampling = TokenSampling(temperature, top_k, top_p)

        def rows(start: int, stop: int) -> ImageTokens:
            wish = PictureWish(
                chosen_size(size, width, height),
                (seed + start) % (MAX_SEED + 1),
                stop - start,
                guidance,
                image_guidance,
                sampling,
                speculation=Speculation(window, rule) if rule else None,
            )
            needed = model.system.memory_required(model.module, prompt, wish)
            with host.loaded(model, tokenizer, memory_required=needed) as device:
                return model.system.draw(
                    model.module, tokenizer.module, prompt, wish, device, host.StepProgress()
                )

        return io.NodeOutput(ImageTokens.joined(host.in_parts(rows, 0, batch_size)))


def size_inputs() -> list[io.Input]:
    """Sizes that some system was trained to draw, or any."""
    listed = [
        (64, 64),
        (256, 256),
        *(size for side in (512, 768, 1024) for size in grid_sizes(side)),
    ]
    names = [f"{w} x {h}" for w, h in dict.fromkeys(listed)]

    def side(name: str) -> io.Input:
        return io.Int.Input(
            name,
            default=512,
            min=16,
            max=4096,
            step=16,
            optional=True,
            tooltip=f"Used where size is '{FREE_SIZE}'.",
        )

    return [
        io.Combo.Input(
            "size",
            options=[OWN_SIZE, FREE_SIZE, *names],
            default=OWN_SIZE,
            tooltip="Width x height. Chameleon and ANOLE draw 512 x 512 only, Unified-IO "
            "256 x 256; Lumina-mGPT any of "
            "the listed sizes of its resolution, and others in multiples of 32.",
        ),
        side("width"),
        side("height"),
    ]


def chosen_size(size: str, width: int, height: int) -> Size | None:
    if size == OWN_SIZE:
        return None
    if size == FREE_SIZE:
        return width, height
    return tuple(int(side) for side in size.split(" x "))


def guidance_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "guidance",
            default=3.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="How much the prompt counts against no prompt; 1 is off and twice as fast. "
            "Published: Chameleon, ANOLE 3; Lumina-mGPT 4, for editing 1; Unified-IO 2 from text "
            "11 (its scale 10), else 1; Unified-IO 1 knows 1 only. SEED-LLaMA has none: no effect.",
        ),
        io.Float.Input(
            "image_guidance",
            default=1.2,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="How much pictures in the prompt count (Chameleon and ANOLE; published 1.2). "
            "No effect without pictures, or with other models.",
        ),
    ]


def check_prompt(model: host.NextTokenModel, prompt: MultimodalPrompt) -> None:
    if prompt.pictures and not model.system.takes_pictures:
        raise ValueError(
            f"{model.file} ({model.system.name}) takes no pictures in its prompt: disconnect them."
        )
