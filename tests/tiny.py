"""Tiny random models in the published layouts, for tests that need some model, not a good one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmgen_core.checkpoints.architecture import load_state
from mmgen_core.checkpoints.files import Checkpoint
from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.systems import identify, var
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.multiscale_vq import MultiScaleVQ, MultiScaleVQParams

SCALES = (1, 2, 3, 4)


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights large enough that logits differ clearly and classes matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 8
        values = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        parameter.data.copy_(values)
        parameter.requires_grad_(False)
    for name, parameter in module.named_parameters():
        if name.endswith("attn.qkv.bias"):
            parameter.data.view(3, -1)[1] = 0
    return module.eval()


def tokenizer_tensors(seed: int = 0, vocab: int = 32) -> dict[str, torch.Tensor]:
    """A tokenizer file's tensors: stride 4, 16 px pictures, four scales."""
    params = MultiScaleVQParams(AutoencoderParams(8, (1, 1, 2), 1, 8, 4), vocab, scales=SCALES)
    module = randomise(MultiScaleVQ(params), seed)
    return var.publish_tokenizer(module.state_dict(), params)


def transformer_tensors(seed: int = 1, classes: int = 5, vocab: int = 32, shared: bool = False):
    params = ScaleTransformerParams(2, 32, 2, vocab, 8, SCALES, classes, shared_adaln=shared)
    module = randomise(ScaleTransformer(params), seed)
    return var.publish_transformer(module.state_dict(), params)


TOKENIZER_CONFIG = {"norm_num_groups": 4, "v_patch_nums": list(SCALES)}
TRANSFORMER_CONFIG = {
    "patch_nums": list(SCALES),
    "classes": ["red", "green", "blue", "sun", "moon"],
}


def write(path: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    return path


def module_of(tensors: dict[str, torch.Tensor], config: dict) -> torch.nn.Module:
    checkpoint = Checkpoint(Path("tiny.safetensors"), tensors, config)
    match = identify(checkpoint)
    module = match.architecture.module(match.params, torch.float32, "meta")
    load_state(module, match, checkpoint)
    return module.eval().requires_grad_(False)


def tokenizer(seed: int = 0, vocab: int = 32) -> MultiScaleVQ:
    return module_of(tokenizer_tensors(seed, vocab), TOKENIZER_CONFIG)


def transformer(seed: int = 1, **sizes) -> ScaleTransformer:
    return module_of(transformer_tensors(seed, **sizes), TRANSFORMER_CONFIG)
