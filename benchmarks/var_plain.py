"""A straightforward next-scale sampler: what one writes first, and the yardstick without a peer.

Modulation recomputed at every scale, caches grown by concatenation, a full sort for the filters,
pixels decoded in the contiguous layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmgen_core.decoding.next_scale import ScaleSampling
from mmgen_core.models.scale_transformer import ScaleTransformer
from mmgen_core.tokenizers.multiscale_vq import MultiScaleVQ
from mmgen_core.tokenizers.residual_quantizer import next_input


@torch.inference_mode()
def plain_generate(
    model: ScaleTransformer,
    tokenizer: MultiScaleVQ,
    classes: Sequence[int],
    seed: int,
    sampling: ScaleSampling,
) -> Tensor:
    """Pictures [B, H, W, 3] in 0..1."""
    p, batch, device = model.params, len(classes), model.pos_start.device
    rows = torch.tensor([*classes, *[p.classes] * batch], device=device)
    generator = torch.Generator(device).manual_seed(seed)
    caches: list = [None] * p.depth
    f_hat = torch.zeros(batch, p.code_channels, p.scales[-1], p.scales[-1], device=device)
    for scale, side in enumerate(p.scales):
        condition = model.condition(rows)
        x = condition.first
        if scale:
            x = model.embed(next_input(f_hat, (side, side)), scale).repeat(2, 1, 1)
        for i, block in enumerate(model.blocks):
            x, caches[i] = plain_block(block, x, condition.blocks[i], caches[i])
        cond, uncond = model.logits(x, condition).chunk(2)
        t = sampling.guidance * scale / (len(p.scales) - 1)
        ids = plain_draw((1 + t) * cond - t * uncond, sampling, generator)
        h = tokenizer.quantize.lookup(ids.view(batch, side, side))
        f_hat = f_hat + tokenizer.quantize.upsampled(h, scale, len(p.scales), f_hat.shape[-2:])
    return tokenizer.decode_features(f_hat)


def plain_block(block, x: Tensor, cond, cache) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    attn = block.attn
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * cond.norm_attn + cond.shift_attn
    q, k, v = attn.qkv(h).view(*h.shape[:2], 3, attn.heads, -1).permute(2, 0, 3, 1, 4)
    scale = attn.scale_mul_1H11.clamp(max=math.log(100)).exp()
    q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    if cache is not None:
        k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
    h = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
    x = x + attn.proj(h) * cond.gate_attn
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * cond.norm_ffn + cond.shift_ffn
    return x + block.ffn(h) * cond.gate_ffn, (k, v)


def plain_draw(logits: Tensor, sampling: ScaleSampling, generator: torch.Generator) -> Tensor:
    low = logits < logits.topk(sampling.top_k).values[..., -1:]
    logits = logits.masked_fill(low, -torch.inf)
    values, order = logits.sort(-1)
    drop = values.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
    drop[..., -1] = False
    logits = logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)
    probabilities = logits.softmax(-1).flatten(0, 1)
    return torch.multinomial(probabilities, 1, generator=generator)
