"""VQGAN files of Chameleon, ANOLE and Lumina-mGPT: Meta's vqgan.ckpt, and the picture part of
Hugging Face files, with a decoder (the community's ANOLE) or without (Meta's Chameleon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..checkpoints.architecture import Architecture
from ..checkpoints.files import Checkpoint
from ..tokenizers.vqgan import (
    VQGAN,
    VQGANParams,
    codebook_fingerprint,
    fuse_attention,
    split_attention,
    vqgan_params,
)

HF_PREFIX = "model.vqmodel."
LICENCE = "Chameleon Research License (non-commercial research)"


def recognise(checkpoint: Checkpoint) -> VQGANParams | None:
    shapes = {key.removeprefix(HF_PREFIX): shape for key, shape in checkpoint.shapes.items()}
    params = vqgan_params(shapes)
    if params is None:
        return None
    config = checkpoint.config.get("vq_config", checkpoint.config)
    groups = config.get("norm_num_groups", 32)
    return replace(params, autoencoder=replace(params.autoencoder, norm_groups=groups))


PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.embedding.")


def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix off, attention fused. Training snapshots hold more than the tokenizer under names
    that no list tells (losses, averages); as in the reference, only the tokenizer's are read."""
    named = {key.removeprefix(HF_PREFIX): value for key, value in tensors.items()}
    return fuse_attention({key: value for key, value in named.items() if key.startswith(PARTS)})


def publish(state: Mapping[str, Tensor], params: VQGANParams) -> dict[str, Tensor]:
    return split_attention(state)


ARCHITECTURES = (
    Architecture(
        name="VQGAN tokenizer",
        kind="image tokenizer",
        recognise=recognise,
        module=VQGAN,
        convert=convert,
        publish=publish,
        licence=LICENCE,
        origin="https://huggingface.co/leloy/Anole-7b-v0.1-vqvae-hf",
        ignored={
            "loss.*": "discriminator and perceptual loss, used in training only",
            "model.layers.*": "the transformer of the same file, loaded by Load Next-Token Model",
            "model.embed_tokens.weight": "the transformer's",
            "model.norm.weight": "the transformer's",
            "lm_head.weight": "the transformer's",
        },
        fingerprint=lambda state: codebook_fingerprint(state["quantize.embedding.weight"]),
    ),
)
