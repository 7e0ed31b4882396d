"""Answers of texts and pictures in turn."""

from __future__ import annotations

import torch

from ..mmgen_core.decoding.next_token import TokenSampling
from ..mmgen_core.systems.next_token import MultimodalPrompt, PictureWish
from . import host
from .api import NextTokenModel, Prompt, Tokenizer, Tokens, io
from .inputs import sampling_inputs, seed_input
from .next_token import ALIASES, PUBLISHED, check_prompt, chosen_size, guidance_inputs, size_inputs


class InterleavedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenInterleavedSampler",
            display_name="Interleaved Sampler (ANOLE, Lumina)",
            category="mmgen/sampling",
            description="Lets a model answer with texts and pictures in turn; it decides itself "
            "when to draw.",
            search_aliases=[*ALIASES, "story", "interleaved", "text and images"],
            inputs=[
                NextTokenModel.Input("model", tooltip="The model that writes and draws."),
                Tokenizer.Input("tokenizer", tooltip="The image tokenizer that belongs to it."),
                Prompt.Input("prompt", tooltip="Text and pictures, from Multimodal Prompt."),
                seed_input("Seed of the whole answer; it does not depend on the device."),
                *guidance_inputs(),
                *sampling_inputs(0.7, 0, 0.9, PUBLISHED),
                *text_inputs(),
                *size_inputs(),
            ],
            outputs=[
                io.String.Output(
                    "text",
                    tooltip="The whole answer, <image 1>, <image 2> ... in the places of pictures.",
                ),
                io.Image.Output(
                    "images",
                    is_output_list=True,
                    tooltip="The pictures, one by one; where the model drew none, nodes behind "
                    "this output do not run.",
                ),
                io.String.Output(
                    "texts",
                    is_output_list=True,
                    tooltip="The texts between the pictures, one by one.",
                ),
                Tokens.Output(
                    "tokens",
                    display_name="image tokens",
                    is_output_list=True,
                    tooltip="The pictures as tokens, one by one; those of SEED-LLaMA become "
                    "pictures by Stable Diffusion, behind SEED Tokens to Image Embedding.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.NextTokenModel,
        tokenizer: host.Tokenizer,
        prompt: MultimodalPrompt,
        seed: int,
        guidance: float,
        image_guidance: float,
        temperature: float,
        top_k: int,
        top_p: float,
        text_temperature: float,
        text_top_k: int,
        text_top_p: float,
        repetition_penalty: float,
        max_text_tokens: int,
        size: str,
        width: int,
        height: int,
    ) -> io.NodeOutput:
        check_prompt(model, prompt)
        if not model.system.interleaves:
            raise ValueError(
                f"{model.file} ({model.system.name}) does not write and draw in turn. Use Token "
                f"Image Sampler for pictures and Generate Text for texts."
            )
        wish = PictureWish(
            chosen_size(size, width, height),
            seed,
            1,
            guidance,
            image_guidance,
            TokenSampling(temperature, top_k, top_p),
            TokenSampling(text_temperature, text_top_k, text_top_p, 0.0, repetition_penalty),
            max_text_tokens,
        )
        needed = model.system.memory_required(model.module, prompt, wish)
        with host.loaded(model, tokenizer, memory_required=needed) as device:
            told = model.system.tell(
                model.module, tokenizer.module, prompt, wish, device, host.StepProgress()
            )
            with torch.inference_mode():
                features = [tokenizer.module.features(tokens, device) for tokens in told.pictures]
        has_pixels = not isinstance(tokenizer, host.SeedCodec)
        images = [tokenizer.vae.decode(codes) for codes in features] if has_pixels else []
        return io.NodeOutput(
            told.marked(),
            images or [host.nothing()],
            told.texts or [""],
            list(told.pictures) or [host.nothing()],
        )


def text_inputs() -> list[io.Input]:
    published = "Published for text: ANOLE 1, Chameleon 0.7; Lumina-mGPT 1 with top_k 5."
    return [
        io.Float.Input(
            "text_temperature",
            default=1.0,
            min=0.0,
            max=5.0,
            step=0.05,
            tooltip=f"Of words: below 1 safer, above 1 more varied; 0 is greedy. {published}",
        ),
        io.Int.Input(
            "text_top_k",
            default=0,
            min=0,
            max=65536,
            tooltip="Words are drawn among this many likeliest pieces; 0 allows all.",
        ),
        io.Float.Input(
            "text_top_p",
            default=0.9,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Words are drawn among the likeliest pieces of this share of the probability; "
            "published 0.9. 0 turns the limit off.",
        ),
        io.Float.Input(
            "repetition_penalty",
            default=1.2,
            min=0.1,
            max=3.0,
            step=0.05,
            tooltip="Divides the scores of words already there; Chameleon and ANOLE 1.2, "
            "Lumina-mGPT 1.",
        ),
        io.Int.Input(
            "max_text_tokens",
            default=512,
            min=1,
            max=8192,
            tooltip="Tokens of one text at most.",
        ),
    ]
