"""Tiny random models of Chameleon's family in the published layouts, with text tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file

from mmgen_core.models.decoder import Decoder, DecoderParams
from mmgen_core.systems import chameleon
from mmgen_core.systems.vqgan import HF_PREFIX
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.vqgan import VQGAN, VQGANParams, split_attention
from mmgen_core.training.chameleon_data import train_tokenizer

CODES, SIDE, STRIDE = 24, 16, 4
TEXTS = ("a red fox in noto style", "what is this? a blue bird", "a story of two birds")
CONFIG = {
    "image_size": SIDE,
    "max_position_embeddings": 120,
    "vq_config": {"norm_num_groups": 4},
}


def vqgan_tensors(seed: int = 0, codes: int = CODES) -> dict[str, torch.Tensor]:
    """Stride 4."""
    autoencoder = AutoencoderParams(8, (1, 1, 2), 1, 8, 4, attention=(2,))
    module = tiny.randomise(VQGAN(VQGANParams(autoencoder, codes, 6)), seed)
    return split_attention(module.state_dict())


def params(vocab: int, codes: int = CODES, **switches) -> DecoderParams:
    return DecoderParams(
        2,
        32,
        4,
        2,
        48,
        vocab,
        head_blocks=chameleon.head_blocks(vocab, codes),
        qk_norm="per head",
        **switches,
    )


def decoder_tensors(vocab: int, seed: int = 1, **switches) -> dict[str, torch.Tensor]:
    found = params(vocab, **switches)
    return chameleon.publish(tiny.randomise(Decoder(found), seed).state_dict(), found)


def write_chameleon(folder: Path, name: str = "tiny_chameleon", seed: int = 1) -> Path:
    """A file of Hugging Face's layout with its image tokenizer, and the text tokenizer beside."""
    beside = folder / f"{name}.tokenizer.json"
    train_tokenizer(TEXTS, CODES, 20, beside)
    vocab = 1 + max(json.loads(beside.read_text("utf-8"))["model"]["vocab"].values())
    tensors = decoder_tensors(vocab, seed)
    tensors["lm_head.weight"][4 + CODES + 1] *= 6  # opens pictures often
    tensors |= {f"{HF_PREFIX}{key}": tensor for key, tensor in vqgan_tensors().items()}
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"config": json.dumps(CONFIG)})
    return path
