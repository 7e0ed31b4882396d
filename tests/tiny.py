"""Tiny random models in the published layouts, for tests that need some model, not a good one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmgen_core.checkpoints.architecture import load_state
from mmgen_core.checkpoints.files import Checkpoint
from mmgen_core.conditioners.scale_prompt import TextFeatures
from mmgen_core.models.scale_attention import RotaryParams
from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.systems import identify, star, var
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
        if name.endswith("cross_attn.kv.bias"):
            parameter.data.view(2, -1)[0] = 0
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


def star_params(text_width: int = 12, refine_from: int | None = None) -> ScaleTransformerParams:
    return ScaleTransformerParams(
        2,
        32,
        2,
        32,
        8,
        SCALES,
        text_width=text_width,
        rotary=RotaryParams(),
        refine_from=refine_from,
        smooth_filtered=False,
    )


def star_tensors(seed: int = 2, text_width: int = 12) -> dict[str, torch.Tensor]:
    params = star_params(text_width)
    return star.publish(randomise(ScaleTransformer(params), seed).state_dict(), params)


TOKENIZER_CONFIG = {"norm_num_groups": 4, "v_patch_nums": list(SCALES)}
TRANSFORMER_CONFIG = {
    "patch_nums": list(SCALES),
    "classes": ["red", "green", "blue", "sun", "moon"],
}


STAR_CONFIG = {"patch_nums": list(SCALES)}


def write(path: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    return path


def write_snapshot(path: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    """A training snapshot, as STAR's public files are."""
    inner = {"var_wo_ddp": tensors, "config": config}
    torch.save({"epoch": 3, "iter": 20000, "trainer": inner}, path)
    return path


def checkpoint_of(tensors: dict[str, torch.Tensor], config: dict) -> Checkpoint:
    return Checkpoint(Path("tiny.safetensors"), tensors, config)


def module_of(tensors: dict[str, torch.Tensor], config: dict) -> torch.nn.Module:
    checkpoint = checkpoint_of(tensors, config)
    match = identify(checkpoint)
    module = match.architecture.module(match.params, torch.float32, "meta")
    load_state(module, match, checkpoint)
    return module.eval().requires_grad_(False)


def tokenizer(seed: int = 0, vocab: int = 32) -> MultiScaleVQ:
    return module_of(tokenizer_tensors(seed, vocab), TOKENIZER_CONFIG)


def transformer(seed: int = 1, **sizes) -> ScaleTransformer:
    return module_of(transformer_tensors(seed, **sizes), TRANSFORMER_CONFIG)


def star_model(seed: int = 2, text_width: int = 12) -> ScaleTransformer:
    return module_of(star_tensors(seed, text_width), STAR_CONFIG)


def refined_star_model(seed: int = 2, text_width: int = 12) -> ScaleTransformer:
    """With the refiner from the third scale on; no file layout of it is published from here."""
    return randomise(ScaleTransformer(star_params(text_width, refine_from=2)), seed)


def texts(lengths: list[int], seed: int = 0, width: int = 12) -> TextFeatures:
    """Random features, one text per length; padding holds large values that may not matter."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(lengths), max(lengths), width, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden = torch.where(mask[..., None], hidden, torch.tensor(50.0))
    return TextFeatures(hidden, torch.randn(len(lengths), width, generator=generator), mask)
