"""SEED tokenizers from their files to the memory manager, and what they mean to stock models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import comfy.model_base
import comfy.model_management
import torch
from torch import Tensor

from ...mmgen_core.systems import identify
from ...mmgen_core.systems.seed import check_vision, joined_files
from ...mmgen_core.tokenizers.seed import IMAGE_EMBEDDING, SeedImageTokenizer
from .loading import fill, fill_transformer, read_model_file
from .precision import DTYPES, Precision

KIND, VISION_KIND = "SEED tokenizer", "vision transformer"


@dataclass(frozen=True, eq=False)
class SeedCodec:
    """A SEED tokenizer known to the memory manager, where other tokenizers stand, too.

    Attributes:
        patchers: of the tokenizer, and of the vision transformer where there is one.
    """

    patchers: tuple[Any, ...]
    file: str

    @property
    def patcher(self) -> Any:
        return self.patchers[0]

    def get_models(self) -> list[Any]:
        """For ComfyUI, which protects the models of a running prompt."""
        return list(self.patchers)

    @property
    def module(self) -> SeedImageTokenizer:
        vision = self.patchers[1].model if len(self.patchers) > 1 else None
        return SeedImageTokenizer(self.patcher.model, vision, self.file)

    @property
    def name(self) -> str:
        return f"{self.file} (SEED-{self.module.params.generation})"

    @property
    def vae(self) -> Any:
        """What nodes for tokens with pixels ask for.

        Raises:
            ValueError: always, with the nodes to use.
        """
        raise ValueError(
            f"{self.name} holds meanings, not pixels, so this node cannot use it. Encode with "
            f"Encode Image to SEED Tokens; decode with SEED Tokens to Conditioning (SD 1.x) or "
            f"SEED Tokens to Image Embedding (unCLIP) and a KSampler."
        )


def checked_seed(tokenizer: Any) -> SeedCodec:
    """Raise ValueError for tokenizers of another kind."""
    if not isinstance(tokenizer, SeedCodec):
        raise ValueError(
            f"{tokenizer.file} is an image tokenizer with pixels; this node needs one from Load "
            f"SEED Tokenizer."
        )
    return tokenizer


def load_seed_tokenizer(
    name: str, vision_name: str | None, qformer_name: str | None, dtype: str, codes_dtype: str
) -> SeedCodec:
    """Load a tokenizer of one, two or three files.

    Args:
        vision_name: None leaves the vision transformer out, ``name`` takes it from the same file.
        qformer_name: a second tokenizer file, as SEED-1 has it.
    """
    parts = [read_model_file(other) for other in (qformer_name, name) if other]
    checkpoint = joined_files(parts)
    match = identify(checkpoint, KIND)
    device = comfy.model_management.get_torch_device()
    devices = (device, comfy.model_management.unet_offload_device())
    vision = ()
    if vision_name is not None:
        source = checkpoint if vision_name == name else read_model_file(vision_name)
        seen = identify(source, VISION_KIND)
        check_vision(seen.params, match.params, (vision_name, name))
        vision = (fill_transformer(source, seen, dtype),)
    codes = Precision(DTYPES[codes_dtype], DTYPES[codes_dtype])
    # Casting layers, since the file's dtype need not be the one codes are chosen in.
    patcher = fill(match, checkpoint, codes, devices, lambda module: module, always_cast=True)
    return SeedCodec((patcher, *vision), name)


def check_seed_target(codec: SeedCodec, model: Any) -> None:
    """Raise ValueError where a stock diffusion MODEL does not take the tokens' condition."""
    base, params = model.model, codec.module.params
    unet = getattr(base, "diffusion_model", None)
    width = params.detokenizer.condition_width
    described = f"{codec.name} writes {params.condition}"
    if params.generation == IMAGE_EMBEDDING:
        augmentor = getattr(base, "noise_augmentor", None)
        is_unclip = isinstance(base, comfy.model_base.SD21UNCLIP)
        if is_unclip and augmentor.time_embed.dim == width:
            return
        if is_unclip:
            found = f"an unCLIP model for embeddings of {augmentor.time_embed.dim} values"
            raise ValueError(f"{described}, the MODEL is {found}. Use sd21-unclip-h.ckpt.")
        raise ValueError(
            f"{described}, the MODEL is {described_model(base)}. Load Stable Diffusion 2.1 unCLIP "
            f"(sd21-unclip-h.ckpt) with unCLIPCheckpointLoader, or use a SEED-1 tokenizer with "
            f"Stable Diffusion 1.x."
        )
    found = context_width(unet)
    if isinstance(base, comfy.model_base.SD21UNCLIP) or found != width:
        raise ValueError(
            f"{described}, the MODEL is {described_model(base)}. Load a Stable Diffusion 1.4 or "
            f"1.5 model, or use a SEED-2 tokenizer with Stable Diffusion 2.1 unCLIP."
        )


def context_width(unet: Any) -> int | None:
    """Width of the text features that a U-Net reads; None if it is no such net."""
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_k"):
            return module.in_features
    return None


def described_model(base: Any) -> str:
    """A stock diffusion model in words: its class and what it reads."""
    width = context_width(base.diffusion_model)
    reads = f", which reads text features of width {width}" if width else ""
    name = type(base).__name__
    if name == "BaseModel":  # what ComfyUI makes of Stable Diffusion 1.x and 2.x
        name = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}.get(width, name)
    return f"{name}{reads}"


def clip_vision_output(embedding_BC: Tensor) -> list[Any]:
    """One stock CLIP_VISION_OUTPUT per picture, with nothing but an image embedding: several
    embeddings in one would be summed up by the stock nodes."""
    outputs = []
    for row in embedding_BC.float().to(comfy.model_management.intermediate_device()):
        output = comfy.clip_vision.Output()
        output.image_embeds = row[None]
        outputs.append(output)
    return outputs


def seed_encode_bytes(codec: SeedCodec, pictures: int) -> float:
    """What encoding needs beside the weights: a few states per token of every picture."""
    vision = codec.module.vision
    if vision is None:
        return 0
    p = vision.params
    size = torch.finfo(vision.compute_dtype).bits // 8
    return pictures * (1 + p.grid**2) * (6 * p.width + 2 * p.hidden) * size
