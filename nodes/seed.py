"""SEED: pictures to 32 tokens, and tokens to the condition of a stock Stable Diffusion model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..mmgen_core.image_tokens import ImageTokens
from ..mmgen_core.tokenizers.pixels import FILTERS
from ..mmgen_core.tokenizers.seed import IMAGE_EMBEDDING
from . import host
from .api import Tokenizer, Tokens, io
from .inputs import file_input

DEMO_SEED = "mmgen_demo_seed.safetensors"
SAME_FILE, NO_FILE = "in the tokenizer's file", "none"
ALIASES = ["seed", "seed-2", "seed-llama", "q-former", "qformer", "semantic tokens"]


def tokenizer_input() -> io.Input:
    return Tokenizer.Input("tokenizer", tooltip="From Load SEED Tokenizer.")


class LoadSeedTokenizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.model_files()
        return io.Schema(
            node_id="MMGenLoadSeedTokenizer",
            display_name="Load SEED Tokenizer",
            category="mmgen/loaders",
            description="Loads a SEED tokenizer, which turns a picture into 32 tokens that a "
            "language model can write, and tokens into the condition of Stable Diffusion.",
            search_aliases=["var", *ALIASES, "eva clip", "blip-2"],
            inputs=[
                file_input(
                    "tokenizer_name",
                    DEMO_SEED,
                    "A file in models/mmgen: seed_quantizer.pt (SEED-2), seed_tokenizer.pth "
                    "(SEED-1) or a demo. Which SEED it is, is recognised from the file.",
                ),
                io.Combo.Input(
                    "vision_name",
                    options=[SAME_FILE, NO_FILE, *files],
                    default=SAME_FILE,
                    tooltip="The vision transformer: eva_vit_g.pth for the public tokenizers. "
                    "Only Encode needs it; none saves 2 GB where tokens are only decoded.",
                ),
                io.Combo.Input(
                    "qformer_name",
                    options=[NO_FILE, *files],
                    default=NO_FILE,
                    tooltip="SEED-1 only: its second file, causal_qformer.pth. SEED-2 has none.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *host.DTYPES],
                    default="auto",
                    tooltip="Precision of the vision transformer; auto follows ComfyUI's policy "
                    "for this device.",
                ),
                io.Combo.Input(
                    "codes_dtype",
                    options=list(host.DTYPES),
                    default="fp32",
                    advanced=True,
                    tooltip="Precision of the Q-Former and of the choice of codes. fp32 is safe; "
                    "fp16 repeats what SEED-2's scripts do on a GPU, where close codes may swap.",
                ),
            ],
            outputs=[
                Tokenizer.Output(
                    "tokenizer",
                    display_name="SEED tokenizer",
                    tooltip="For the nodes that encode, mix and decode SEED tokens.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, tokenizer_name: str, vision_name: str, qformer_name: str, dtype: str, codes_dtype: str
    ) -> io.NodeOutput:
        special = {SAME_FILE: tokenizer_name, NO_FILE: None}
        vision = special.get(vision_name, vision_name)
        qformer = special.get(qformer_name, qformer_name)
        return io.NodeOutput(
            host.load_seed_tokenizer(tokenizer_name, vision, qformer, dtype, codes_dtype)
        )


class EncodeSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenEncodeSeed",
            display_name="Encode Image to SEED Tokens",
            category="mmgen/tokens",
            description="Turns every picture into a row of 32 SEED tokens, which hold its meaning "
            "and not its pixels.",
            search_aliases=["var", *ALIASES, "tokenize", "encode"],
            inputs=[
                tokenizer_input(),
                io.Image.Input(
                    "image",
                    tooltip="Pictures of any size; they are squeezed into the tokenizer's square "
                    "(224 x 224 for the public ones) without cropping.",
                ),
                io.Combo.Input(
                    "resize",
                    options=list(FILTERS),
                    default="bilinear",
                    advanced=True,
                    tooltip="How pictures are resized: bilinear as in the published scripts, "
                    "bicubic as in SEED-1's own code.",
                ),
            ],
            outputs=[
                Tokens.Output(
                    "tokens", display_name="image tokens", tooltip="32 tokens per picture."
                )
            ],
        )

    @classmethod
    def execute(cls, tokenizer: host.SeedCodec, image: Tensor, resize: str) -> io.NodeOutput:
        codec = host.checked_seed(tokenizer)

        def rows(start: int, stop: int) -> ImageTokens:
            needed = host.seed_encode_bytes(codec, stop - start)
            with host.loaded(codec, memory_required=needed) as device:
                return codec.module.encode(image[start:stop], resize, device)

        return io.NodeOutput(ImageTokens.joined(host.in_parts(rows, 0, len(image))))


def condition_of(tokenizer: host.SeedCodec, tokens: ImageTokens) -> Tensor:
    """Only the tokenizer is loaded: the way back needs no vision transformer."""
    with host.loaded(SimpleNamespace(patcher=tokenizer.patcher)) as device:
        return tokenizer.module.decode(tokens, device)


class SeedCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenSeedCondition",
            display_name="SEED Tokens to Conditioning (SD 1.x)",
            category="mmgen/conditioning",
            description="Turns SEED-1 tokens into the conditioning of Stable Diffusion 1.x by the "
            "Reverse Q-Former, so that a stock KSampler draws the picture's meaning.",
            search_aliases=["var", *ALIASES, "reverse q-former", "detokenize", "decode"],
            inputs=[
                tokenizer_input(),
                Tokens.Input("tokens", tooltip="SEED tokens; one conditioning row per picture."),
                io.Model.Input(
                    "model",
                    tooltip="The model that the KSampler will use, to make sure that it takes this "
                    "conditioning: Stable Diffusion 1.4 or 1.5, with any LoRA, for SEED-1.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive",
                    display_name="CONDITIONING",
                    tooltip="For positive of a KSampler, with as many latents as pictures. As "
                    "negative use CLIP Text Encode with an empty text.",
                )
            ],
        )

    @classmethod
    def execute(cls, tokenizer: host.SeedCodec, tokens: ImageTokens, model: Any) -> io.NodeOutput:
        host.check_seed_target(host.checked_seed(tokenizer), model)
        if tokenizer.module.params.generation == IMAGE_EMBEDDING:
            raise ValueError(
                f"{tokenizer.name} writes {tokenizer.module.params.condition}. Use SEED Tokens to "
                f"Image Embedding and unCLIPConditioning for it."
            )
        condition = host.to_output(condition_of(tokenizer, tokens))
        pooled = torch.zeros_like(condition[:, 0])  # SD 1.x reads none; some nodes expect one
        return io.NodeOutput([[condition, {"pooled_output": pooled}]])


class SeedEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenSeedEmbedding",
            display_name="SEED Tokens to Image Embedding (unCLIP)",
            category="mmgen/conditioning",
            description="Turns SEED-2 tokens into image embeddings for the stock "
            "unCLIPConditioning node, one after the other for every picture.",
            search_aliases=["var", *ALIASES, "unclip", "detokenize", "decode"],
            inputs=[
                tokenizer_input(),
                Tokens.Input("tokens", tooltip="SEED tokens of one or more pictures."),
                io.Model.Input(
                    "model",
                    tooltip="The model that the KSampler will use, to make sure that it takes this "
                    "embedding: Stable Diffusion 2.1 unCLIP (sd21-unclip-h.ckpt).",
                ),
            ],
            outputs=[
                io.ClipVisionOutput.Output(
                    "embedding",
                    display_name="CLIP_VISION_OUTPUT",
                    is_output_list=True,
                    tooltip="For unCLIPConditioning, with the empty text as conditioning. With "
                    "several pictures the nodes after it run once for each.",
                )
            ],
        )

    @classmethod
    def execute(cls, tokenizer: host.SeedCodec, tokens: ImageTokens, model: Any) -> io.NodeOutput:
        host.check_seed_target(host.checked_seed(tokenizer), model)
        if tokenizer.module.params.generation != IMAGE_EMBEDDING:
            raise ValueError(
                f"{tokenizer.name} writes {tokenizer.module.params.condition}. Use SEED Tokens to "
                f"Conditioning (SD 1.x) for it."
            )
        return io.NodeOutput(host.clip_vision_output(condition_of(tokenizer, tokens)[:, 0]))
