"""Tiny random models in the published key layout, for tests that must not wait for real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.systems.var import publish_tokenizer, publish_transformer
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.multiscale_vq import MultiScaleVQ, MultiScaleVQParams

SCALES = (1, 2, 3, 4, 6, 8)
CLASSES = ("smiling face", "sad face", "heart", "moon", "flower", "tree", "cat", "fish")
TOKENIZER, MODEL = "mmgen_demo_vae.safetensors", "mmgen_demo_var.safetensors"


def random_module(module: nn.Module, seed: int) -> nn.Module:
    """Weights that give a varied picture: norms near one, the rest small and random."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        norm = "norm" in name and name.endswith("weight")
        parameter.data = 1 + 0.1 * noise if norm else noise * (fan_in**-0.5 if fan_in > 1 else 0.1)
    return module


def save(path: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    return path


def write_tokenizer(path: Path, seed: int = 0, vocab: int = 64) -> Path:
    autoencoder = AutoencoderParams(
        channels=16, multipliers=(1, 1, 1, 1, 2), blocks=1, latent_channels=32, norm_groups=8
    )
    params = MultiScaleVQParams(autoencoder, vocab, scales=SCALES)
    module = random_module(MultiScaleVQ(params), seed)
    config = {"norm_num_groups": 8, "v_patch_nums": list(SCALES)}
    return save(path, publish_tokenizer(module.state_dict(), params), config)


def write_model(path: Path, seed: int = 1, vocab: int = 64) -> Path:
    params = ScaleTransformerParams(
        depth=2,
        width=64,
        heads=2,
        vocab=vocab,
        code_channels=32,
        scales=SCALES,
        classes=len(CLASSES),
    )
    module = random_module(ScaleTransformer(params), seed)
    for name, parameter in module.named_parameters():
        if name.endswith("qkv.bias"):
            parameter.data[64:128] = 0  # the layout has no place for a key bias
    config = {"patch_nums": list(SCALES), "num_heads": 2, "classes": list(CLASSES)}
    return save(path, publish_transformer(module.state_dict(), params), config)


def write_pair(folder: Path) -> None:
    write_tokenizer(folder / TOKENIZER)
    write_model(folder / MODEL)


