"""Stories: a language model writes, asks for a picture, sees it, and writes on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..mmgen_core.conditioners.story import Story as StoryState
from ..mmgen_core.decoding.next_token import TokenSampling
from . import host
from .api import Detokenizer, Prompt, QueryModel, Story, io
from .inputs import sampling_inputs, seed_input
from .query_models import ALIASES
from .story_turns import opened, turn

STORY_ALIASES = [*ALIASES, "story", "interleaved", "loop"]
PUBLISHED = "No settings were published for stories; DreamLLM answers at 0.2."


def turn_inputs() -> list[io.Input]:
    """What a turn of a story needs beside the story."""
    return [
        QueryModel.Input("model", tooltip="DreamLLM or SEED-X, from Load Query Model."),
        io.Int.Input(
            "max_tokens",
            default=256,
            min=1,
            max=4096,
            tooltip="Most tokens of a turn's text; a picture that was asked for is always "
            "finished.",
        ),
        *sampling_inputs(0.7, 0, 0.9, PUBLISHED),
        seed_input("Seed of the words; turn i of a story uses seed + i."),
    ]


def detokenizer_input() -> io.Input:
    return Detokenizer.Input(
        "detokenizer",
        optional=True,
        tooltip="From Load SEED-X De-tokenizer; only for SEED-X, which draws through it.",
    )


class StoryTurn(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenStoryTurn",
            display_name="Story Turn (DreamLLM, SEED-X)",
            category="mmgen/stories",
            description="One turn of a story: the model writes until it asks for a picture, and "
            "gives the conditions to draw it; the next turn sees what was drawn.",
            search_aliases=STORY_ALIASES,
            inputs=[
                *turn_inputs(),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    optional=True,
                    tooltip="How a new story begins, or what is said before this turn.",
                ),
                Story.Input(
                    "story", optional=True, tooltip="The story so far, from the turn before."
                ),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="The picture that the turn before asked for, as it was drawn.",
                ),
                Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Text with pictures from which a new story begins; before text.",
                ),
                detokenizer_input(),
            ],
            outputs=[
                Story.Output("story", tooltip="For the next turn."),
                io.String.Output("text", tooltip="What the model wrote in this turn."),
                io.Conditioning.Output(
                    "positive",
                    tooltip="For a KSampler. Where no picture was asked for, nodes "
                    "behind it do not run.",
                ),
                io.Conditioning.Output("negative", tooltip="For the same KSampler."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        max_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        text: str = "",
        story: StoryState | None = None,
        picture: Tensor | None = None,
        prompt=None,
        detokenizer=None,
    ) -> io.NodeOutput:
        told = opened(model, story, picture, text, prompt)
        sampling = TokenSampling(temperature, top_k, top_p)
        told, conditions = turn(model, told, max_tokens, sampling, seed, detokenizer)
        pair = conditions or (host.nothing(), host.nothing())
        return io.NodeOutput(told, told.texts[-1] if told.texts else "", *pair)


class TellStory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenTellStory",
            display_name="Tell Story (DreamLLM, SEED-X)",
            category="mmgen/stories",
            description="Tells an illustrated story: the language model and the diffusion model "
            "take turns until the story ends, each picture seen before the next words.",
            search_aliases=STORY_ALIASES,
            enable_expand=True,
            inputs=[
                *turn_inputs(),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="How the story begins, or what it should be about.",
                ),
                io.Model.Input(
                    "diffusion_model",
                    tooltip="Draws the pictures: SD 2.1-base for DreamLLM, SEED-X's own for "
                    "SEED-X.",
                ),
                io.Vae.Input("vae", tooltip="The VAE of the diffusion model."),
                io.Int.Input(
                    "max_pictures",
                    default=4,
                    min=1,
                    max=32,
                    tooltip="The story ends after this many pictures at the latest.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Of the pictures: 512 for SD 2.1, 1024 for SEED-X.",
                ),
                io.Int.Input(
                    "height", default=512, min=64, max=4096, step=8, tooltip="Of the pictures."
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=1000, tooltip="Steps of the KSampler."
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance of the "
                    "KSampler. Published: 7.5, and 3.5 in DreamLLM's script.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=host.sampler_names(),
                    default="ddpm",
                    tooltip="Published: ddpm for DreamLLM, euler for SEED-X.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=host.scheduler_names(),
                    default="ddim_uniform",
                    tooltip="ddim_uniform has the published noise levels at 50 or 100 steps.",
                ),
                Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Text with pictures from which the story begins; before text.",
                ),
                detokenizer_input(),
                Story.Input(
                    "story", optional=True, tooltip="A story to be continued; text is added."
                ),
                io.Image.Input(
                    "picture",
                    optional=True,
                    tooltip="The picture that the story asked for last, if it did.",
                ),
            ],
            outputs=[
                Story.Output(
                    "story", tooltip="For Parts of Story, or another Tell Story that goes on."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        max_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        text: str,
        diffusion_model,
        vae,
        max_pictures: int,
        prompt=None,
        detokenizer=None,
        story: StoryState | None = None,
        picture: Tensor | None = None,
        **drawing: Any,
    ) -> io.NodeOutput:
        told = opened(model, story, picture, text, prompt)
        sampling, more = TokenSampling(temperature, top_k, top_p), max_pictures > 0
        told, conditions = turn(model, told, max_tokens, sampling, seed, detokenizer, more)
        if conditions is None:
            return io.NodeOutput(told)
        following = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed + 1,
            "text": "",
            "diffusion_model": diffusion_model,
            "vae": vae,
            "max_pictures": max_pictures - 1,
            "detokenizer": detokenizer,
            "story": told,
            **drawing,
        }
        return host.drawn_then("MMGenTellStory", following, conditions, seed)


class StoryParts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenStoryParts",
            display_name="Parts of Story",
            category="mmgen/stories",
            description="The texts and pictures of a story, each as a list in order.",
            search_aliases=STORY_ALIASES,
            inputs=[
                Story.Input("story", tooltip="From Tell Story or Story Turn."),
            ],
            outputs=[
                io.String.Output(
                    "texts",
                    is_output_list=True,
                    tooltip="What was written before, between and after the pictures.",
                ),
                io.Image.Output(
                    "pictures",
                    is_output_list=True,
                    tooltip="The pictures in order; without any, nodes behind it do not run.",
                ),
                io.String.Output("whole", tooltip="All texts as one, <image> for a picture."),
            ],
        )

    @classmethod
    def execute(cls, story: StoryState) -> io.NodeOutput:
        images = [image[None] for image in story.images]
        return io.NodeOutput(list(story.texts), images or [host.nothing()], story.marked())
