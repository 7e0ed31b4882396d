"""Dialogues of text and pictures with Show-o."""

from __future__ import annotations

from torch import Tensor

from ..mmgen_core.conditioners.show_o_dialogue import Dialogue as DialogueState
from ..mmgen_core.conditioners.show_o_writer import ShowOWriter
from ..mmgen_core.conditioners.text_writer import TextRequest, TextSettings
from ..mmgen_core.decoding.masked import MaskedSampling
from ..mmgen_core.systems.masked_models import show_o_of
from ..mmgen_core.systems.show_o_runs import (
    Painting,
    canvas_of,
    check_tokenizer,
    memory_required,
    paint,
)
from . import host
from .api import Dialogue, MaskedModel, Tokenizer, io
from .inputs import seed_input
from .masked import ALIASES, TOP_K

ACTIONS = ("answer", "draw")


class DialogueTurn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenDialogueTurn",
            display_name="Dialogue Turn (Show-o)",
            category="mmgen/stories",
            description="One turn of a dialogue with Show-o: it answers about the picture on the "
            "table, or draws the next one.",
            search_aliases=[*ALIASES, "chat", "conversation", "interleaved", "vqa"],
            inputs=[
                MaskedModel.Input("model", tooltip="The Show-o model."),
                Tokenizer.Input("tokenizer", tooltip="The MAGVIT-v2 tokenizer that belongs to it."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="What is this?",
                    tooltip="A question about the picture, or what to draw.",
                ),
                io.Combo.Input(
                    "action",
                    options=list(ACTIONS),
                    default="answer",
                    tooltip="answer writes about the current picture; draw makes a new one, which "
                    "the next turns talk about.",
                ),
                seed_input("Seed of the picture, or of the answer where temperature is above 0."),
                io.Int.Input(
                    "steps",
                    default=16,
                    min=1,
                    max=1000,
                    tooltip="Passes over a picture. Published: 50 at 512 px, 16 at 256 px.",
                ),
                io.Float.Input(
                    "guidance",
                    default=1.75,
                    min=0.0,
                    max=30.0,
                    step=0.05,
                    tooltip="How much the text counts when drawing; 0 is off. Published: 5 at 512 "
                    "px, 1.75 at 256 px.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=100,
                    min=1,
                    max=4096,
                    tooltip="Most tokens of an answer; 100 was published.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Of answers: 0 takes the likeliest word, as published.",
                ),
                Dialogue.Input(
                    "dialogue", optional=True, tooltip="The dialogue so far, from the turn before."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A picture to talk about from now on, in the size the model draws.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="For the w-clip-vit variants, which look at pictures through CLIP.",
                ),
                io.Int.Input(
                    "top_k",
                    default=0,
                    min=0,
                    max=65536,
                    optional=True,
                    advanced=True,
                    tooltip=f"For pictures. {TOP_K}",
                ),
            ],
            outputs=[
                Dialogue.Output("dialogue", tooltip="For the next turn."),
                io.String.Output("answer", tooltip="The answer of this turn; empty where it drew."),
                io.String.Output("transcript", tooltip="The whole dialogue."),
                io.Image.Output(
                    "image",
                    tooltip="The picture that is talked about; nothing behind it runs where there "
                    "is none.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.MaskedModel,
        tokenizer: host.Tokenizer,
        text: str,
        action: str,
        seed: int,
        steps: int,
        guidance: float,
        max_tokens: int,
        temperature: float,
        dialogue: DialogueState | None = None,
        image: Tensor | None = None,
        clip_vision: io.ClipVision.Type | None = None,
        top_k: int = 0,
    ) -> io.NodeOutput:
        check_tokenizer(show_o_of(model.module, model.file), tokenizer.module)
        told = dialogue or DialogueState()
        if image is not None:
            told = told.shown(image[0])
        if action == "draw":
            sampling = MaskedSampling(steps, guidance, top_k=top_k)
            told = told.drawn(text, drawn(model, tokenizer, text, sampling, seed))
        else:
            settings = TextSettings(max_tokens, temperature, seed=seed)
            told = told.answered(text, answer(model, tokenizer, told, text, settings, clip_vision))
        shown = host.nothing() if told.picture is None else host.to_output(told.picture[None])
        return io.NodeOutput(told, told.turns[-1].answer or "", told.transcript(), shown)


def drawn(
    model: host.MaskedModel,
    tokenizer: host.Tokenizer,
    text: str,
    sampling: MaskedSampling,
    seed: int,
) -> Tensor:
    painting = Painting(sampling, seed)
    canvas = canvas_of(model.module, tokenizer.module, painting, None, None, None)
    ids, needed = model.text.encode(text), memory_required(model.module, painting)
    with host.loaded(model, tokenizer, memory_required=needed) as device:
        progress = host.StepProgress()
        tokens = paint(model.module, tokenizer.module, ids, canvas, painting, device, progress)
        codes = tokenizer.module.features(tokens, device)
    return tokenizer.vae.decode(codes)[0]


def answer(
    model: host.MaskedModel,
    tokenizer: host.Tokenizer,
    told: DialogueState,
    text: str,
    settings: TextSettings,
    clip_vision: io.ClipVision.Type | None,
) -> str:
    features = host.clip_features(clip_vision) if clip_vision is not None else None
    device = model.patcher.load_device
    writer = ShowOWriter(model.module, model.text, tokenizer.module, features, device, model.file)
    pictures = [] if told.picture is None else [told.picture.float().cpu()]
    prompt = writer.encode(TextRequest(told.question(text), pictures))
    clip = host.TextModel(writer, model.patcher, [tokenizer.patcher])
    return clip.write(prompt, settings)
