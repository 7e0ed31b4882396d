"""What the scale sampler announces to the memory manager covers what it takes."""

from __future__ import annotations

import pytest
import tiny
import torch
from live_bytes import LiveBytes

from mmgen_core.conditioners.scale_prompt import ClassPrompt, TextFeatures, TextPrompt
from mmgen_core.decoding.next_scale import ScaleSampling, generate, memory_required
from mmgen_core.models.scale_attention import RotaryParams
from mmgen_core.models.scale_transformer import ScaleTransformer, ScaleTransformerParams
from mmgen_core.tokenizers.autoencoder import AutoencoderParams
from mmgen_core.tokenizers.multiscale_vq import PUBLISHED_SCALES, MultiScaleVQ, MultiScaleVQParams

SCALES = PUBLISHED_SCALES[16]
VOCAB, LENGTH, TEXT_WIDTH = 512, 77, 64


@pytest.fixture(scope="module")
def tokenizer():
    autoencoder = AutoencoderParams(8, (1, 1, 2), 1, 8, 4)
    return tiny.randomise(MultiScaleVQ(MultiScaleVQParams(autoencoder, VOCAB, scales=SCALES)), 0)


def model(kind: str, depth: int, width: int, dtype: torch.dtype) -> ScaleTransformer:
    of_text = {"text_width": TEXT_WIDTH, "rotary": RotaryParams(), "smooth_filtered": False}
    extra = {"var": {"classes": 10}, "star": of_text, "refined": of_text | {"refine_from": 9}}
    params = ScaleTransformerParams(depth, width, width // 32, VOCAB, 8, SCALES, **extra[kind])
    module = tiny.randomise(ScaleTransformer(params, dtype), 1)
    return module


def prompt(kind: str, batch: int) -> ClassPrompt | TextPrompt:
    if kind == "var":
        return ClassPrompt([1] * batch)
    numbers = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, LENGTH, TEXT_WIDTH, generator=numbers)
    text = TextFeatures(hidden, hidden[:, 5], torch.arange(LENGTH)[None] < 6)
    return TextPrompt(text, text, attended=2).expand(batch)


@pytest.mark.parametrize(
    ("kind", "depth", "width", "batch", "sampling"),
    [
        ("var", 4, 128, 2, ScaleSampling()),
        ("var", 2, 32, 1, ScaleSampling(1.5, 0, 0.6)),
        ("star", 16, 64, 1, ScaleSampling(4.0, 100, 0.8)),  # deep: the text's keys weigh in
        ("star", 4, 128, 2, ScaleSampling(4.0, 100, 0.8)),
        ("star", 2, 64, 1, ScaleSampling(4.0, 0, 0.8, smooth=True)),
        ("star", 2, 128, 1, ScaleSampling(0.0, 0, 0.0)),
        ("refined", 2, 128, 1, ScaleSampling(4.0, 100, 0.8, mode="1024")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_announced_memory_covers_the_peak(tokenizer, kind, depth, width, batch, sampling, dtype):
    module, asked = model(kind, depth, width, dtype), prompt(kind, batch)
    length = 0 if kind == "var" else asked.length
    announced = memory_required(module, batch, sampling.guidance > 0, sampling, length)
    with LiveBytes() as memory:
        generate(module, tokenizer, asked, 0, sampling)
    assert memory.peak <= announced <= 3 * memory.peak
