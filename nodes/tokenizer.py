"""Image tokenizers: load one, pictures to tokens and back."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mmgen_core.image_tokens import ImageTokens
from ..mmgen_core.tokenizers.multiscale_vq import MultiScaleVQ
from . import host
from .api import ScaleModel, Tokenizer, Tokens, io
from .inputs import file_input

DEMO_TOKENIZER = "mmgen_demo_vae.safetensors"


class LoadImageTokenizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadImageTokenizer",
            display_name="Load Image Tokenizer",
            category="mmgen/loaders",
            description="Loads an image tokenizer, such as the multi-scale VQ-VAE of VAR and STAR "
            "or the VQGAN of Chameleon, which turns pictures into tokens and back.",
            search_aliases=[
                "var",
                "star",
                "chameleon",
                "anole",
                "lumina",
                "show-o",
                "magvit",
                "vqvae",
                "vq-vae",
                "vqgan",
                "unified-io",
                "tokenizer",
                "vae",
                "next-scale",
            ],
            inputs=[
                file_input("tokenizer_name", DEMO_TOKENIZER),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *host.DTYPES],
                    default="auto",
                    tooltip="Precision of encoder and decoder; auto follows ComfyUI's policy "
                    "for VAEs. Codes are always looked up in fp32.",
                ),
            ],
            outputs=[
                Tokenizer.Output(
                    "tokenizer", tooltip="For the sampler and for Encode and Decode Image Tokens."
                ),
                io.Vae.Output(
                    "vae",
                    tooltip="The same as a stock VAE: its latent is the code map, so VAE Encode, "
                    "VAE Decode and VAE Decode (Tiled) take it.",
                ),
            ],
        )

    @classmethod
    def execute(cls, tokenizer_name: str, dtype: str) -> io.NodeOutput:
        tokenizer = host.load_tokenizer(tokenizer_name, dtype)
        return io.NodeOutput(tokenizer, tokenizer.vae)


class EncodeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenEncodeImage",
            display_name="Encode Image to Tokens",
            category="mmgen/tokens",
            description="Turns pictures into image tokens: a map of codes, or one per scale.",
            search_aliases=["var", "tokenize", "encode", "image to tokens", "vq", "inpaint"],
            inputs=[
                Tokenizer.Input("tokenizer", tooltip="The image tokenizer."),
                io.Image.Input(
                    "image",
                    tooltip="Pictures of the size the model draws, square ones for a scale model; "
                    "scale or crop them first with a stock node, such as Upscale Image.",
                ),
                ScaleModel.Input(
                    "model",
                    optional=True,
                    tooltip="Connect the scale model that will read the tokens, so that they get "
                    "its list of scales. Otherwise the tokenizer's own for this size is used.",
                ),
            ],
            outputs=[Tokens.Output("tokens", display_name="image tokens", tooltip="The tokens.")],
        )

    @classmethod
    def execute(
        cls, tokenizer: host.Tokenizer, image: Tensor, model: host.ScaleModel | None = None
    ) -> io.NodeOutput:
        check_image(image, tokenizer, model)
        scales = () if model is None else (model.module.params.scales,)
        image_BCHW = image.movedim(-1, 1)

        def rows(start: int, stop: int) -> ImageTokens:
            part = image[start:stop]
            needed = tokenizer.vae.memory_used_encode(image_BCHW[start:stop].shape, torch.float32)
            with host.loaded(tokenizer, memory_required=needed) as device:
                return tokenizer.module.encode(part.to(device), *scales)

        return io.NodeOutput(ImageTokens.joined(host.in_parts(rows, 0, len(image))))


class DecodeTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenDecodeTokens",
            display_name="Decode Image Tokens",
            category="mmgen/tokens",
            description="Turns image tokens into pictures.",
            search_aliases=["var", "detokenize", "decode", "tokens to image", "vq"],
            inputs=[
                Tokenizer.Input("tokenizer", tooltip="The tokenizer the tokens were made with."),
                Tokens.Input("tokens", tooltip="Image tokens of a sampler or an encoder."),
            ],
            outputs=[io.Image.Output("image", tooltip="The pictures.")],
        )

    @classmethod
    def execute(cls, tokenizer: host.Tokenizer, tokens: ImageTokens) -> io.NodeOutput:
        with host.loaded(tokenizer) as device:
            f_hat = tokenizer.module.features(tokens, device)
        # The stock VAE decodes row by row, or in tiles, where memory does not suffice.
        return io.NodeOutput(tokenizer.vae.decode(f_hat))


def check_image(
    image_BHWC: Tensor, tokenizer: host.Tokenizer, model: host.ScaleModel | None
) -> None:
    """Raise ValueError for pictures with alpha, or of another size than the model draws."""
    _, height, width, channels = image_BHWC.shape
    if channels != 3:
        raise ValueError(
            f"The picture has {channels} channels; the tokenizer takes 3 (red, green, blue). "
            f"Remove alpha with the stock node Split Image with Alpha."
        )
    if model is None:
        return
    if not isinstance(tokenizer.module, MultiScaleVQ):
        raise ValueError(
            f"{model.file} is a scale model; {tokenizer.file} is not its tokenizer. Disconnect "
            f"the model, or load the multi-scale VQ-VAE of the model."
        )
    side = model.module.params.scales[-1] * tokenizer.module.stride
    if (height, width) != (side, side):
        raise ValueError(
            f"The picture is {width} x {height} pixels, but {model.file} draws {side} x {side}. "
            f"Scale or crop it first, for example with Upscale Image (crop: center)."
        )
